"""Numpy's RandomState, draw for draw, at a fraction of its price for single numbers.

Both are the Mersenne Twister: Python's `random.Random` gives the same doubles from the same state, and `getrandbits(32)` the
same words. Only the seeding differs, so that one is numpy's.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

WORDS = 625
"""The twister's 624 words and its index."""
_PACKED = struct.Struct(f"<{WORDS}I")

STATE_BYTES = _PACKED.size

State = tuple[Any, ...]
"""What `random.Random.getstate` gives."""


def seeded(seed: int) -> random.Random:
    """The generator that gives what `numpy.random.RandomState(seed)` gives."""
    _, words, index, *_ = np.random.RandomState(seed).get_state(legacy=True)
    rng = random.Random()
    rng.setstate((3, (*np.asarray(words).tolist(), int(index)), None))
    return rng


def below(rng: random.Random, n: int) -> int:
    """What `RandomState.randint(0, n)` gives: the low bits of a word, drawn again until they fit; no draw for n = 1."""
    if n == 1:
        return 0
    mask = (1 << (n - 1).bit_length()) - 1
    while (drawn := rng.getrandbits(32) & mask) >= n:
        pass
    return drawn


def block(rng: random.Random, count: int) -> int:
    """Draw as much as `random_sample(count)` does, at once; `doubles` tells the values."""
    return rng.getrandbits(64 * count)


def doubles(block: int, count: int) -> npt.NDArray[np.float64]:
    """The values in [0, 1) of a block of draws: float64 [count]."""
    words = np.frombuffer(block.to_bytes(8 * count, "little"), "<u4")
    return ((words[0::2] >> 5) * 67108864.0 + (words[1::2] >> 6)) / 9007199254740992.0


def pack(state: State) -> bytes:
    """A generator's state as STATE_BYTES bytes."""
    return _PACKED.pack(*state[1])


def unpack(packed: bytes) -> State:
    """The state of `pack`, for `random.Random.setstate`, which raises ValueError for an index that cannot be."""
    return (3, _PACKED.unpack(packed), None)

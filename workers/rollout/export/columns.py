"""Numbers about many lines, a few bytes each, and the random draws over them."""

from __future__ import annotations

from array import array
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Draw(IntEnum):
    """What a random number is for: draws for different things have nothing to do with one another, whatever their seeds."""

    SAMPLE = 1
    SHUFFLE = 2
    SPLIT = 3


def uniform(seed: int, draw: Draw, count: int) -> Floats:
    """Numbers of at least 0 and below 1: the same ones for the same seed, on every machine.

    They are PCG64's raw output, 53 bits of each, which NumPy keeps the same from version to version.
    """
    raw = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(draw),))).random_raw(count)
    return np.asarray((raw >> np.uint64(11)).astype(np.float64) / 2.0**53)


def ints(column: array[int]) -> Ints:
    """A column of whole numbers as NumPy has it."""
    return np.array(column, dtype=np.int64)


def floats(column: array[float]) -> Floats:
    """A column of numbers as NumPy has it."""
    return np.frombuffer(column, dtype=np.float64) if column else np.zeros(0)

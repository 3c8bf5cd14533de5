"""Which samples each step takes: an order that an epoch's number and the seed give, so that whoever goes on gets the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

WINDOW: Final = 16
"""Steps whose samples are put together by length. More would waste less on padding, and make an order that is less random."""


def steps_of(lengths: Sequence[int], *, seed: int, epoch: int, batch: int, batches: int) -> list[list[int]]:
    """Numbers of the samples of each step of an epoch, every sample once.

    A step has ``batches`` batches of ``batch`` samples that are about of one length; the last step has what is left.
    """
    draw = np.random.default_rng([seed, epoch])
    order, per_window = draw.permutation(len(lengths)), WINDOW * batch * batches
    cut: list[list[int]] = []
    for start in range(0, len(order), per_window):
        window = sorted(order[start : start + per_window].tolist(), key=lambda number: lengths[number])
        cut += [window[at : at + batch] for at in range(0, len(window), batch)]
    mixed = [cut[place] for place in draw.permutation(len(cut))]
    return [[number for each in mixed[at : at + batches] for number in each] for at in range(0, len(mixed), batches)]

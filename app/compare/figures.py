"""The figures of an arm: numbers made of sums over episodes, for one arm or for thousands of resamples at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from app.compare.arms import Floats, Sums


def crafter_score(rates: Floats) -> Floats:
    """[rows] from rates [rows, achievements]: the score of ``app.scores.crafter_score``, in percent, of each row."""
    return np.asarray(np.expm1(np.log1p(100.0 * rates).mean(axis=1)))


FIGURES: Final[Mapping[str, Callable[[Sums], Floats]]] = {
    "crafter_score": lambda sums: crafter_score(sums.rates),
    "achievements": lambda sums: sums.rates.sum(axis=1),
    "progress": lambda sums: sums.rates.mean(axis=1),
    "return": lambda sums: sums.return_ / sums.episodes,
    "turns": lambda sums: sums.turns / sums.episodes,
    "length": lambda sums: sums.length / sums.episodes,
}
"""Every figure by name, a number for each row: the Crafter score in percent, and means over episodes of achievements unlocked,
of their share of all, of the environment's own reward, of turns and of game steps."""


OF_ACHIEVEMENTS: Final = ("crafter_score", "achievements", "progress")
"""Figures that an environment without achievements does not have."""


def figures(sums: Sums) -> dict[str, Floats]:
    """Every figure that there is, [rows] each."""
    without = () if sums.unlocked.shape[1] else OF_ACHIEVEMENTS
    return {name: of(sums) for name, of in FIGURES.items() if name not in without}

"""Intervals by drawing the seeds again: the same draws for every arm, so that a difference is taken seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

from app.compare.arms import Floats, Sums
from app.compare.figures import figures

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 10_000
KEY: Final = 20_111
"""Keys the draws: the same episodes give the same intervals, always."""
CELLS_AT_ONCE: Final = 4_000_000
"""Draws that are held in memory at once."""
_NORMAL: Final = NormalDist()


def draws(seeds: int, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """How often each seed is in each resample, [some resamples, seeds] at a time."""
    random = np.random.default_rng([KEY, seeds])
    most = max(1, CELLS_AT_ONCE // seeds)
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        picked = random.integers(seeds, size=(rows, seeds)) + seeds * np.arange(rows)[:, None]
        yield np.bincount(picked.ravel(), minlength=rows * seeds).reshape(rows, seeds).astype(np.float64)


def resampled(tables: Sequence[Sums]) -> list[tuple[dict[str, Floats], Floats]]:
    """For each table [seeds]: every figure [resamples] and the rates [resamples, achievements], all of the same draws."""
    parts: list[list[Sums]] = [[] for _ in tables]
    for weights in draws(len(tables[0].episodes)):
        for part, table in zip(parts, tables, strict=True):
            part.append(table.rows(weights))
    whole = [_joined(part) for part in parts]
    return [(figures(each), each.rates) for each in whole]


def _joined(parts: Sequence[Sums]) -> Sums:
    names = ("episodes", "return_", "length", "turns", "unlocked")
    return Sums(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def interval(values: Floats, seeds: int) -> tuple[Floats, Floats]:
    """The ends of the 95 % interval of each column of ``values`` [resamples, ...].

    The percentile bootstrap, its tails moved outward to where Student's t would have them: the plain one is too narrow for few
    seeds, as a standard deviation is that is divided by n.
    """
    tail = _NORMAL.cdf(-np.sqrt(seeds / (seeds - 1)) * student(seeds - 1))
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t, by Cornish and Fisher's series: within 0.01 from 4 degrees of freedom on."""
    z = _NORMAL.inv_cdf(0.5 + CONFIDENCE / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def told(mean: float, ends: tuple[float, float] | None) -> Mapping[str, float | None]:
    """A figure as it is told: without an interval where there is none to tell."""
    return {"mean": float(mean), "low": float(ends[0]) if ends else None, "high": float(ends[1]) if ends else None}

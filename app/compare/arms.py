"""What is compared: arms, each a policy of a job with what it played, and the sums over a seed that every figure is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What one episode came to that was played to its end."""

    seed: int
    achievements: frozenset[str]
    return_: float
    """Sum of the environment's own rewards."""
    length: int
    """Game steps."""
    turns: int
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Turns by outcome."""
    ended: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One side of a comparison."""

    label: str
    """Short, and no other arm's."""
    job: str
    name: str | None
    """The job's."""
    kind: str
    state: str
    """The job's."""
    policy: str
    iteration: int | None = None
    """Of an rl job: after how many updates it was evaluated."""
    versions: tuple[str, ...] = ()
    """What the policy said of itself: which rules, or which weights."""
    conditions: Mapping[str, Any]
    """What it was played under, by the key of the spec."""
    seeds: frozenset[int]
    """Those that it was asked to play."""
    per_seed: int
    """Episodes that it was asked to play of each."""
    plays: tuple[Play, ...]
    failed: int = 0
    """Episodes that could not be played to their end."""

    @property
    def asked(self) -> int:
        """Episodes that it was asked to play."""
        return len(self.seeds) * self.per_seed

    def whole(self) -> frozenset[int]:
        """The seeds of which it has played every episode that it was asked for."""
        counts = Counter(play.seed for play in self.plays)
        return frozenset(seed for seed in self.seeds if counts[seed] >= self.per_seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sums over the episodes of each row, which is a seed, or a resample of seeds."""

    episodes: Floats
    """[rows]"""
    return_: Floats
    length: Floats
    turns: Floats
    unlocked: Floats
    """[rows, achievements]: episodes that unlocked each."""

    @property
    def rates(self) -> Floats:
        """[rows, achievements]: share of the episodes that unlocked each."""
        return np.asarray(self.unlocked / self.episodes[:, None])

    def rows(self, weights: Floats) -> Sums:
        """Sums of these rows, each counted as often as ``weights`` [new rows, rows] says."""
        return Sums(
            episodes=weights @ self.episodes,
            return_=weights @ self.return_,
            length=weights @ self.length,
            turns=weights @ self.turns,
            unlocked=weights @ self.unlocked,
        )


def sums(plays: Sequence[Play], seeds: Sequence[int], achievements: Sequence[str]) -> Sums:
    """A row for each seed, in their order; episodes of other seeds count for nothing."""
    row = {seed: place for place, seed in enumerate(seeds)}
    column = {name: place for place, name in enumerate(achievements)}
    found = Sums(
        episodes=np.zeros(len(seeds)),
        return_=np.zeros(len(seeds)),
        length=np.zeros(len(seeds)),
        turns=np.zeros(len(seeds)),
        unlocked=np.zeros((len(seeds), len(achievements))),
    )
    for play in plays:
        at = row.get(play.seed)
        if at is None:
            continue
        found.episodes[at] += 1
        found.return_[at] += play.return_
        found.length[at] += play.length
        found.turns[at] += play.turns
        for name in play.achievements:
            found.unlocked[at, column[name]] += 1
    return found

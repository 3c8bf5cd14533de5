"""How good were the episodes: means, rates and the Crafter score, each with a 95 % interval. Pure: lists in, numbers
out.

A rate has Wilson's interval. Everything else has the percentile bootstrap's: 2,000 resamples from a fixed seed, so
the same episodes always give the same numbers. Episodes of one seed are alike, so seeds are what is drawn again, each
with all its episodes; and a rate over several episodes a seed counts as fewer observations than episodes, by as much
as they agree. With one seed there is no interval to tell, and none is told (``low`` and ``high`` are None). With
fewer than about ten seeds the bootstrap's intervals are too narrow.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import UnknownName

CONFIDENCE = 0.95
RESAMPLES = 2_000
_Z = 1.959963984540054
"""The standard normal's 97.5 % point."""
_BOOTSTRAP_SEED = 20_111


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeScore:
    """What one episode came to."""

    seed: int
    member: int = 0
    policy: str = ""
    achievements: tuple[str, ...] = ()
    """Names of what was unlocked, each once."""
    return_: float = 0.0
    """Sum of the environment's own rewards."""
    length: int = 0
    """Game steps."""


def crafter_score(rates: Iterable[float]) -> float:
    """The Crafter score in percent: exp(mean of ln(1 + r)) - 1 over the rates in percent, given here as shares of 1.

    The official score takes the rates of all training episodes within a budget; this takes those of the episodes at
    hand.
    """
    logs = [math.log1p(100.0 * rate) for rate in rates]
    return math.expm1(math.fsum(logs) / len(logs))


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate. Both may be fractions: an effective number of trials is allowed."""
    rate, z2 = successes / trials, _Z * _Z
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def summarise(episodes: Sequence[EpisodeScore], all_achievements: Sequence[str]) -> dict[str, Any]:
    """Everything that is told about a set of episodes, JSON-able.

    ``achievements`` (mean number unlocked), ``progress`` (share of all), ``return``, ``length`` and ``crafter_score``
    (percent) are each ``{"mean", "low", "high"}``; ``achievement_rates`` has one of these per achievement, with its
    ``count``. Without episodes every figure is None. Raises UnknownName for an achievement that is not in
    ``all_achievements``.
    """
    names = list(all_achievements)
    table = _table(episodes, names)
    figures = {name: _figure(of(_total(table))) for name, of in _FIGURES.items()} if episodes else {}
    if len(table) > 1:
        draws = _resampled(table)
        for name, of in _FIGURES.items():
            figures[name].update(_interval([of(total) for total in draws]))
    return {
        "episodes": len(episodes),
        "seeds": len(table),
        "confidence": CONFIDENCE,
        **{name: figures.get(name, _figure(None)) for name in _FIGURES},
        "achievement_rates": {name: _rate(table, at) for at, name in enumerate(names)},
    }


def paired_difference(
    a: Sequence[EpisodeScore], b: Sequence[EpisodeScore], *, metrics: Sequence[str] = ("achievements", "return", "length")
) -> dict[str, Any]:
    """How much more ``b`` has than ``a`` on the seeds that both played, with the bootstrap's interval over seeds.

    A seed's value is the mean over its episodes, so both sides may have played a seed another number of times.
    ``unpaired`` are the seeds that only one side has; they count for nothing.
    """
    sides = [_by_seed(a), _by_seed(b)]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    result: dict[str, Any] = {"seeds": len(seeds), "unpaired": sorted(sides[0].keys() ^ sides[1].keys())}
    for metric in metrics:
        means = [{seed: _mean([_METRICS[metric](e) for e in side[seed]]) for seed in seeds} for side in sides]
        result[metric] = _figure_of_values([means[1][seed] - means[0][seed] for seed in seeds])
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Total:
    """Sums over some episodes."""

    episodes: int
    return_: float
    length: int
    counts: tuple[int, ...]
    """Episodes that unlocked each achievement."""


_FIGURES: dict[str, Callable[[_Total], float]] = {
    "achievements": lambda total: sum(total.counts) / total.episodes,
    "progress": lambda total: sum(total.counts) / total.episodes / len(total.counts),
    "return": lambda total: total.return_ / total.episodes,
    "length": lambda total: total.length / total.episodes,
    "crafter_score": lambda total: crafter_score(count / total.episodes for count in total.counts),
}
_METRICS: dict[str, Callable[[EpisodeScore], float]] = {
    "achievements": lambda episode: float(len(episode.achievements)),
    "return": lambda episode: episode.return_,
    "length": lambda episode: float(episode.length),
}


def _by_seed(episodes: Iterable[EpisodeScore]) -> dict[int, list[EpisodeScore]]:
    groups: dict[int, list[EpisodeScore]] = defaultdict(list)
    for episode in episodes:
        groups[episode.seed].append(episode)
    return dict(groups)


def _table(episodes: Sequence[EpisodeScore], names: list[str]) -> list[_Total]:
    """One row of sums per seed, in the order of the seeds."""
    for episode in episodes:
        for name in episode.achievements:
            if name not in names:
                raise UnknownName("achievement", name, names)
    return [_sums(group, names) for _, group in sorted(_by_seed(episodes).items())]


def _sums(group: Sequence[EpisodeScore], names: Sequence[str]) -> _Total:
    had = [frozenset(episode.achievements) for episode in group]
    return _Total(
        episodes=len(group),
        return_=math.fsum(episode.return_ for episode in group),
        length=sum(episode.length for episode in group),
        counts=tuple(sum(name in names_had for names_had in had) for name in names),
    )


def _total(table: Sequence[_Total]) -> _Total:
    return _Total(
        episodes=sum(row.episodes for row in table),
        return_=math.fsum(row.return_ for row in table),
        length=sum(row.length for row in table),
        counts=tuple(map(sum, zip(*(row.counts for row in table), strict=True))),
    )


_BITS = 64
_MICRO = 1e6
"""Returns are summed as whole millionths while resampling."""


def _resampled(table: Sequence[_Total]) -> list[_Total]:
    """The sums of ``RESAMPLES`` tables of as many seeds, drawn with replacement.

    A row becomes one integer with a field of 64 bits for each sum, so that adding two rows is one addition: a
    thousand seeds take well under a second. Returns are shifted to be positive first, and shifted back after.
    """
    shift = max(0.0, -min(row.return_ / row.episodes for row in table))
    packed = [_pack(row, shift) for row in table]
    rng = random.Random(_BOOTSTRAP_SEED)
    fields = 3 + len(table[0].counts)
    return [_unpack(sum(rng.choices(packed, k=len(packed))), fields, shift) for _ in range(RESAMPLES)]


def _pack(row: _Total, shift: float) -> int:
    micros = round((row.return_ + shift * row.episodes) * _MICRO)
    return sum(value << _BITS * at for at, value in enumerate((row.episodes, micros, row.length, *row.counts)))


def _unpack(packed: int, fields: int, shift: float) -> _Total:
    mask = (1 << _BITS) - 1
    episodes, micros, length, *counts = (packed >> _BITS * at & mask for at in range(fields))
    return _Total(episodes=episodes, return_=micros / _MICRO - shift * episodes, length=length, counts=tuple(counts))


def _rate(table: Sequence[_Total], at: int) -> dict[str, Any]:
    """One achievement's rate over the episodes, with Wilson's interval."""
    trials = sum(row.episodes for row in table)
    if not trials:
        return {**_figure(None), "count": 0}
    count = sum(row.counts[at] for row in table)
    rate = count / trials
    low, high = wilson(rate * (effective := _effective_trials(table, at, rate)), effective)
    return {"mean": rate, "low": low, "high": high, "count": count}


def _effective_trials(table: Sequence[_Total], at: int, rate: float) -> float:
    """How many independent episodes the rate is worth: fewer than there are when those of one seed agree."""
    trials, seeds = sum(row.episodes for row in table), len(table)
    if seeds in (1, trials) or rate in (0.0, 1.0):
        return float(seeds)
    spread = math.fsum((row.counts[at] - rate * row.episodes) ** 2 for row in table)
    variance = seeds / (seeds - 1) * spread / (trials * trials)
    return min(float(trials), rate * (1 - rate) / variance) if variance else float(trials)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _figure(mean: float | None) -> dict[str, float | None]:
    return {"mean": mean, "low": None, "high": None}


def _figure_of_values(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return _figure(None)
    figure = _figure(_mean(values))
    if len(values) > 1:
        rng = random.Random(_BOOTSTRAP_SEED)
        figure.update(_interval([sum(rng.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES)]))
    return figure


def _interval(resampled: list[float]) -> Mapping[str, float]:
    """The middle 95 % of resampled values."""
    ordered = sorted(resampled)
    tail = (1 - CONFIDENCE) / 2
    return {"low": _quantile(ordered, tail), "high": _quantile(ordered, 1 - tail)}


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)

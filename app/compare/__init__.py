"""Who played better: arms side by side on the same seeds, every difference with an interval. Pure: rows in, JSON out.

An arm is a policy of a job (app/compare/read.py finds it in the store). Only seeds count that every arm has played whole, so each
difference is taken seed by seed; docs/compare.md tells how the intervals are made and how often they are right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from app.compare import bootstrap, conditions
from app.compare.arms import Arm, Floats, Play, Sums, sums
from app.compare.figures import figures
from app.errors import InvalidInput, NotComparable
from app.specs import crafter

__all__ = ["Arm", "Play", "compare"]


def compare(arms: Sequence[Arm], achievements: Sequence[str], *, anyway: bool = False) -> dict[str, Any]:
    """The whole comparison of two arms or more. ``achievements``: all that can be unlocked, by name.

    Raises NotComparable for arms that were not played alike unless ``anyway``, InvalidInput for fewer than two arms, and for
    arms that share no seed.
    """
    if len(arms) < 2:
        raise InvalidInput(f"a comparison takes two arms or more, and {arms[0].label if arms else 'nothing'} is one")
    unlike = conditions.differences(arms)
    if not anyway and (unfair := [each for each in unlike if not each.fair]):
        raise NotComparable([str(each) for each in unfair])
    seeds = _seeds(arms)
    return {
        "arms": [_about(arm) for arm in arms],
        "seeds": _left_out(arms, seeds),
        "achievements": list(achievements),
        **_measured(arms, sorted(seeds), achievements),
        "conditions": conditions.shared(arms),
        "different": [{"key": each.key, "values": each.values, "fair": each.fair, "sentence": str(each)} for each in unlike],
        "notes": list(_notes(arms, seeds)),
        "method": {
            "confidence": bootstrap.CONFIDENCE,
            "resamples": bootstrap.RESAMPLES,
            "interval": "paired bootstrap over seeds, percentile with Student's tails",
        },
    }


# -- which seeds -----------------------------------------------------------------------------------------------------------


def _seeds(arms: Sequence[Arm]) -> frozenset[int]:
    """The seeds that every arm has played whole."""
    seeds = frozenset.intersection(*(arm.whole() for arm in arms))
    if not seeds:
        asked = frozenset.intersection(*(arm.seeds for arm in arms))
        why = "none of them is played whole by all yet" if asked else "they were asked to play others, each its own"
        raise InvalidInput(f"{_listed([arm.label for arm in arms])} have no seed in common: {why}")
    return seeds


def _left_out(arms: Sequence[Arm], seeds: frozenset[int]) -> dict[str, int]:
    every = frozenset.union(*(arm.seeds for arm in arms))
    common = frozenset.intersection(*(arm.seeds for arm in arms))
    return {"compared": len(seeds), "not_asked_of_all": len(every - common), "not_whole": len(common - seeds)}


def _notes(arms: Sequence[Arm], seeds: frozenset[int]) -> Iterator[str]:
    """What a reader must know beside the numbers, as sentences."""
    left = _left_out(arms, seeds)
    if count := left["not_asked_of_all"]:
        yield f"{count} seed{'s' * (count > 1)} left out that not all arms were asked to play"
    if count := left["not_whole"]:
        yield f"{count} seed{'s' * (count > 1)} left out of which an arm lacks episodes; what is left may be the easier part"
    for arm in arms:
        done = len(arm.plays)
        if done < arm.asked:
            failed = f", {arm.failed} failed" if arm.failed else ""
            yield f"{arm.label}: {done} of {arm.asked} episodes are done{failed}; its job {arm.job} is {arm.state}"
        if len(arm.versions) > 1:
            yield f"{arm.label} was played by {len(arm.versions)} versions: {_listed(arm.versions[:5])}"
    if any(arm.conditions["env"] not in crafter.NAMES for arm in arms):
        yield "progress and score are shares of the achievements that were seen here; synthq does not know them all"
    if len(seeds) == 1:
        yield "one seed gives no interval"
    elif len(seeds) < 10:
        yield f"{len(seeds)} seeds are few: intervals of fewer than 10 are not to be trusted"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# -- the numbers -----------------------------------------------------------------------------------------------------------


def _about(arm: Arm) -> dict[str, Any]:
    return {
        "label": arm.label,
        "job": arm.job,
        "name": arm.name,
        "kind": arm.kind,
        "state": arm.state,
        "policy": arm.policy,
        "iteration": arm.iteration,
        "versions": list(arm.versions),
        "asked": arm.asked,
        "done": len(arm.plays),
        "failed": arm.failed,
    }


def _measured(arms: Sequence[Arm], seeds: Sequence[int], achievements: Sequence[str]) -> dict[str, Any]:
    tables = [sums(arm.plays, seeds, achievements) for arm in arms]
    again = bootstrap.resampled(tables) if len(seeds) > 1 else None
    measured = [_Measured(table, again[place] if again else None, achievements) for place, table in enumerate(tables)]
    pairs = dict.fromkeys([(0, b) for b in range(1, len(arms))] + [(b - 1, b) for b in range(2, len(arms))])
    return {
        "results": {arm.label: measured[place].alone(_counted(arm, seeds)) for place, arm in enumerate(arms)},
        "differences": [{"a": arms[a].label, "b": arms[b].label, **measured[b].less(measured[a])} for a, b in pairs],
    }


class _Measured:
    """The figures of one arm on the seeds that are compared, and what they were in every resample."""

    def __init__(self, table: Sums, again: tuple[dict[str, Floats], Floats] | None, achievements: Sequence[str]) -> None:
        self.table, self.again, self.achievements = table, again, achievements
        total = table.rows(np.ones((1, len(table.episodes))))
        self.figures = {name: float(value[0]) for name, value in figures(total).items()}
        self.rates = total.rates[0]

    def alone(self, counted: dict[str, Any]) -> dict[str, Any]:
        """The arm's own figures with intervals, and the rate of each achievement with its count."""
        found = {name: bootstrap.told(mean, self._ends(name)) for name, mean in self.figures.items()}
        counts = self.table.unlocked.sum(axis=0)
        rates = {name: {"mean": float(self.rates[at]), "count": int(counts[at])} for at, name in enumerate(self.achievements)}
        return {"episodes": int(self.table.episodes.sum()), **found, "achievement_rates": rates, **counted}

    def _ends(self, name: str) -> tuple[float, float] | None:
        if self.again is None:
            return None
        low, high = bootstrap.interval(self.again[0][name], len(self.table.episodes))
        return float(low), float(high)

    def less(self, other: _Measured) -> dict[str, Any]:
        """How much more than ``other`` it has of everything, and on how many seeds it unlocked more."""
        seeds = len(self.table.episodes)
        found: dict[str, Any] = {}
        for name in self.figures:
            gain = self.figures[name] - other.figures[name]
            found[name] = bootstrap.told(gain, self._apart(other, name))
        gains = self.rates - other.rates
        ends = None
        if self.again is not None and other.again is not None:
            ends = bootstrap.interval(self.again[1] - other.again[1], seeds)
        found["achievement_rates"] = {
            name: bootstrap.told(gains[at], (ends[0][at], ends[1][at]) if ends else None)
            for at, name in enumerate(self.achievements)
        }
        found["gain_shares"] = self._shares(gains, other, found.get("achievements"))
        mine, its = (each.table.unlocked.sum(axis=1) / each.table.episodes for each in (self, other))
        found["seeds"] = {"more": int((mine > its).sum()), "same": int((mine == its).sum()), "fewer": int((mine < its).sum())}
        return found

    def _shares(self, gains: Floats, other: _Measured, whole: Any) -> dict[str, Any] | None:
        """How much of the difference in achievements each of them makes; None where there may be no difference to share."""
        if self.again is None or other.again is None or not whole or whole["low"] <= 0 <= whole["high"]:
            return None
        drawn = self.again[1] - other.again[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            again = drawn / drawn.sum(axis=1, keepdims=True)
        low, high = bootstrap.interval(again[np.isfinite(again).all(axis=1)], len(self.table.episodes))
        shares = gains / gains.sum()
        return {name: bootstrap.told(shares[at], (low[at], high[at])) for at, name in enumerate(self.achievements)}

    def _apart(self, other: _Measured, name: str) -> tuple[float, float] | None:
        if self.again is None or other.again is None:
            return None
        low, high = bootstrap.interval(self.again[0][name] - other.again[0][name], len(self.table.episodes))
        return float(low), float(high)


def _counted(arm: Arm, seeds: Sequence[int]) -> dict[str, Any]:
    """Turns by outcome and episodes by ending, on the seeds that are compared."""
    chosen = frozenset(seeds)
    outcomes: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for play in arm.plays:
        if play.seed in chosen:
            outcomes.update(play.outcomes)
            ended[play.ended or "unknown"] += 1
    return {"outcomes": dict(sorted(outcomes.items())), "ended": dict(sorted(ended.items()))}

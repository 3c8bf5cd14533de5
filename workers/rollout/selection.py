"""Which episodes a filter keeps, and what each of its rules took away. Reads the episodes' rows alone, never their turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from app.models import Episode
from app.specs import FilterTable, format_seeds

ROWS_A_FETCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the rules look at, and what the manifest tells of an episode that passed."""

    id: str
    job_id: str
    seed: int
    member: int
    policy: str
    model: str | None
    state: str
    turns: int
    unlocked: int
    return_: float
    """Under the reward that the episode's job named."""
    achievements: frozenset[str]
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One condition of a filter."""

    key: str
    """The spec's key; names the rule wherever it is told of."""
    wanted: str
    """The spec's value, for people."""
    passes: Callable[[Candidate], bool]
    remember: Callable[[Any, Candidate], Any]
    """Folds the episodes that it removed into what is worth telling of them; begins with None."""
    tell: Callable[[Any], str]
    """That, in words."""


class Tally:
    """How many episodes each rule took away: an episode counts for the first rule that it fails."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self.seen = 0
        self.removed = {rule.key: 0 for rule in rules}
        self._told: dict[str, Any] = {rule.key: None for rule in rules}

    def admits(self, candidate: Candidate) -> bool:
        """Try every rule in order, and count."""
        self.seen += 1
        for rule in self.rules:
            if not rule.passes(candidate):
                self.removed[rule.key] += 1
                self._told[rule.key] = rule.remember(self._told[rule.key], candidate)
                return False
        return True

    def sentence(self) -> str:
        """Why nothing is left: every rule that removed something, how much, and how near it came."""
        parts = []
        for rule in self.rules:
            if count := self.removed[rule.key]:
                many = f"all {count}" if count == self.seen else str(count)
                of = f" episode{'s' * (self.seen != 1)}" if count == self.seen else f" of {self.seen} episodes"
                parts.append(f"{rule.key}={rule.wanted} removed {many}{of}; {rule.tell(self._told[rule.key])}")
        return ", and ".join(parts)


def rules_of(table: FilterTable) -> list[Rule]:
    """The rules that a filter's table asks for, in the order in which they are tried."""
    rules = [_one_of("state", ("done",), lambda c: c.state)]
    if table.policies:
        rules.append(_one_of("policies", table.policies, lambda c: c.policy))
    if table.seeds is not None:
        rules.append(_seeds(table.seeds))
    if table.achievements:
        rules.append(_achievements(table.achievements))
    bounds: list[tuple[str, Callable[[Candidate], float]]] = [
        ("official_score", lambda c: c.unlocked),
        ("achievements", lambda c: c.unlocked),
        ("return", lambda c: c.return_),
    ]
    for name, value in bounds:
        for end, best in (("min", max), ("max", min)):
            bound = getattr(table, f"{end}_{name}")
            if bound is not None:
                rules.append(_bound(f"{end}_{name}", bound, value, best))
    return rules


def candidates(session: Session, job_ids: Sequence[str] | None, reward_of: Callable[[str], str]) -> Iterator[Candidate]:
    """Episodes of these jobs (None: of every job), in the one order that an export has: seed, member, age, id.

    ``reward_of`` names the reward of a job. Rows are fetched as they are asked for.
    """
    columns = [getattr(Episode, name) for name in _COLUMNS]
    query = select(Episode).with_only_columns(*columns)
    if job_ids is not None:
        query = query.where(col(Episode.job_id).in_(job_ids))
    query = query.order_by(col(Episode.seed), col(Episode.member), col(Episode.created_at), col(Episode.id))
    for row in session.connection().execution_options(yield_per=ROWS_A_FETCH).execute(query).mappings():
        yield _candidate(row, reward_of)


_COLUMNS = (
    "id",
    "job_id",
    "seed",
    "member",
    "policy",
    "model",
    "state",
    "turns",
    "unlocked",
    "returns",
    "achievements",
    "sha256",
)


def _candidate(row: Mapping[Any, Any], reward_of: Callable[[str], str]) -> Candidate:
    values = dict(row)
    returns, achievements = values.pop("returns"), values.pop("achievements")
    return_ = returns.get(reward_of(values["job_id"]), 0.0)
    return Candidate(**values, return_=return_, achievements=frozenset(achievements))


def best_share(passed: Sequence[Candidate], share: float) -> list[Candidate]:
    """The best of them by achievements, then by return, then by the present order; in the present order.

    The number is the share rounded down, and 1 at the least.
    """
    count = max(1, math.floor(share * len(passed) + 1e-9))
    ranked = sorted(range(len(passed)), key=lambda i: (-passed[i].unlocked, -passed[i].return_, i))
    return [passed[i] for i in sorted(ranked[:count])]


def _bound(key: str, bound: float, value: Callable[[Candidate], float], best: Callable[..., float]) -> Rule:
    least = key.startswith("min_")
    what = key[4:].replace("_", " ")

    def remember(so_far: float | None, candidate: Candidate) -> float:
        return value(candidate) if so_far is None else best(so_far, value(candidate))

    return Rule(
        key=key,
        wanted=f"{bound:g}",
        passes=lambda c: value(c) >= bound if least else value(c) <= bound,
        remember=remember,
        tell=lambda seen: f"the {'most' if least else 'fewest' if what == 'achievements' else 'least'} is {seen:g}",
    )


def _one_of(key: str, wanted: Sequence[str], value: Callable[[Candidate], str]) -> Rule:
    def remember(so_far: set[str] | None, candidate: Candidate) -> set[str]:
        return (so_far or set()) | {value(candidate)}

    return Rule(
        key=key,
        wanted=",".join(wanted),
        passes=lambda c: value(c) in wanted,
        remember=remember,
        tell=lambda seen: f"there is {_listed(sorted(seen))}",
    )


def _seeds(seeds: Iterable[int]) -> Rule:
    wanted = frozenset(seeds)

    def remember(so_far: tuple[int, int] | None, candidate: Candidate) -> tuple[int, int]:
        low, high = so_far or (candidate.seed, candidate.seed)
        return min(low, candidate.seed), max(high, candidate.seed)

    return Rule(
        key="seeds",
        wanted=format_seeds(wanted),
        passes=lambda c: c.seed in wanted,
        remember=remember,
        tell=lambda seen: f"there are seeds from {seen[0]} to {seen[1]}",
    )


def _achievements(names: Sequence[str]) -> Rule:
    wanted = frozenset(names)

    def remember(so_far: tuple[int, str] | None, candidate: Candidate) -> tuple[int, str]:
        had = wanted & candidate.achievements
        lacking = ", ".join(sorted(wanted - had))
        return max(so_far or (-1, ""), (len(had), lacking), key=lambda pair: pair[0])

    return Rule(
        key="achievements",
        wanted=",".join(names),
        passes=lambda c: wanted <= c.achievements,
        remember=remember,
        tell=lambda seen: f"the nearest has {seen[0]} of {len(wanted)} and lacks {seen[1]}",
    )


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

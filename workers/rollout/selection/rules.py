"""The conditions that a filter's table asks for, each with what it tells of the episodes that it took away."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from app.records import Outcome
from app.sources import unfit
from app.specs import FilterTable, format_seeds
from app.specs.moments import moment
from app.specs.policies import policy_name
from workers.rollout.play import TIME_LIMIT
from workers.rollout.selection.episodes import Candidate
from workers.rollout.selection.looks import Course, course

OVER = ("done", "failed")
"""States of an episode that goes no further."""
TIMED_OUT = re.compile(r"time[sd]?[ -]?(?:out|limit)|deadline", re.IGNORECASE)
"""What the error of an episode says that failed because something took too long."""

Number = Callable[[float], str]


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


def rules_of(table: FilterTable) -> list[Rule]:
    """The rules that a filter's table asks for, in the order in which they are tried: those that read turns come last."""
    return [*_of_kind(table), *_of_worth(table), *_of_looks(table)]


def _of_kind(table: FilterTable) -> Iterator[Rule]:
    """Whether an episode is over and readable; who played what, where and when."""
    yield _one_of("state", OVER, lambda c: c.state)
    if table.filter_errors:
        yield _why("filter_errors", "true", _error_of)
    if table.filter_timeouts:
        yield _why("filter_timeouts", "true", _timeout_of)
    images = table.include_images
    yield _why("include_images", "true" if images else "false", lambda c: unfit(c.spec, c.policy, include_images=images))
    if table.policies:
        known = frozenset(table.policies)
        yield _one_of("policies", table.policies, lambda c: c.policy, lambda p: p in known or policy_name(p)[0] in known)
    columns: list[tuple[str, Sequence[str], Callable[[Candidate], str | None]]] = [
        ("models", table.models, lambda c: c.model),
        ("splits", table.splits, lambda c: c.split),
        ("task_ids", table.task_ids, lambda c: c.task_id),
    ]
    for key, wanted, value in columns:
        if wanted:
            yield _one_of(key, wanted, value)
    if table.seeds is not None:
        yield _seeds(table.seeds)
    yield from _bounds(table, "created_at", lambda c: c.created_at, shown=moment, words=("latest", "earliest"))


def _of_worth(table: FilterTable) -> Iterator[Rule]:
    """How well it went."""
    if table.achievements:
        yield _achievements(table.achievements)
    yield from _bounds(table, "official_score", lambda c: c.unlocked)
    yield from _bounds(table, "achievements", lambda c: c.unlocked, words=("most", "fewest"))
    yield from _bounds(table, "return", lambda c: c.return_)
    yield from _bounds(table, "steps", lambda c: c.turns, words=("most", "fewest"))
    for end, scores in (("min", table.min_judge_scores), ("max", table.max_judge_scores)):
        for judge, bound in scores.items():
            yield _judge(f"{end}_judge_scores", judge, bound)


def _of_looks(table: FilterTable) -> Iterator[Rule]:
    """What only the turns tell. They are read once for all of these rules, and only for episodes that passed the others."""
    states, repeats, loops = table.min_unique_states, table.max_repeated_actions, table.detect_loops
    last: list[tuple[str, Course]] = []

    def seen(candidate: Candidate) -> Course:
        if not last or last[0][0] != candidate.id:
            found = course(candidate.looks(), most_states=states or 0, repeats=repeats is not None, loops=loops)
            last[:] = [(candidate.id, found)]
        return last[0][1]

    if states is not None:
        yield _bound("min_unique_states", states, lambda c: seen(c).states, words=("most", "fewest"))
    if repeats is not None:
        yield _bound("max_repeated_actions", repeats, lambda c: seen(c).repeated, words=("most", "fewest"))
    if loops:
        yield _why("detect_loops", "true", lambda c: "went round" if seen(c).looped else None)


def _error_of(candidate: Candidate) -> str | None:
    if candidate.state == "failed":
        return "failed"
    return "had a turn that no engine answered" if candidate.outcomes.get(Outcome.ENGINE_ERROR) else None


def _timeout_of(candidate: Candidate) -> str | None:
    if candidate.ended == TIME_LIMIT:
        return "used up its time"
    return "failed at a deadline" if candidate.error is not None and TIMED_OUT.search(candidate.error) else None


def _why(key: str, wanted: str, fault: Callable[[Candidate], str | None]) -> Rule:
    """Episodes without a fault pass; the faults of the others are counted."""

    def remember(so_far: Counter[str | None] | None, candidate: Candidate) -> Counter[str | None]:
        counts = Counter() if so_far is None else so_far
        counts[fault(candidate)] += 1
        return counts

    return Rule(
        key=key,
        wanted=wanted,
        passes=lambda c: fault(c) is None,
        remember=remember,
        tell=lambda counts: _listed([f"{count} {reason}" for reason, count in counts.most_common()]),
    )


def _bounds(
    table: FilterTable,
    name: str,
    value: Callable[[Candidate], float],
    *,
    shown: Number = "{:g}".format,
    words: tuple[str, str] = ("most", "least"),
) -> Iterator[Rule]:
    """The rules of ``min_NAME`` and ``max_NAME``, where they are given."""
    for end in ("min", "max"):
        bound = getattr(table, f"{end}_{name}")
        if bound is not None:
            yield _bound(f"{end}_{name}", bound, value, shown=shown, words=words)


def _bound(
    key: str,
    bound: float,
    value: Callable[[Candidate], float],
    *,
    shown: Number = "{:g}".format,
    words: tuple[str, str],
) -> Rule:
    """``words`` name the greatest and the least of the values that did not pass, whichever came nearer."""
    least = key.startswith("min_")
    nearer: Callable[[float, float], float] = max if least else min

    def remember(so_far: float | None, candidate: Candidate) -> float:
        return value(candidate) if so_far is None else nearer(so_far, value(candidate))

    return Rule(
        key=key,
        wanted=shown(bound),
        passes=lambda c: value(c) >= bound if least else value(c) <= bound,
        remember=remember,
        tell=lambda seen: f"the {words[0] if least else words[1]} is {shown(seen)}",
    )


def _judge(key: str, judge: str, bound: float) -> Rule:
    """A bound on a judge's score; an episode that the judge has not scored does not pass."""
    given = _bound(key, bound, lambda c: c.scores[judge], words=("most", "least"))

    def remember(so_far: tuple[int, Any] | None, candidate: Candidate) -> tuple[int, Any]:
        unscored, nearest = so_far or (0, None)
        if judge not in candidate.scores:
            return unscored + 1, nearest
        return unscored, given.remember(nearest, candidate)

    def tell(seen: tuple[int, Any]) -> str:
        unscored, nearest = seen
        parts = [] if nearest is None else [given.tell(nearest)]
        return " and ".join([*parts, *([f"{unscored} have no score by {judge}"] if unscored else [])])

    return Rule(
        key=f"{key}.{judge}",
        wanted=given.wanted,
        passes=lambda c: judge in c.scores and given.passes(c),
        remember=remember,
        tell=tell,
    )


def _one_of(
    key: str,
    wanted: Sequence[str],
    value: Callable[[Candidate], str | None],
    fits: Callable[[str], bool] | None = None,
) -> Rule:
    def remember(so_far: set[str] | None, candidate: Candidate) -> set[str]:
        return (so_far or set()) | {value(candidate) or "none"}

    def passes(candidate: Candidate) -> bool:
        found = value(candidate)
        return found is not None and (fits(found) if fits is not None else found in wanted)

    return Rule(
        key=key,
        wanted=",".join(wanted),
        passes=passes,
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

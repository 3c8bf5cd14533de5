"""What an rl job came to, as text: its curve, what it gained, and where the adapters are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from cli import show

Json = Mapping[str, Any]
MOST_POINTS: Final = 20
"""Evaluations that are shown; of more, the first and the last ones."""


def told(summary: Json) -> list[str]:
    """The summary of an rl job, as lines."""
    curve = [point for point in summary.get("curve") or [] if isinstance(point, dict)]
    best = (summary.get("best") or {}).get("iteration")
    blank = any("blank" in point for point in curve)
    rows = [_row(point, best, blank=blank) for point in _few(curve)]
    dark = ["black pictures"] if blank else []
    lines = (
        show.table(["updates", "episodes", "achievements", *dark, "crafter score", "return", "invalid", ""], rows) if rows else []
    )
    confidence = next((point["confidence"] for point in curve if point.get("confidence")), None)
    if confidence:
        lines.append(f"mean [low, high]: {confidence:.0%} intervals over seeds that are not learnt from")
    return [*lines, *_left(summary)]


def _few(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    half = MOST_POINTS // 2
    return curve if len(curve) <= MOST_POINTS else [*curve[:half], {}, *curve[-half:]]


def _row(point: Json, best: object, *, blank: bool) -> list[object]:
    if not point:
        return ["...", "", "", "", "", "", "", *([""] if blank else [])]
    outcomes = point.get("outcomes") or {}
    turns = sum(outcomes.values())
    return [
        point.get("iteration"),
        f"{point.get('episodes')} of {point.get('asked')}",
        show.figure(point.get("achievements")),
        *([show.figure((point.get("blank") or {}).get("achievements"))] if blank else []),
        f"{text} %" if (text := show.figure(point.get("crafter_score"))) != "-" else text,
        show.figure(point.get("return")),
        f"{1 - outcomes.get('ok', 0) / turns:.1%}" if turns else "-",
        "best" if point.get("iteration") == best else "",
    ]


def _left(summary: Json) -> Iterator[str]:
    gain, rounds = summary.get("gain"), summary.get("iterations") or {}
    if isinstance(gain, dict):
        yield f"from {gain.get('from')} to {gain.get('to')} updates: {show.figure(gain.get('achievements'))} achievements"
    if isinstance(dagger := summary.get("dagger"), dict):
        shares = [f"{each['agreement']:.1%}" for each in dagger.get("rounds") or [] if each.get("agreement") is not None]
        yield f"it did as {show.clean(dagger.get('expert'))} says, before each round's update: {', '.join(shares) or '-'}"
    before = f", after {rounds['begun']} of another job" if rounds.get("begun") else ""
    yield f"{rounds.get('done')} of {rounds.get('asked')} iterations{before}" + (
        f", stopped: {show.clean(summary['stopped'])}" if summary.get("stopped") else ""
    )
    yield from show.cost(summary)
    last, best = (summary.get(key) for key in ("artifact", "best_artifact"))
    if last:
        yield f"last adapter  model:{show.clean(last)}"
    if best and best != last:
        yield f"best adapter  model:{show.clean(best)}"

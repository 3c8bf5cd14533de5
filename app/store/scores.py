"""Scores that judges give episodes after they were played: what a filter's `min_judge_scores` goes by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import select
from sqlmodel import Session, col

from app.errors import BadScores, Problem, TraceNotFound
from app.models import Episode
from app.store import traces

ROWS_A_FETCH = 500

Given = tuple[str, Mapping[str, float | None]]
"""An episode's id, and its scores by judge; None takes a score away."""


def attach(session: Session, given: Sequence[Given]) -> list[Episode]:
    """Set these scores, all or none, and leave the scores of other judges as they are; the episodes, in the order given.

    Raises BadScores with every episode that is not there, is not over, or gets two scores from one judge.
    """
    known = _known(session, [id for id, _ in given])
    problems: list[Problem] = []
    said: dict[tuple[str, str], int] = {}
    for i, (id, scores) in enumerate(given):
        if id in known:
            problems += _faults(known[id], i, scores, said)
        else:
            problems.append(Problem(key=f"data.{i}.episode", message=str(TraceNotFound(id))))
    if problems:
        raise BadScores(problems)
    for id, scores in given:
        merged = {**(known[id].scores or {}), **scores}
        known[id].scores = {judge: score for judge, score in merged.items() if score is not None} or None
    return [known[id] for id, _ in given]


def _known(session: Session, ids: Sequence[str]) -> dict[str, Episode]:
    """The episodes with these ids, held until the transaction ends."""
    found: dict[str, Episode] = {}
    for start in range(0, len(ids), ROWS_A_FETCH):
        query = select(Episode).options(traces.NO_SNAPSHOT).where(col(Episode.id).in_(ids[start : start + ROWS_A_FETCH]))
        found |= {row.id: row for row in session.scalars(query.order_by(col(Episode.id)).with_for_update())}
    return found


def _faults(
    episode: Episode, place: int, scores: Mapping[str, float | None], said: dict[tuple[str, str], int]
) -> Iterator[Problem]:
    if episode.state == "running":
        yield Problem(
            key=f"data.{place}.episode", message=f"episode {episode.id} is still played; a judge scores it when it is over"
        )
    for judge in scores:
        before = said.setdefault((episode.id, judge), place)
        if before != place:
            message = f"episode {episode.id} has a score by {judge} in data.{before} already; keep one"
            yield Problem(key=f"data.{place}.scores.{judge}", message=message)

"""Scores that judges give episodes after they were played: what a filter's `min_judge_scores` goes by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import select
from sqlmodel import Session, col

from app.errors import BadScores, NotFound, Problem
from app.models import Episode
from app.store import traces

ROWS_A_FETCH = 500

Given = tuple[str, Mapping[str, float | None]]
"""An episode, by id or unique start of one, and its scores by judge; None takes a score away."""


def attach(session: Session, given: Sequence[Given]) -> list[Episode]:
    """Set these scores, all or none, and leave the scores of other judges as they are; the episodes, in the order given.

    Raises BadScores with every episode that is not there, is not over, or gets two scores from one judge.
    """
    known = _known(session, [ref for ref, _ in given])
    found: list[Episode] = []
    problems: list[Problem] = []
    said: dict[tuple[str, str], int] = {}
    for i, (ref, scores) in enumerate(given):
        try:
            episode = known.get(ref) or traces.find(session, ref)
        except NotFound as error:
            problems.append(Problem(key=f"data.{i}.episode", message=str(error)))
            continue
        problems += _faults(episode, i, scores, said)
        found.append(episode)
    if problems:
        raise BadScores(problems)
    for episode, (_, scores) in zip(found, given, strict=True):
        merged = {**(episode.scores or {}), **scores}
        episode.scores = {judge: score for judge, score in merged.items() if score is not None} or None
        session.add(episode)
    return found


def _known(session: Session, refs: Sequence[str]) -> dict[str, Episode]:
    """The episodes among these that are named by their whole id, held until the transaction ends."""
    found: dict[str, Episode] = {}
    for start in range(0, len(refs), ROWS_A_FETCH):
        query = select(Episode).options(traces.NO_SNAPSHOT).where(col(Episode.id).in_(refs[start : start + ROWS_A_FETCH]))
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

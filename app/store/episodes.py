"""Writes episodes: frames once by hash, turns once by index, the episode's row last.

Frames go in before and outside the step's guarded write: they are named by their content, so a second writer changes nothing.
Everything else of an episode goes in under the fence, in one transaction a segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from app import db
from app.models import Episode, FrameRow, TextRow, new_id
from app.records import EpisodeKey, Frame
from app.store import turns as turn_rows

FRAMES_A_STATEMENT = 500
FRESH_S = 3600.0
"""A frame that is stored again is noted as stored now, unless it was within this time."""


def _insert(session: Session, table: Any) -> Any:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def save_frames(frames: Iterable[Frame]) -> None:
    """Store the frames that are not stored yet, in a transaction of its own.

    The time goes with those that are, too: a turn is about to name them, and nobody may drop them before it does.
    """
    unique = {frame.sha256: frame for frame in frames}
    rows = [{"sha256": f.sha256, "png": f.png, "width": f.width, "height": f.height} for _, f in sorted(unique.items())]
    for start in range(0, len(rows), FRAMES_A_STATEMENT):
        with db.writing() as session:
            at = db.clock(session)
            new = _insert(session, FrameRow)
            fresh = new.on_conflict_do_update(
                index_elements=[col(FrameRow.sha256)],
                set_={"stored_at": at},
                where=col(FrameRow.stored_at) < at - FRESH_S,
            )
            batch = [{**row, "stored_at": at} for row in rows[start : start + FRAMES_A_STATEMENT]]
            session.connection().execute(fresh, batch)


def keep_frames(names: Iterable[str]) -> None:
    """Note of these frames, as far as they are here, that somebody is about to name them."""
    ordered = sorted(names)
    for start in range(0, len(ordered), FRAMES_A_STATEMENT):
        with db.writing() as session:
            at = db.clock(session)
            old = update(FrameRow).where(
                col(FrameRow.sha256).in_(ordered[start : start + FRAMES_A_STATEMENT]), col(FrameRow.stored_at) < at - FRESH_S
            )
            session.connection().execute(old.values(stored_at=at))


def save_texts(texts: dict[str, str]) -> None:
    """Store long texts under their sha256."""
    if texts:
        with db.writing() as session:
            rows = [{"sha256": sha256, "text": text} for sha256, text in sorted(texts.items())]
            session.connection().execute(_insert(session, TextRow).on_conflict_do_nothing(), rows)


def find(session: Session, job_id: str, key: EpisodeKey) -> Episode | None:
    """The row of an episode, in whatever state."""
    query = select(Episode).where(
        col(Episode.job_id) == job_id,
        col(Episode.iteration) == key.iteration,
        col(Episode.seed) == key.seed,
        col(Episode.member) == key.member,
    )
    return session.scalars(query).one_or_none()


def cut_short(session: Session, job_id: str, why: str) -> None:
    """End what a job that has ended left running: its turns can be read, and a retry goes on from its snapshot."""
    running = update(Episode).where(col(Episode.job_id) == job_id, col(Episode.state) == "running")
    session.connection().execute(running.values(state="failed", error=why, finished_at=db.now()))


def save_segment(session: Session, values: dict[str, Any], rows: Sequence[turn_rows.Row]) -> str:
    """Write an episode's row, made new or brought up to date, and its newest turns; give the episode's id.

    ``values`` holds every column but ``id`` and ``created_at``. A row that failed in an earlier attempt is replaced with all its
    turns.
    """
    key = EpisodeKey(iteration=values["iteration"], seed=values["seed"], member=values["member"])
    present = find(session, values["job_id"], key)
    if present is not None and present.state == "failed":
        session.connection().execute(delete(Episode).where(col(Episode.id) == present.id))
        session.expunge(present)
        present = None
    episode = present or Episode(id=new_id("ep"), created_at=db.clock(session), **values)
    for name, value in values.items():
        setattr(episode, name, value)
    if values["state"] != "running":
        episode.finished_at = db.clock(session)
    session.add(episode)
    session.flush()
    turn_rows.add(session, episode.id, rows)
    return episode.id

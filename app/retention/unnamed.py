"""Frames, texts and files that nothing names any more, and how they go without taking away what is about to be named.

A frame is written before the turn that names it. Whoever is about to name one notes the time in its row (``stored_at``), anew
where the note is older than ``episodes.FRESH_S``; a turn follows within minutes, or its step has lost its hold and writes no
more. So a frame whose note is older than ``grace_s`` and that no turn names will not be named by what runs now, and the statement
that deletes a row looks at its time once more. Texts have no such note, and are few: they go in a moment when no step runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Text, bindparam, cast, delete, except_, exists, func, literal, select, text
from sqlmodel import Session, col

from app import artifacts, db
from app.artifacts import StoredFile
from app.file_names import clean_name
from app.models import ENDED, Artifact, Episode, FrameRow, Job, JobEvent, Step, StepState, TextRow, TurnRow
from app.runs import present
from app.settings import get_settings
from app.store.episodes import FRESH_S

FRAMES_GONE: Final = "job.frames_dropped"
"""Event of a job whose frames were too old to be kept. Its turns name them as before."""
GOING: Final = "job.going"
"""Event of an ended job of which it is decided that it goes; some of its episodes may have gone."""
IMAGE: Final = re.compile(r'"sha256":"([0-9a-f]{64})"')


def grace_s() -> float:
    """How old the note of a frame must be; files, the same."""
    return FRESH_S + max(3600.0, 2 * get_settings().progress_deadline_s)


def _said_of(type: str) -> Any:
    """Ids of the ended jobs of which an event of this type was told since they ended: a retry takes it back."""
    after_its_end = (col(JobEvent.job_id) == Job.id, col(JobEvent.type) == type, col(JobEvent.at) >= Job.finished_at)
    return select(col(Job.id)).where(col(Job.state).in_(ENDED), exists().where(*after_its_end))


def released() -> Any:
    """Ids of the ended jobs whose frames need no longer be kept."""
    return _said_of(FRAMES_GONE)


def going(session: Session) -> list[str]:
    """Ids of the jobs of which it is decided that they go."""
    return list(session.connection().execute(_said_of(GOING).order_by(col(Job.id))).scalars())


def is_going(session: Session, job_id: str) -> bool:
    """Whether it is decided that the job goes."""
    return session.connection().execute(_said_of(GOING).where(col(Job.id) == job_id)).first() is not None


def _counts(job_id: Any, without: Collection[str]) -> ColumnElement[bool]:
    """Whether what a job names is to be kept; ``without``: jobs that are about to go."""
    kept: ColumnElement[bool] = job_id.not_in(released())
    if without:
        kept &= job_id.not_in(bindparam("going", list(without), expanding=True, literal_execute=True))
    return kept


def frames(session: Session, *, without: Collection[str] = ()) -> tuple[dict[str, int], int]:
    """Frames that nothing names and that may go, with their bytes; and how many more are too young to go."""
    connection = session.connection()
    by_turns = select(col(TurnRow.frame)).join(Episode, col(Episode.id) == TurnRow.episode_id)
    unnamed = except_(
        select(col(FrameRow.sha256)),
        by_turns.where(col(TurnRow.frame).is_not(None), _counts(col(Episode.job_id), without)),
        select(col(Episode.last_frame)).where(col(Episode.last_frame).is_not(None), _counts(col(Episode.job_id), without)),
    ).subquery()
    size = select(col(FrameRow.sha256), func.length(col(FrameRow.png)), col(FrameRow.stored_at))
    found = connection.execute(size.join(unnamed, unnamed.c.sha256 == FrameRow.sha256)).all()
    elsewhere = _in_messages(session, without) if found else set()
    limit = db.clock(session) - grace_s()
    gone = {sha256: count for sha256, count, stored_at in found if sha256 not in elsewhere and stored_at < limit}
    return gone, sum(sha256 not in elsewhere and stored_at >= limit for sha256, _, stored_at in found)


def _in_messages(session: Session, without: Collection[str]) -> set[str]:
    """Pictures that prompts show beside the one that their turn names."""
    said = cast(col(TurnRow.messages), Text)
    own = literal('"sha256":"') + func.coalesce(col(TurnRow.frame), "") + literal('"')
    more = func.replace(said, own, "").contains('"sha256":"')
    query = select(said).join(Episode, col(Episode.id) == TurnRow.episode_id).where(more, _counts(col(Episode.job_id), without))
    rows = session.connection().execution_options(yield_per=100).execute(query).scalars()
    return {sha256 for messages in rows for sha256 in IMAGE.findall(messages)}


def drop_frames(names: Collection[str]) -> list[str]:
    """Delete these frames unless somebody has just noted that it needs them; gives those that went."""
    with db.writing() as session:
        old = col(FrameRow.stored_at) < db.clock(session) - grace_s()
        gone = delete(FrameRow).where(col(FrameRow.sha256).in_(names), old).returning(col(FrameRow.sha256))
        return list(session.connection().execute(gone).scalars())


def texts(session: Session) -> list[str]:
    """Texts that no turn names, nor any episode as its start."""
    named = select(col(TurnRow.system)).where(col(TurnRow.system).is_not(None))
    starts = select(col(Episode.start)).where(col(Episode.start).is_not(None))
    return list(session.connection().execute(except_(select(col(TextRow.sha256)), named, starts)).scalars())


def drop_texts(names: Collection[str]) -> int:
    """Delete these texts if no step runs and nothing has come to name them; gives how many went."""
    if not names:
        return 0
    with db.writing() as session:
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE text IN SHARE ROW EXCLUSIVE MODE"))
        running = select(col(Step.id)).where(col(Step.state) == StepState.RUNNING).limit(1)
        if connection.execute(running).first() is not None:
            return 0
        named = select(col(TurnRow.system)).where(col(TurnRow.system).in_(names))
        starts = select(col(Episode.start)).where(col(Episode.start).in_(names))
        unnamed = (col(TextRow.sha256).not_in(named), col(TextRow.sha256).not_in(starts))
        gone = delete(TextRow).where(col(TextRow.sha256).in_(names), *unnamed)
        return int(connection.execute(gone).rowcount)


def files(session: Session) -> Iterator[tuple[StoredFile, bool]]:
    """Files below the artifact root that no row names and that are old enough, and whether this store knows their job.

    Another store may use the same root, so a file of an unknown job may well be somebody's.
    """
    named = set(session.connection().execute(select(col(Artifact.path))).scalars())
    states = {clean_name(id): state for id, state in session.connection().execute(select(col(Job.id), col(Job.state)))}
    limit = time.time() - grace_s()
    for stored in artifacts.stored_files():
        folder = stored.path.partition("/")[0]
        if stored.path not in named and stored.modified < limit and states.get(folder, "unknown") in (*ENDED, "unknown"):
            yield stored, folder in states


def runs(session: Session) -> Iterator[tuple[Path, int]]:
    """Folders of training that are old enough and of no job that this store knows, with their bytes."""
    known = {clean_name(id) for id in session.connection().execute(select(col(Job.id))).scalars()}
    limit = time.time() - grace_s()
    for folder in present():
        if folder.name not in known:
            files = [path.stat() for path in folder.rglob("*") if path.is_file()]
            if max((about.st_mtime for about in files), default=folder.stat().st_mtime) < limit:
                yield folder, sum(about.st_size for about in files)

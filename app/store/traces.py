"""Questions about traces: pages of episodes, one episode, its turns, the texts and frames they name. Reads only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import defer
from sqlmodel import Session, col

from app.errors import AmbiguousName, ArtifactNotFound, FrameNotFound, TraceNotFound
from app.models import Artifact, Episode, FrameRow, Job, TextRow, TurnRow
from app.store import paging

REF: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
SHA256: Final = re.compile(r"[0-9a-f]{64}")
MOST_NAMED: Final = 5
"""Traces that an ambiguous start of an id lists."""
NO_SNAPSHOT: Final = defer(Episode.snapshot, raiseload=True)  # type: ignore[arg-type]
"""A snapshot is read only where play goes on."""


def page(
    session: Session,
    *,
    job_id: str | None = None,
    seed: int | None = None,
    policy: str | None = None,
    min_unlocked: int | None = None,
    state: str | None = None,
    limit: int = 50,
    after: str | None = None,
) -> tuple[list[Episode], str | None]:
    """A page of episodes without their snapshots, newest first, and the cursor of the next page (None: there is none)."""
    query = select(Episode).options(NO_SNAPSHOT)
    query = query.where(*paging.behind(after, col(Episode.created_at), col(Episode.id)))
    wanted: list[tuple[Any, Any]] = [
        (Episode.job_id, job_id),
        (Episode.seed, seed),
        (Episode.policy, policy),
        (Episode.state, state),
    ]
    query = query.where(*(col(column) == value for column, value in wanted if value is not None))
    if min_unlocked is not None:
        query = query.where(col(Episode.unlocked) >= min_unlocked)
    rows = list(session.scalars(paging.newest_first(query, col(Episode.created_at), col(Episode.id)).limit(limit + 1)))
    more = len(rows) > limit
    return rows[:limit], paging.encode(rows[limit - 1].created_at, rows[limit - 1].id) if more else None


def find(session: Session, ref: str) -> Episode:
    """The episode with an id or a unique start of one. Raises TraceNotFound, AmbiguousName."""
    if not REF.fullmatch(ref):
        raise TraceNotFound(ref)
    query = select(Episode).options(NO_SNAPSHOT)
    whole = session.scalars(query.where(col(Episode.id) == ref)).one_or_none()
    if whole is not None:
        return whole
    start = ref if "_" in ref else f"ep_{ref}"
    found = session.scalars(query.where(col(Episode.id).startswith(start, autoescape=True)).limit(MOST_NAMED)).all()
    if len(found) > 1:
        raise AmbiguousName(ref, [episode.id for episode in found])
    if not found:
        raise TraceNotFound(ref)
    return found[0]


def job_names(session: Session, episodes: Iterable[Episode]) -> dict[str, str | None]:
    """Names of the jobs that the episodes belong to, by job id."""
    ids = {episode.job_id for episode in episodes}
    rows = session.connection().execute(select(col(Job.id), col(Job.name)).where(col(Job.id).in_(ids)))
    return {row[0]: row[1] for row in rows}


def turns(session: Session, episode_id: str, *, after: int = -1, limit: int = 100) -> list[TurnRow]:
    """The episode's turns with an index above ``after``, in order."""
    query = select(TurnRow).where(col(TurnRow.episode_id) == episode_id, col(TurnRow.index) > after)
    return list(session.scalars(query.order_by(col(TurnRow.index)).limit(limit)))


def texts(session: Session, sha256s: Iterable[str | None]) -> dict[str, str]:
    """Shared texts by their sha256."""
    wanted = {sha256 for sha256 in sha256s if sha256}
    rows = session.connection().execute(select(col(TextRow.sha256), col(TextRow.text)).where(col(TextRow.sha256).in_(wanted)))
    return {row[0]: row[1] for row in rows}


def frame(session: Session, sha256: str) -> FrameRow:
    """A stored picture. Raises FrameNotFound."""
    row = session.get(FrameRow, sha256) if SHA256.fullmatch(sha256) else None
    if row is None:
        raise FrameNotFound(sha256)
    return row


def artifact(session: Session, id: str) -> Artifact:
    """An artifact's row. Raises ArtifactNotFound."""
    row = session.get(Artifact, id) if REF.fullmatch(id) else None
    if row is None:
        raise ArtifactNotFound(id)
    return row

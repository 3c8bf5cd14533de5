"""Which jobs are past their time. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select, text
from sqlmodel import Session, col

from app import db
from app.errors import Conflict
from app.lifecycle import lock_job
from app.models import ENDED, Artifact, Imported, Job
from app.settings import get_settings
from app.specs.policies import MODEL, policy_name
from app.specs.rl_tables import EXTENDED

KEEP: Final = "keep"
"""Label that keeps a job, and its frames, when its value is ``true``."""
DAY_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Days after the end of a job; 0 is for ever."""

    jobs_days: float = 0.0
    frames_days: float = 0.0

    @classmethod
    def of_settings(cls) -> Policy:
        """What SYNTHQ_KEEP_JOBS_DAYS and SYNTHQ_KEEP_FRAMES_DAYS say."""
        settings = get_settings()
        return cls(jobs_days=settings.keep_jobs_days, frames_days=settings.keep_frames_days)

    @property
    def keeps_all(self) -> bool:
        """Nothing is ever too old."""
        return not self.jobs_days and not self.frames_days


def past(session: Session, days: float, *, of: str | None = None) -> list[str]:
    """Ids of the jobs that ended, or were brought in, more than so many days ago and may go; oldest first. ``of``: it alone."""
    if not days:
        return []
    cutoff = db.clock(session) - days * DAY_S
    query = select(col(Job.id), col(Job.labels)).where(col(Job.state).in_(ENDED), col(Job.finished_at) < cutoff)
    if of is not None:
        query = query.where(col(Job.id) == of)
    rows = session.connection().execute(query.order_by(col(Job.finished_at), col(Job.id))).all()
    if not rows:
        return []
    needed, whole = _needed(session)
    if whole:
        return []
    young = _brought_in_since(session, cutoff)
    return [id for id, labels in rows if not keeps(labels) and id not in needed and id not in young]


def still_past(session: Session, job_id: str, days: float) -> None:
    """Let the transaction pass only if the job is past its time now; until it ends the job stays as it is, and no job begins to
    need it. Raises JobNotFound, and Conflict where the job is to stay.
    """
    lock_job(session, job_id)
    if session.connection().dialect.name == "postgresql":  # SQLite has one writer at a time, and this is it
        session.connection().execute(text("LOCK TABLE job IN SHARE ROW EXCLUSIVE MODE"))
    if not past(session, days, of=job_id):
        raise Conflict(f"job {job_id} is to stay")


def keeps(labels: dict[str, str]) -> bool:
    """Whether a job's labels say that it is to stay."""
    return labels.get(KEEP) == "true"


def _brought_in_since(session: Session, cutoff: float) -> set[str]:
    rows = session.connection().execute(select(col(Imported.jobs)).where(col(Imported.at) >= cutoff)).scalars()
    return {job_id for jobs in rows for job_id in jobs}


def _needed(session: Session) -> tuple[set[str], bool]:
    """Jobs that unfinished jobs name, and whether one of those reads the whole store."""
    query = select(col(Job.id), col(Job.kind), col(Job.spec), col(Job.after)).where(col(Job.state).not_in(ENDED))
    open_jobs = session.connection().execute(query).all()
    needed = {after["job"] for _, _, _, afters in open_jobs for after in afters}
    said = {word for _, _, spec, _ in open_jobs for word in _texts(spec)}
    whole = any(kind == "filter" and _reads_all(spec) for _, kind, spec, _ in open_jobs)
    needed |= _parents(session, [id for id, *_ in open_jobs]) | _named(session, said)
    return needed, whole


def _reads_all(spec: dict[str, Any]) -> bool:
    table = spec.get("filter") or {}
    return not table.get("jobs") and table.get("db", "store") == "store"


def _texts(value: Any) -> Iterator[str]:
    """Every text in a spec: a job, an artifact or an imported store may be named anywhere in it."""
    if isinstance(value, str):
        yield value
        if (extended := EXTENDED.fullmatch(value)) is not None:
            yield extended["job"]
        name, variant = policy_name(value)
        if name == MODEL and variant is not None:
            yield variant
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _parents(session: Session, ids: Iterable[str]) -> set[str]:
    rows = session.connection().execute(select(col(Artifact.parents)).where(col(Artifact.job_id).in_(list(ids)))).scalars()
    return {parent for parents in rows for parent in parents}


def _named(session: Session, said: set[str]) -> set[str]:
    """The jobs that these texts mean: by id, the start of one, name, an artifact of theirs, or the store they came with."""
    if not said:
        return set()
    starts = tuple(word for word in said if word.startswith("job_"))
    found = {
        id
        for id, name in session.connection().execute(select(col(Job.id), col(Job.name)))
        if id in said or name in said or id.startswith(starts)
    }
    artifacts = select(col(Artifact.job_id)).where(col(Artifact.id).in_(said))
    found |= set(session.connection().execute(artifacts).scalars())
    for jobs in session.connection().execute(select(col(Imported.jobs)).where(col(Imported.name).in_(said))).scalars():
        found |= set(jobs)
    return found

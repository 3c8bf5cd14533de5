"""What happened to a job, in order and without gaps."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update
from sqlmodel import Session, col

from app import db
from app.models import Job, JobEvent


def append(
    session: Session,
    job_id: str,
    type: str,
    message: str,
    *,
    level: str = "info",
    step_id: str | None = None,
    data: dict[str, Any] | None = None,
) -> int:
    """Write an event; give its number. The counter in the job's row is the lock that keeps the numbers without gaps."""
    bump = update(Job).where(col(Job.id) == job_id).values(event_seq=Job.event_seq + 1).returning(col(Job.event_seq))
    seq = session.connection().execute(bump).scalar_one()
    row = {
        "job_id": job_id,
        "seq": seq,
        "at": db.now(),
        "level": level,
        "type": type,
        "message": message,
        "step_id": step_id,
        "data": data or {},
    }
    session.connection().execute(insert(JobEvent).values(**row))
    return int(seq)


def page(session: Session, job_id: str, *, after: int = 0, limit: int = 200) -> list[JobEvent]:
    """The events with numbers above ``after``, oldest first."""
    query = select(JobEvent).where(col(JobEvent.job_id) == job_id, col(JobEvent.seq) > after)
    return list(session.scalars(query.order_by(col(JobEvent.seq)).limit(limit)))

"""How a worker gets a step, keeps it, and loses it: claim, lease, fence.

A claim looks for the best claimable step of a queue, not for one that a message named: jobs by priority, then those with the
fewest running steps, then those whose turn is longest ago; inside a job by position. So one job of 5,000 steps cannot starve
the rest, whatever the order of messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from app import db
from app.endpoints.choice import is_served
from app.errors import JobNotFound, LostStep, StepCancelled
from app.lifecycle import lock_job, lose_step, start_step
from app.models import Job, JobState, Queue, Step, StepState
from app.settings import get_settings

CANDIDATE_JOBS = 16
"""Jobs looked at before a claim gives up: with more workers than this racing for the same jobs, a hint is sent again anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A step in the hands of a worker. ``fence`` proves the hold in every write."""

    step_id: str
    job_id: str
    job_kind: str
    job_attempt: int
    kind: str
    key: str
    attempt: int
    fence: int
    payload: dict[str, Any]
    spec: dict[str, Any]
    total: int


def claimable(queue: Queue | str, *, here: bool = False) -> ColumnElement[bool]:
    """True for steps of a queue that a worker may claim now, their job's own limit aside; ``here``: one of this machine."""
    waits = (col(Step.queue) == queue) & (col(Step.state) == StepState.QUEUED) & (col(Step.available_at) <= db.now())
    return waits & or_(col(Step.needs).is_(None), is_served(here=here))


def running_count() -> Any:
    """Running steps of the job in the surrounding query."""
    busy = aliased(Step)
    count = select(func.count()).select_from(busy).where(col(busy.job_id) == Job.id, col(busy.state) == StepState.RUNNING)
    return count.correlate(Job).scalar_subquery()


@lru_cache(maxsize=16)  # building the statement costs more than running it
def _fairest_job(queue: Queue | str) -> Select[str]:
    running = running_count()
    has_work = select(col(Step.id)).where(col(Step.job_id) == Job.id, claimable(queue, here=True)).correlate(Job).exists()
    return (
        select(col(Job.id))
        .where(col(Job.state).in_([JobState.QUEUED, JobState.RUNNING]), has_work)
        .where(or_(col(Job.max_parallel).is_(None), running < Job.max_parallel))
        .order_by(col(Job.priority).desc(), running, col(Job.claimed_at), col(Job.created_at))
        .limit(1)
    )


def claim(queue: Queue | str, *, owner: str, hint: str | None = None) -> Claim | None:
    """Take the best claimable step of a queue, or None when there is none."""
    with db.reading() as session:  # most hints that come too late end here, without a write lock
        if session.connection().execute(_fairest_job(queue)).first() is None:
            return None
    emptied: list[str] = []
    while len(emptied) < CANDIDATE_JOBS:
        try:
            with db.writing() as session:  # locks one job and no other: two claims with two locks each could wait for each other
                best = _fairest_job(queue)
                job_id = session.connection().execute(best.where(col(Job.id).not_in(emptied)) if emptied else best).scalar()
                if job_id is None:
                    return None
                emptied.append(job_id)
                taken = _claim_from(session, job_id, queue, owner=owner, hint=hint)
        except JobNotFound:  # removed between the look and the lock
            continue
        if taken is not None:
            return taken
    return None


def _claim_from(session: Session, job_id: str, queue: Queue | str, *, owner: str, hint: str | None) -> Claim | None:
    job = lock_job(session, job_id)
    if (
        job.max_parallel is not None
        and session.connection()
        .execute(select(func.count()).where(col(Step.job_id) == job_id, col(Step.state) == StepState.RUNNING))
        .scalar_one()
        >= job.max_parallel
    ):
        return None
    best = select(Step).where(col(Step.job_id) == job_id, claimable(queue, here=True)).order_by(col(Step.position)).limit(1)
    step = session.scalars(best.with_for_update().execution_options(populate_existing=True)).one_or_none()
    if step is None:
        return None
    start_step(session, job, step, owner=owner, hint=hint)
    return Claim(
        step_id=step.id,
        job_id=job.id,
        job_kind=job.kind,
        job_attempt=step.job_attempt,
        kind=step.kind,
        key=step.key,
        attempt=step.attempt,
        fence=step.fence,
        payload=step.payload,
        spec=job.spec,
        total=step.total,
    )


def renew(taken: Claim) -> None:
    """Move the lease's end away. Raises LostStep when the step is no longer held."""
    mine = update(Step).where(col(Step.id) == taken.step_id, col(Step.fence) == taken.fence, col(Step.state) == StepState.RUNNING)
    with db.writing() as session:
        if session.connection().execute(mine.values(lease_until=db.now() + get_settings().lease_s)).rowcount != 1:
            raise LostStep(taken.step_id, taken.fence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a running step stands in the store."""

    idle_s: float
    """Seconds since its last progress."""


def look(taken: Claim) -> Standing:
    """How the step stands. Raises LostStep when it is no longer held, StepCancelled when its job was cancelled."""
    query = select(col(Step.fence), col(Step.state), col(Step.progress_at), col(Job.cancel_requested_at), db.now())
    with db.reading() as session:
        row = (
            session.connection().execute(query.join(Job, col(Job.id) == Step.job_id).where(col(Step.id) == taken.step_id)).first()
        )
    if row is None or row[0] != taken.fence or row[1] != StepState.RUNNING:
        raise LostStep(taken.step_id, taken.fence)
    if row[3] is not None:
        raise StepCancelled(f"job {taken.job_id} was cancelled")
    return Standing(idle_s=row[4] - (row[2] or row[4]))


def release_owner(owner: str, reason: str) -> int:
    """A worker is known to be gone: its steps go back to the queue at once. Gives their number."""
    held = select(col(Step.id), col(Step.fence)).where(col(Step.owner) == owner, col(Step.state) == StepState.RUNNING)
    return _release(held, reason)


def release_hint(hint: str, reason: str) -> int:
    """A pool child died over the message ``hint``: the step that it had claimed goes back at once."""
    held = select(col(Step.id), col(Step.fence)).where(col(Step.hint) == hint, col(Step.state) == StepState.RUNNING)
    return _release(held, reason)


def release_expired() -> int:
    """Steps whose lease has run out go back to the queue. Gives their number."""
    held = select(col(Step.id), col(Step.fence)).where(col(Step.state) == StepState.RUNNING, col(Step.lease_until) < db.now())
    return _release(held, "its lease ran out")


def _release(held: Select[str, int], reason: str) -> int:
    with db.reading() as session:
        rows = session.connection().execute(held).all()
    released = 0
    for step_id, fence in rows:
        try:
            with db.writing() as session:
                lose_step(session, step_id, fence, reason)
            released += 1
        except LostStep:
            continue  # it ended, or somebody released it, between the look and the lock
    return released

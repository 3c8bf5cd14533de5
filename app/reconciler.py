"""What must happen even when every message is lost: expired leases, dead jobs' steps, waiting jobs, cancels, stray hints.

It replaces chords, ETA, revoke and the result backend. Each sweep looks at rows only, so it may be run twice, by two schedulers,
at any time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlmodel import col

from app import db
from app.claims import release_expired
from app.errors import JobNotFound, LostStep
from app.lifecycle import advance, cancel_step, has_steps, lock_job, start_if_ready
from app.models import Idempotency, Job, JobState, Step, StepState
from app.outbox import prune
from app.settings import get_settings

log = logging.getLogger("synthq.reconciler")

IDEMPOTENCY_S = 24 * 3600.0
"""How long an Idempotency-Key is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one sweep did."""

    released: int
    started: int
    advanced: int
    cancelled: int


def sweep() -> Swept:
    """One round over everything."""
    swept = Swept(released=release_expired(), started=start_waiting(), advanced=advance_stuck(), cancelled=cancel_overdue())
    prune()
    with db.writing() as session:
        session.connection().execute(delete(Idempotency).where(col(Idempotency.created_at) < db.now() - IDEMPOTENCY_S))
    if swept != Swept(released=0, started=0, advanced=0, cancelled=0):
        log.info("swept: %s", swept)
    return swept


def start_waiting() -> int:
    """Start the jobs whose needed jobs have ended. Gives their number."""
    with db.reading() as session:
        queued = session.connection().execute(select(col(Job.id), col(Job.after)).where(col(Job.state) == JobState.QUEUED)).all()
    started = 0
    for job_id in [job_id for job_id, after in queued if after]:
        try:
            with db.writing() as session:
                job = lock_job(session, job_id)
                before = has_steps(session, job)
                start_if_ready(session, job)
                started += has_steps(session, job) and not before
        except JobNotFound:
            continue  # it was removed between the look and the lock
    return started


def advance_stuck() -> int:
    """Advance the running jobs none of whose steps is open: their last writer died before it could. Gives their number."""
    open_step = select(col(Step.id)).where(col(Step.job_id) == Job.id, col(Step.state).in_([StepState.QUEUED, StepState.RUNNING]))
    stuck = select(col(Job.id)).where(col(Job.state) == JobState.RUNNING, ~open_step.correlate(Job).exists())
    with db.reading() as session:
        ids = session.connection().execute(stuck).scalars().all()
    for job_id in ids:
        try:
            with db.writing() as session:
                advance(session, lock_job(session, job_id))
        except JobNotFound:
            continue  # it was removed between the look and the lock
    return len(ids)


def cancel_overdue() -> int:
    """Take the steps away that still run after their job's cancel and its grace. Gives their number."""
    overdue = (
        select(col(Step.id), col(Step.fence))
        .join(Job, col(Job.id) == Step.job_id)
        .where(col(Step.state) == StepState.RUNNING, col(Job.cancel_requested_at) < db.now() - get_settings().cancel_grace_s)
    )
    with db.reading() as session:
        rows = session.connection().execute(overdue).all()
    cancelled = 0
    for step_id, fence in rows:
        try:
            with db.writing() as session:
                cancel_step(session, step_id, fence)
            cancelled += 1
        except LostStep:
            continue  # it stopped by itself between the look and the lock
    return cancelled

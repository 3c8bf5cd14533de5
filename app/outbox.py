"""Keeps just enough hints in the queues: as many as workers have free slots, and a margin, never more than steps that wait.

What is in SQL decides, so a hint that was lost (a crash, a flush, a frozen broker) is sent again on the next round, and a queue
never holds thousands of messages of one job.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from sqlalchemy import Select, delete, func, select, update
from sqlmodel import Session, col

from app import broker, db
from app.claims import claimable, running_count
from app.heartbeat import live_workers
from app.models import Job, JobState, Outbox, Queue, Step, StepState, Worker
from app.settings import get_settings

log = logging.getLogger("synthq.outbox")

KEEP_SENT_S = 3600.0
"""How long a sent row stays, for people who look."""


@lru_cache(maxsize=1)  # building these statements costs more than running them, and every round runs them
def _queues_with_work() -> Select[str]:
    return select(col(Step.queue)).where(col(Step.state) == StepState.QUEUED, col(Step.available_at) <= db.now()).distinct()


@lru_cache(maxsize=16)
def _waiting(queue: Queue | str) -> Select[Any]:
    return (
        select(func.count(), col(Job.max_parallel), running_count())
        .select_from(Step)
        .join(Job, col(Job.id) == Step.job_id)
        .where(claimable(queue), col(Job.state).in_([JobState.QUEUED, JobState.RUNNING]))
        .group_by(col(Job.id), col(Job.max_parallel))
    )


def waiting(session: Session, queue: Queue | str) -> int:
    """Steps of a queue that could be claimed now, each job counted up to its own limit."""
    rows = session.connection().execute(_waiting(queue)).all()
    return sum(count if limit is None else max(0, min(count, limit - busy)) for count, limit, busy in rows)


@lru_cache(maxsize=16)
def _running(queue: Queue | str) -> Select[int]:
    held = (col(Step.queue) == queue, col(Step.state) == StepState.RUNNING, col(Step.lease_until) > db.now())
    return select(func.count()).where(*held)


def free_slots(session: Session, queue: Queue | str, workers: list[Worker]) -> int:
    """Slots of live workers that serve a queue and run nothing from it."""
    slots = sum(worker.slots for worker in workers if str(queue) in worker.queues)
    return max(0, slots - session.connection().execute(_running(queue)).scalar_one())


def next_ids(session: Session, queue: Queue | str, count: int) -> list[str]:
    """Ids for ``count`` hints: waiting steps, for people who read messages. A claim takes the best step, whichever is named."""
    query = select(col(Step.id)).where(claimable(queue)).order_by(col(Step.available_at), col(Step.position)).limit(count)
    return list(session.connection().execute(query).scalars())


def dispatch(publisher: broker.HintPublisher) -> int:
    """Bring every queue to the number of hints that it should hold; give how many were sent. Raises BrokerUnavailable."""
    sent = 0
    with db.reading() as session:
        queues = session.connection().execute(_queues_with_work()).scalars().all()
    for queue in queues:
        with db.reading() as session:
            wanted = waiting(session, queue)
            if not wanted:
                continue
            wanted = min(wanted, free_slots(session, queue, live_workers(session)) + get_settings().hint_margin)
            missing = wanted - broker.depth(queue)
            ids = next_ids(session, queue, missing) if missing > 0 else []
        if ids:
            publisher.publish(queue, ids)
            sent += len(ids)
    _mark_sent()
    return sent


def unsent(session: Session) -> bool:
    """Whether a transaction has made steps claimable since the last round."""
    return session.connection().execute(select(col(Outbox.id)).where(col(Outbox.sent_at).is_(None)).limit(1)).first() is not None


def _mark_sent() -> None:
    """The queues have been told. A row that came in meanwhile is marked too: its steps are in SQL, and are counted next."""
    with db.reading() as session:
        if not unsent(session):
            return
    with db.writing() as session:
        session.connection().execute(update(Outbox).where(col(Outbox.sent_at).is_(None)).values(sent_at=db.now()))


def prune() -> None:
    """Delete rows that were sent long ago."""
    with db.writing() as session:
        session.connection().execute(delete(Outbox).where(col(Outbox.sent_at) < db.now() - KEEP_SENT_S))

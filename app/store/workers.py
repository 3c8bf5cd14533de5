"""Questions about workers and queues: who is alive, what waits, who leads. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlmodel import Session, col

from app import db
from app.heartbeat import live_workers
from app.models import Leader, Queue, Step, StepState, Worker

SCHEDULER: Final = "scheduler"
"""Name of the scheduler's row among the leaders."""


def everyone(session: Session, *, limit: int) -> list[Worker]:
    """Workers that are or were, newest first."""
    return list(session.scalars(select(Worker).order_by(col(Worker.started_at).desc(), col(Worker.id)).limit(limit)))


def busy(session: Session) -> dict[str, int]:
    """Running steps by the id of the worker that holds them."""
    query = select(col(Step.owner), func.count()).where(col(Step.state) == StepState.RUNNING).group_by(col(Step.owner))
    return {owner: count for owner, count in session.connection().execute(query) if owner}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How a queue stands."""

    queue: str
    waiting: int
    """Steps that may be claimed or soon may be."""
    running: int
    oldest_s: float | None
    """How long the longest-waiting claimable step has waited; None when none waits."""
    workers: int
    slots: int
    busy: int
    """Slots, of ``slots``, that hold a step of this queue or of another that the same worker serves."""


def queues(session: Session) -> list[QueueStats]:
    """Every queue, in the order of models.Queue."""
    at, alive, held = db.clock(session), live_workers(session), busy(session)
    open_states = col(Step.state).in_([StepState.QUEUED, StepState.RUNNING])
    counts = select(col(Step.queue), col(Step.state), func.count()).where(open_states).group_by(col(Step.queue), col(Step.state))
    by_state = {(queue, state): count for queue, state, count in session.connection().execute(counts)}
    claimable = (col(Step.state) == StepState.QUEUED, col(Step.available_at) <= at)
    oldest = select(col(Step.queue), func.min(Step.available_at)).where(*claimable).group_by(col(Step.queue))
    since = {row[0]: row[1] for row in session.connection().execute(oldest)}
    return [
        QueueStats(
            queue=queue.value,
            waiting=by_state.get((queue, StepState.QUEUED), 0),
            running=by_state.get((queue, StepState.RUNNING), 0),
            oldest_s=max(0.0, at - since[queue]) if queue in since else None,
            workers=len(servers := serving(alive, queue)),
            slots=sum(worker.slots for worker in servers),
            busy=sum(held.get(worker.id, 0) for worker in servers),
        )
        for queue in Queue
    ]


def serving(workers: Sequence[Worker], queue: str) -> list[Worker]:
    """Those of the workers that serve a queue."""
    return [worker for worker in workers if queue in worker.queues]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """Who leads the schedulers."""

    owner: str
    left_s: float
    """Until the lead runs out; below zero when it has."""


def lead(session: Session) -> Lead | None:
    """The newest lead among schedulers, run out or not; None when there never was one."""
    row = session.get(Leader, SCHEDULER)
    return Lead(owner=row.owner, left_s=row.until - db.clock(session)) if row else None

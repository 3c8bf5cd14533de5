"""Workers and queues."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query

from app import broker, db
from app.errors import BrokerUnavailable
from app.heartbeat import live_workers
from app.problems import problems
from app.schemas import QueueList, QueueOut, WorkerList, WorkerOut
from app.store import workers
from app.store.paging import MOST_ROWS

router = APIRouter(tags=["workers"])

ANSWER_TIMEOUT_S: Final = 0.5
"""A broker that takes longer counts as silent."""


@router.get("/v1/workers", response_model=WorkerList, responses=problems())
def list_workers(
    all: Annotated[bool, Query(description="also those that stopped or went away")] = False,
) -> Any:
    """The workers that are alive, and what they hold."""
    with db.reading() as session:
        alive, held = live_workers(session), workers.busy(session)
        rows = workers.everyone(session, limit=MOST_ROWS) if all else alive
    states = {worker.id: "live" for worker in alive}
    data = [
        WorkerOut.model_validate(
            {
                **row.model_dump(),
                "busy": held.get(row.id, 0),
                "state": states.get(row.id, "stopped" if row.stopped_at is not None else "gone"),
            }
        )
        for row in rows
    ]
    return WorkerList(data=data)


@router.get("/v1/queues", response_model=QueueList, responses=problems())
def list_queues() -> Any:
    """How every queue stands. Counts are the store's; ``hints`` asks the broker, and is null when it is silent."""
    with db.reading() as session:
        stats = workers.queues(session)
    hints = _hints([queue.queue for queue in stats])
    return QueueList(data=[QueueOut(**asdict(queue), hints=hints.get(queue.queue)) for queue in stats])


def _hints(queues: list[str]) -> dict[str, int]:
    try:
        broker.ping(ANSWER_TIMEOUT_S)  # waits less than a depth does, and one wait is enough
        return {queue: broker.depth(queue) for queue in queues}
    except BrokerUnavailable:
        return {}

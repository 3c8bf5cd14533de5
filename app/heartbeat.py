"""How workers say that they are alive, and who of several schedulers leads. Writes only; app/store/workers.py reads."""

from __future__ import annotations

import os
import socket
from importlib.metadata import version

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from app import db
from app.models import Leader, Worker
from app.settings import get_settings

GONE_AFTER_BEATS = 3
"""A worker that missed this many heartbeats counts as gone."""
KEEP_STOPPED_S = 24 * 3600.0
"""How long a stopped worker stays in the list."""


def gone_after_s() -> float:
    """Age of a heartbeat after which its worker counts as gone."""
    return GONE_AFTER_BEATS * get_settings().heartbeat_s


def register(worker_id: str, *, role: str, queues: list[str], slots: int) -> None:
    """Write that a worker begins. The same id again takes its row over."""
    with db.writing() as session:
        at = db.clock(session)
        session.connection().execute(delete(Worker).where(col(Worker.id) == worker_id))
        session.connection().execute(delete(Worker).where(col(Worker.heartbeat_at) < at - KEEP_STOPPED_S))
        session.add(
            Worker(
                id=worker_id,
                role=role,
                queues=queues,
                host=socket.gethostname(),
                pid=os.getpid(),
                slots=slots,
                version=version("synthq"),
                started_at=at,
                heartbeat_at=at,
            )
        )


def beat(worker_id: str) -> bool:
    """Write that a worker is alive; False when its row is gone and it must register again."""
    with db.writing() as session:
        mine = update(Worker).where(col(Worker.id) == worker_id).values(heartbeat_at=db.now(), stopped_at=None)
        return session.connection().execute(mine).rowcount == 1


def stopped(worker_id: str) -> None:
    """Write that a worker has ended."""
    with db.writing() as session:
        session.connection().execute(update(Worker).where(col(Worker.id) == worker_id).values(stopped_at=db.now()))


def live_workers(session: Session) -> list[Worker]:
    """The workers that are alive by their heartbeat."""
    alive = select(Worker).where(col(Worker.stopped_at).is_(None), col(Worker.heartbeat_at) > db.now() - gone_after_s())
    return list(session.scalars(alive.order_by(col(Worker.role), col(Worker.id))))


def lead(name: str, owner: str, for_s: float) -> bool:
    """Take or keep the lead called ``name`` for ``for_s`` seconds; False while another owner has it."""
    with db.writing() as session:
        dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
        mine = dialect.insert(Leader).values(name=name, owner=owner, until=db.now() + for_s)
        taken = mine.on_conflict_do_update(  # one statement: several that begin at once meet no row to lock
            index_elements=[col(Leader.name)],
            set_={"owner": owner, "until": db.now() + for_s},
            where=(col(Leader.owner) == owner) | (col(Leader.until) <= db.now()),
        ).returning(col(Leader.owner))
        return session.connection().execute(taken).first() is not None


def resign(name: str, owner: str) -> None:
    """Give the lead up, so that another need not wait for it to run out."""
    with db.writing() as session:
        session.connection().execute(delete(Leader).where(col(Leader.name) == name, col(Leader.owner) == owner))

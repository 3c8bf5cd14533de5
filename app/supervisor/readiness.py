"""What a starting synthq still waits for, a sentence each. Asks; changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import httpx
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from app import db
from app.errors import BrokerUnavailable
from app.models import Worker
from app.settings import Settings
from app.supervisor.child import Child, describe
from app.supervisor.facts import address
from app.supervisor.plan import API, SCHEDULER

ASK_TIMEOUT_S = 3.0
BROKER_TIMEOUT_S = 1.0
SETTLED_S = 1.0
"""A process that nobody can ask counts as ready when it has run this long."""


def silent_broker(settings: Settings) -> str | None:
    """Why a broker of the user's own does not answer; None when it does, and where synthq starts its own."""
    if not settings.redis_url:
        return None
    from app import broker  # Celery, which a supervisor has no other use for

    try:
        broker.ping(BROKER_TIMEOUT_S)
    except BrokerUnavailable as error:
        return f"waiting for the broker (SYNTHQ_REDIS_URL): {error}"
    return None


async def waiting_for(children: Mapping[str, Child], settings: Settings) -> list[str]:
    """What is not ready: processes that do not run, an api that is not ready, workers that have not registered."""
    unsteady = [sentence for child in children.values() if (sentence := _unsteady(child))]
    if unsteady:
        return unsteady
    found = [await _api(settings, alone=SCHEDULER not in children)] if API in children else []
    workers = {child.state.worker_id: child.name for child in children.values() if child.is_worker}
    if workers:
        found.append(await asyncio.to_thread(_workers, workers))
    return [sentence for sentence in found if sentence]


def _unsteady(child: Child) -> str | None:
    """Whether a process has yet to run for a while. Workers are asked in another way."""
    state = child.state
    if child.running and (child.is_worker or time.time() - (state.started_at or 0.0) >= SETTLED_S):
        return None
    if state.last_exit is None:
        return f"{child.name} has only just started"
    return f"{child.name} ended, {describe(state.last_exit)}, and is started again ({state.restarts + 1} times so far)"


async def _api(settings: Settings, *, alone: bool) -> str | None:
    """What the api lacks. ``alone``: no scheduler was asked for here, so its absence is not waited for."""
    url = f"{address(settings)}/readyz"
    try:
        async with httpx.AsyncClient(timeout=ASK_TIMEOUT_S, trust_env=False) as client:
            answer = await client.get(url)
    except httpx.HTTPError as error:
        return f"api does not answer at {url} ({type(error).__name__})"
    if answer.status_code == 200:
        return None
    try:
        parts = answer.json()["parts"]
        missing = [
            f"{name}: {part['detail']}" for name, part in parts.items() if not part["ready"] and not (alone and name == SCHEDULER)
        ]
    except (ValueError, KeyError, TypeError):
        return f"api is not ready: {answer.status_code} {answer.text[:500]}"
    return f"api is not ready ({'; '.join(missing)})" if missing else None


def _workers(names: Mapping[str | None, str]) -> str | None:
    """One worker that has registered is enough to begin with."""
    try:
        with db.reading() as session:
            mine = select(col(Worker.id)).where(col(Worker.id).in_(names), col(Worker.stopped_at).is_(None))
            live = session.connection().scalar(mine)
    except SQLAlchemyError as error:
        return f"the database does not answer ({type(error).__name__})"
    return None if live else f"{next(iter(names.values()))} has not registered as a worker yet"

"""What a starting synthq still waits for, a sentence each. Asks; changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from app import db
from app.models import Worker
from app.settings import Settings
from app.supervisor.child import Child, describe
from app.supervisor.facts import address
from app.supervisor.plan import API

ASK_TIMEOUT_S = 3.0


async def waiting_for(children: Mapping[str, Child], settings: Settings) -> list[str]:
    """What is not ready: processes that do not run, an api that is not ready, workers that have not registered."""
    down = [_down(child) for child in children.values() if not child.running]
    if down:
        return down
    found = [await _api(settings)] if API in children else []
    workers = {child.state.worker_id for child in children.values() if child.is_worker}
    if workers:
        found.append(await asyncio.to_thread(_workers, workers))
    return [sentence for sentence in found if sentence]


def _down(child: Child) -> str:
    code = child.state.last_exit
    return f"{child.name} is not started yet" if code is None else f"{child.name} ended, {describe(code)}, and will start again"


async def _api(settings: Settings) -> str | None:
    url = f"{address(settings)}/readyz"
    try:
        async with httpx.AsyncClient(timeout=ASK_TIMEOUT_S, trust_env=False) as client:
            answer = await client.get(url)
    except httpx.HTTPError as error:
        return f"api does not answer at {url} ({type(error).__name__})"
    return None if answer.status_code == 200 else f"api is not ready: {answer.status_code} {answer.text[:500]}"


def _workers(ids: set[str | None]) -> str | None:
    try:
        with db.reading() as session:
            live = session.connection().scalar(
                select(col(Worker.id)).where(col(Worker.id).in_(ids), col(Worker.stopped_at).is_(None))
            )
    except SQLAlchemyError as error:
        return f"the database does not answer ({type(error).__name__})"
    return None if live else "no worker has registered yet"

"""Is the process up, can it work, which version is it. Open to all: nothing here is anybody's data."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError

from app import broker, db, migrate
from app.errors import BrokerUnavailable
from app.schemas import HealthOut, Part, ReadyOut, VersionOut
from app.store import workers

router = APIRouter(tags=["health"])


@router.get("/health", response_model=HealthOut)
async def health() -> Any:
    """The process answers. It asks nobody else."""
    return HealthOut(version=version("synthq"))


@router.get("/version", response_model=VersionOut)
async def get_version() -> Any:
    """Which synthq this is."""
    return VersionOut(version=version("synthq"))


@router.get("/readyz", response_model=ReadyOut, responses={503: {"model": ReadyOut, "description": "a part is not ready"}})
def readyz(response: Response) -> Any:
    """Whether jobs that are submitted now will run: the database, the broker, a scheduler that leads."""
    parts = {"database": _database(), "broker": _broker()}
    parts["scheduler"] = _scheduler() if parts["database"].ready else Part(ready=False, detail="the database is not ready")
    ready = all(part.ready for part in parts.values())
    response.status_code = 200 if ready else 503
    return ReadyOut(ready=ready, parts=parts)


def _database() -> Part:
    try:
        present = migrate.current()
    except SQLAlchemyError as error:
        return Part(ready=False, detail=f"does not answer: {type(error).__name__}")
    if present != migrate.head():
        return Part(ready=False, detail=f"is at revision {present}, not {migrate.head()}; run `synthq db migrate`")
    return Part(ready=True, detail=f"at revision {present}")


def _broker() -> Part:
    try:
        broker.ping()
    except BrokerUnavailable as error:
        return Part(ready=False, detail=str(error))
    return Part(ready=True, detail="answers")


def _scheduler() -> Part:
    with db.reading() as session:
        lead = workers.lead(session)
    if lead is None:
        return Part(ready=False, detail="none leads; start one with `synthq up`")
    if lead.left_s <= 0:
        return Part(ready=False, detail=f"the lead of {lead.owner} ran out {-lead.left_s:.0f} s ago")
    return Part(ready=True, detail=f"{lead.owner} leads for another {lead.left_s:.1f} s")

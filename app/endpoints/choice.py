"""Whom to ask for a model. Reads only."""

from __future__ import annotations

from sqlalchemy import select
from sqlmodel import Session, col

from app.endpoints.rows import is_live
from app.models import Endpoint, EndpointState, ModelUse


def use_of(session: Session, job_id: str, label: str) -> ModelUse | None:
    """What a policy's label meant when its job was submitted; None for a label that names no served model."""
    return session.get(ModelUse, (job_id, label))


def ready(session: Session, base: str, adapter: str = "") -> list[Endpoint]:
    """The endpoints that answer requests for a base, or for an adapter on it by its served name; the least loaded first."""
    query = select(Endpoint).where(is_live(), col(Endpoint.state) == EndpointState.READY, col(Endpoint.base) == base)
    found = session.scalars(query.execution_options(populate_existing=True))
    return sorted((each for each in found if not adapter or adapter in each.adapters), key=_load)


def _load(endpoint: Endpoint) -> tuple[float, str]:
    return endpoint.in_flight / max(1, endpoint.capacity), endpoint.id

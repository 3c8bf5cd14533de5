"""Whom to ask for a model. Reads only."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Text, cast, literal, or_, select
from sqlmodel import Session, col

from app.endpoints.rows import is_live
from app.models import Endpoint, EndpointState, ModelUse, Step


def use_of(session: Session, job_id: str, label: str) -> ModelUse | None:
    """What a policy's label meant when its job was submitted; None for a label that names no served model."""
    return session.get(ModelUse, (job_id, label))


def ready(session: Session, base: str, adapter: str = "", *, engine: str = "auto") -> list[Endpoint]:
    """The endpoints that answer requests for a base, or for an adapter on it by its served name; the least loaded first.

    ``engine``: only those that run it.
    """
    query = select(Endpoint).where(_is_ready(), col(Endpoint.base) == base)
    if engine != "auto":
        query = query.where(col(Endpoint.engine) == engine)
    found = session.scalars(query.execution_options(populate_existing=True))
    return sorted((each for each in found if not adapter or adapter in each.adapters), key=_load)


def _load(endpoint: Endpoint) -> tuple[float, str]:
    return endpoint.in_flight / max(1, endpoint.capacity), endpoint.id


def _is_ready() -> ColumnElement[bool]:
    return is_live() & (col(Endpoint.state) == EndpointState.READY)


def is_served() -> ColumnElement[bool]:
    """True for the steps in the surrounding query whose model some endpoint answers for."""
    named = literal('%"') + col(ModelUse.adapter) + literal('"%')  # a served name is made of letters, digits and dashes
    loaded = or_(col(ModelUse.adapter) == "", cast(col(Endpoint.adapters), Text).like(named))
    answered = select(col(ModelUse.job_id)).join(Endpoint, col(Endpoint.base) == col(ModelUse.base))
    mine = (col(ModelUse.job_id) == Step.job_id, col(ModelUse.label) == Step.needs)
    fits = or_(col(ModelUse.engine) == "auto", col(ModelUse.engine) == col(Endpoint.engine))
    return answered.where(*mine, fits, loaded, _is_ready()).correlate(Step).exists()

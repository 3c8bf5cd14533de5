"""Whom to ask for a model. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, Text, cast, literal, or_, select
from sqlmodel import Session, col

from app.endpoints.options import covered, covers
from app.endpoints.rows import is_live, is_reached
from app.engines import AUTO
from app.models import AdapterVersion, Endpoint, EndpointState, ModelUse, Step, VersionState


def use_of(session: Session, job_id: str, label: str) -> ModelUse | None:
    """What a policy's label meant when its job was submitted; None for a label that names no served model."""
    return session.get(ModelUse, (job_id, label))


def ready(
    session: Session, base: str, adapter: str = "", *, engine: str = AUTO, options: Mapping[str, Any] | None = None
) -> list[Endpoint]:
    """The endpoints that answer this machine for a base, or for an adapter on it by its served name; the least loaded first.

    ``engine``: only those that run it. ``options``: only those that serve at least what a job asks for so.
    """
    query = select(Endpoint).where(is_ready(), is_reached(), col(Endpoint.base) == base)
    if engine != AUTO:
        query = query.where(col(Endpoint.engine) == engine)
    found = session.scalars(query.execution_options(populate_existing=True))
    fit = (each for each in found if covers(each.desired.get("options", {}), options or {}))
    return sorted((each for each in fit if not adapter or adapter in each.adapters), key=_load)


def _load(endpoint: Endpoint) -> tuple[float, str]:
    return endpoint.in_flight / max(1, endpoint.capacity), endpoint.id


def is_ready() -> ColumnElement[bool]:
    """True for endpoints that answer somebody."""
    return is_live() & (col(Endpoint.state) == EndpointState.READY)


def is_served(*, here: bool = False) -> ColumnElement[bool]:
    """True for the steps in the surrounding query whose model some endpoint answers for; ``here``: answers this machine."""
    loaded = or_(col(ModelUse.adapter) == "", _has(col(ModelUse.adapter)))
    answered = select(col(ModelUse.job_id)).join(Endpoint, col(Endpoint.base) == col(ModelUse.base))
    version = col(AdapterVersion.line) + literal("-v") + cast(col(AdapterVersion.version), Text)
    live = (col(AdapterVersion.line) == ModelUse.line, col(AdapterVersion.state) == VersionState.LIVE, _has(version))
    has_live = select(col(AdapterVersion.version)).where(*live).correlate(ModelUse, Endpoint).exists()
    playable = or_(col(ModelUse.line) == "", has_live)
    mine = (col(ModelUse.job_id) == Step.job_id, col(ModelUse.label) == Step.needs)
    fits = or_(col(ModelUse.engine) == AUTO, col(ModelUse.engine) == col(Endpoint.engine))
    reached = [is_reached()] if here else []
    return answered.where(*mine, fits, loaded, playable, covered(), is_ready(), *reached).correlate(Step).exists()


def _has(name: SQLColumnExpression[str]) -> ColumnElement[bool]:
    """Whether the endpoint of the surrounding query has an adapter loaded: served names are letters, digits and dashes."""
    return cast(col(Endpoint.adapters), Text).like(literal('%"') + name + literal('"%'))

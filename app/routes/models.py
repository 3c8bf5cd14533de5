"""Models that jobs have named or made, and the endpoints that serve them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from sqlalchemy import select
from sqlmodel import col

from app import db, endpoints
from app.models import Endpoint
from app.problems import problems
from app.schemas import EndpointList, EndpointOut, ModelList, ModelOut
from app.store import models
from app.store.paging import MOST_ROWS

router = APIRouter(tags=["models"])

Ref = Annotated[str, Path(max_length=1000, description="folder, hub id, artifact or served name")]


@router.get("/v1/models", response_model=ModelList, responses=problems())
def list_models(limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50) -> Any:
    """Models that jobs have named or made, the last named first, and the published versions that are in service."""
    with db.reading() as session:
        return ModelList(data=[ModelOut.model_validate(each) for each in models.known(session, limit=limit)])


@router.get("/v1/models/{ref:path}", response_model=ModelOut, responses=problems(404))
def get_model(ref: Ref) -> Any:
    """One model: what its folder says, which job made it, which used it, who serves it. No job need have named it yet."""
    with db.reading() as session:
        return ModelOut.model_validate(models.find(session, ref))


@router.get("/v1/endpoints", response_model=EndpointList, responses=problems())
def list_endpoints(
    all: Annotated[bool, Query(description="also those that stopped or went away")] = False,
) -> Any:
    """The endpoints that are alive, what they serve, and what they should."""
    with db.reading() as session:
        alive = endpoints.live(session)
        rows = alive
        if all:
            query = select(Endpoint).order_by(col(Endpoint.started_at), col(Endpoint.id)).limit(MOST_ROWS)
            rows = list(session.scalars(query))
    ids = {endpoint.id for endpoint in alive}
    states = {row.id: row.state if row.id in ids or row.state == "stopped" else "gone" for row in rows}
    return EndpointList(data=[EndpointOut.model_validate({**row.model_dump(), "state": states[row.id]}) for row in rows])

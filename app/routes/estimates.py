"""Estimates: what a training would come to, before it is submitted."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from app import db, extending, specs
from app.errors import InvalidInput
from app.estimate import Given, estimate
from app.problems import problems
from app.schemas import EstimateIn, EstimateOut

router = APIRouter(tags=["jobs"])


@router.post("/v1/estimate", response_model=EstimateOut, responses=problems(413))
def estimate_spec(body: EstimateIn) -> Any:
    """What an sft or rl spec would come to in samples, tokens, memory and time. Its data need not be there; nothing is stored."""
    spec = extending.settled(specs.parse(body.kind, body.spec))
    given = None if body.lines is None else Given(lines=body.lines, images=body.images)
    with db.reading() as session:
        found = estimate(session, spec, given)
    if found is None:
        raise InvalidInput(f"only trainings are estimated, sft and rl, and not {spec.kind}")
    return found

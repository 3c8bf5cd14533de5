"""Comparisons: policies of jobs side by side, on the seeds that all of them played."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from app import db
from app.compare import compare, read
from app.problems import problems
from app.schemas import PLAIN, CompareOut, Plain

router = APIRouter(tags=["compare"])

Ref = Annotated[Plain, Query(max_length=1200, pattern=PLAIN)]


@router.get("/v1/compare", response_model=CompareOut, responses=problems(404, 409))
def compare_jobs(
    arm: Annotated[
        list[Ref],
        Query(min_length=1, max_length=read.MOST_ARMS, description="JOB, JOB:POLICY or JOB@ITERATION; comes several times"),
    ],
    anyway: Annotated[bool, Query(description="also where the arms were not played alike")] = False,
) -> Any:
    """Arms side by side: an arm is a policy of a job. Every difference has a 95 % interval, paired over the seeds."""
    with db.reading() as session:
        arms = read.arms(session, arm)
    return compare(arms, read.achievements(arms), anyway=anyway)

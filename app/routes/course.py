"""What was measured of a job in its course: losses, returns, evaluations, by optimizer step or iteration."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query

from app import db
from app.problems import problems
from app.schemas import PLAIN, MetricOut, MetricPage, ScopeOut
from app.store import jobs, metrics

router = APIRouter(tags=["jobs"])

MOST_POINTS: Final = 10_000
"""Indices of one page."""


@router.get("/v1/jobs/{ref}/metrics", response_model=MetricPage, responses=problems(404, 409))
def list_metrics(
    ref: str,
    scope: Annotated[str | None, Query(max_length=100, pattern=PLAIN, description="train, val, update, eval, ...")] = None,
    after: Annotated[int | None, Query(ge=-1, le=2**31 - 1, description="the last index that is known of the scope")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_POINTS, description="the most indices in a page")] = 1000,
) -> Any:
    """Points of the job's course, by index. Scopes grow at their own pace: who follows a job asks for each by itself."""
    with db.reading() as session:
        job_id = jobs.find(session, ref).id
        known = metrics.scopes(session, job_id)
        rows = metrics.series(session, job_id, scope, after, limit=limit)
        last = rows[-1].index if rows else after
        ends = [each.last for each in known if scope in (None, each.scope)]
        return MetricPage(
            data=[MetricOut.model_validate(row) for row in rows],
            scopes=[ScopeOut.model_validate(each) for each in known],
            has_more=bool(rows) and max(ends, default=-1) > rows[-1].index,
            next_after=last,
        )

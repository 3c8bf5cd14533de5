"""How long a running training has yet to go, as `GET /v1/jobs/{ref}` tells it."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from test_estimate_api import base, rl_tables, submitted

from app import db
from app.models import Job, JobState, Metric, Step, StepState

__all__ = ["base"]


def updated(job_id: str, *ats: float) -> None:
    """The job runs since 0, and has made an update at each of these times."""
    with db.writing() as session:
        job = session.get_one(Job, job_id)
        job.state, job.started_at = JobState.RUNNING, db.clock(session) - 1000
        for i, at in enumerate(ats):
            session.add(Metric(job_id=job_id, scope="update", index=i, at=job.started_at + at, values={}))
            more = {"kind": "update", "queue": "trainer", "position": 100 + i, "created_at": 0.0, "available_at": 0.0}
            session.add(Step(id=f"stp_{i}", job_id=job_id, key=f"1/update/{i}", state=StepState.SUCCEEDED, **more))


@pytest.mark.parametrize(
    ("ats", "left"),
    [
        ((), None),
        ((990,), 4 * 990 - 10),
        ((900, 950, 1000), 2 * 50),
        ((100, 150, 900, 950, 1000), 0),
        ((100, 150, 200, 1000), 50),
        ((100, 110), 0),
    ],
    ids=["nothing yet", "one", "several", "all", "a pause between attempts", "late"],
)
def test_what_is_left_follows_from_the_jobs_own_pace(api: TestClient, base: str, ats: tuple[float, ...], left: float) -> None:
    job = submitted(api, "rl", rl_tables(base))
    assert api.get(f"/v1/jobs/{job}").json()["left_s"] is None, "it does not run"
    updated(job, *ats)
    told = api.get(f"/v1/jobs/{job}").json()["left_s"]
    assert told == (None if left is None else pytest.approx(left, abs=5))
    (listed,) = api.get("/v1/jobs").json()["data"]
    assert (listed["left_s"] is None) == (left is None)

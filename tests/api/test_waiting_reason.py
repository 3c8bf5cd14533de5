"""`waiting` says why a job is not running: the first thing that must change before it can."""

from __future__ import annotations

import pytest
from core.kit import claim
from fastapi.testclient import TestClient
from served import Submit, eval_tables, fail, start_scheduler, start_worker
from sqlalchemy import update

from app import db, heartbeat
from app.models import Job, JobState, Outbox, Worker
from app.settings import get_settings

LONG_AGO_S = 3600.0


@pytest.fixture
def reason(api: TestClient):
    def read(job: dict) -> str | None:
        alone = api.get(f"/v1/jobs/{job['id']}").json()["waiting"]
        listed = {other["id"]: other["waiting"] for other in api.get("/v1/jobs").json()["data"]}
        assert listed[job["id"]] == alone, "the list and the job tell the same"
        return alone

    return read


def test_it_waits_for_another_job(submit: Submit, reason):
    first = submit()
    second = submit(after=[{"job": first["id"]}])
    assert reason(second) == f"waits for job {first['id']} (queued)"
    third = submit(after=[{"job": first["id"]}, {"job": second["id"], "on": "any"}])
    assert reason(third) == f"waits for job {first['id']} (queued) and 1 more job"


def test_no_scheduler_leads(submit: Submit, reason):
    job = submit()
    start_worker()
    assert reason(job) == "no scheduler leads, so no worker is told of it; start one with `synthq up`"
    heartbeat.lead("scheduler", "one", -1.0)
    assert "no scheduler leads" in reason(job)


def test_no_worker_serves_its_queue(submit: Submit, reason):
    job = submit()
    start_scheduler()
    assert reason(job) == "no live worker serves queue rollout; start one: `synthq worker rollout`"
    start_worker()
    with db.writing() as session:
        silent = db.now() - 3.1 * get_settings().heartbeat_s
        session.connection().execute(update(Worker).values(heartbeat_at=silent))
    assert "no live worker" in reason(job), "a worker that fell silent counts as gone"
    heartbeat.beat("worker-of-the-test")
    assert "no live worker" not in reason(job)
    heartbeat.stopped("worker-of-the-test")
    assert "no live worker" in reason(job)


def test_all_slots_are_busy(submit: Submit, reason):
    start_scheduler()
    start_worker(slots=2)
    busy, first, second, urgent = submit(), submit(), submit(), submit(priority=3)
    claim()
    claim()
    assert reason(urgent) is None, "it was claimed first, and runs"
    assert reason(busy) == "all 2 slots of queue rollout are busy; 0 steps ahead of it"
    assert reason(first) == "all 2 slots of queue rollout are busy; 1 step ahead of it"
    assert reason(second) == "all 2 slots of queue rollout are busy; 2 steps ahead of it"
    submit(priority=1, spec=eval_tables(seeds="0-4"))
    assert reason(second) == "all 2 slots of queue rollout are busy; 7 steps ahead of it"


def test_its_own_limit_holds_it_back(submit: Submit, reason):
    start_scheduler()
    start_worker(slots=8)
    job = submit(spec=eval_tables(seeds="0-3", concurrency=1))
    claim()
    assert reason(job) == "3 steps wait: 1 run, and the job's own max_parallel is 1"


def test_it_waits_after_a_failed_attempt(submit: Submit, reason):
    start_scheduler()
    start_worker()
    job = submit(spec=eval_tables(seeds="0"))
    fail(claim(), "engine gone", retryable=True)
    sentence = reason(job)
    assert sentence.startswith("waits until ")
    assert sentence.endswith(" UTC after attempt 1 of 3 of step 1/play/00000: engine gone")


def test_a_worker_is_about_to_take_it(submit: Submit, reason):
    start_scheduler()
    start_worker(slots=2)
    job = submit()
    assert reason(job) == "2 of 2 slots of queue rollout are free; a worker takes it within seconds"


def test_the_broker_may_be_down_when_a_hint_stays_unsent(submit: Submit, reason):
    start_scheduler()
    start_worker()
    job = submit()
    with db.writing() as session:
        session.connection().execute(update(Outbox).values(created_at=db.now() - LONG_AGO_S))
    assert reason(job) == "queue rollout could not be told of it for 3600 s: the broker may be down (GET /readyz tells)"


def test_nothing_is_said_of_a_job_that_runs_or_has_ended(api: TestClient, submit: Submit, reason):
    runs, ended = submit(priority=1), submit()
    claim()
    api.post(f"/v1/jobs/{ended['id']}/cancel")
    assert reason(runs) is None
    assert reason(ended) is None


def test_a_job_that_is_between_two_of_its_steps_does_not_wait(submit: Submit, reason):
    start_scheduler()
    start_worker(slots=2)
    job = submit()
    assert reason(job) == "2 of 2 slots of queue rollout are free; a worker takes it within seconds"
    with db.writing() as session:
        session.get_one(Job, job["id"]).state = JobState.RUNNING
    assert reason(job) is None

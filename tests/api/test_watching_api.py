"""What an operator watches: health, readiness, workers, queues, metrics."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from core.kit import WORKER, claim
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from served import Submit, forget_broker, start_scheduler, start_worker

from app import broker, embedded_broker, endpoints, heartbeat
from app.settings import get_settings


@pytest.fixture
def valkey(home, monkeypatch):
    """A real broker in the home."""
    monkeypatch.delenv("SYNTHQ_REDIS_URL")
    get_settings.cache_clear()
    forget_broker()
    process = subprocess.Popen([sys.executable, "-m", "app.embedded_broker"], stdout=subprocess.DEVNULL)
    try:
        embedded_broker.wait_until_ready(get_settings().broker_socket, alive=lambda: process.poll() is None)
        yield
    finally:
        process.terminate()
        process.wait(20)
        broker.client(1.0).close()


def samples(api: TestClient) -> dict[str, dict[tuple[str, ...], float]]:
    """name -> label values, sorted by the labels' names -> value."""
    response = api.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            values = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[values] = sample.value
    return found


def test_health_and_version_ask_nobody(api: TestClient):
    assert api.get("/health").json() == {"healthy": True, "version": version("synthq")}
    assert api.get("/version").json() == {"version": version("synthq")}


def test_readiness_names_the_part_that_is_missing(api: TestClient):
    response = api.get("/readyz")
    parts = response.json()["parts"]
    assert response.status_code == 503
    assert {name: part["ready"] for name, part in parts.items()} == {"database": True, "broker": False, "scheduler": False}
    start_scheduler()
    assert api.get("/readyz").json()["parts"]["scheduler"]["ready"]
    heartbeat.resign("scheduler", "scheduler-of-the-test")
    heartbeat.lead("scheduler", "another", -7.0)
    assert "ran out 7 s ago" in api.get("/readyz").json()["parts"]["scheduler"]["detail"]


@pytest.mark.integration
def test_with_a_broker_and_a_scheduler_it_is_ready(api: TestClient, valkey):
    start_scheduler()
    response = api.get("/readyz")
    assert (response.status_code, response.json()["ready"]) == (200, True)


@pytest.mark.integration
def test_queues_tell_the_hints_in_the_broker(api: TestClient, valkey, submit: Submit):
    submit()
    broker.client(1.0).lpush(f"{get_settings().redis_prefix}rollout", "hint")
    queues = {queue["queue"]: queue for queue in api.get("/v1/queues").json()["data"]}
    assert (queues["rollout"]["hints"], queues["data"]["hints"]) == (1, 0)


def test_queues_and_workers_tell_what_waits_and_who_works(api: TestClient, submit: Submit):
    start_worker(slots=3)
    submit()
    claim()
    rollout = next(queue for queue in api.get("/v1/queues").json()["data"] if queue["queue"] == "rollout")
    oldest_s = rollout.pop("oldest_s")
    assert 0 <= oldest_s < 60
    expected = {"queue": "rollout", "waiting": 1, "running": 1, "hints": None, "workers": 1, "slots": 3, "busy": 1}
    assert rollout == expected
    worker = api.get("/v1/workers").json()["data"][0]
    assert (worker["id"], worker["role"], worker["slots"], worker["busy"], worker["state"]) == (WORKER, "rollout", 3, 1, "live")
    heartbeat.stopped(WORKER)
    assert api.get("/v1/workers").json()["data"] == []
    assert [worker["state"] for worker in api.get("/v1/workers?all=true").json()["data"]] == ["stopped"]


def test_metrics_are_counted_when_they_are_read(api: TestClient, submit: Submit):
    job = submit()
    before = samples(api)
    assert before["synthq_jobs"] == {("eval", "queued"): 1}
    assert before["synthq_queue_waiting"][("rollout",)] == 2
    assert before["synthq_steps_running"][("rollout",)] == 0
    assert before["synthq_queue_oldest_age_seconds"][("data",)] == 0
    assert before["synthq_queue_oldest_age_seconds"][("rollout",)] > 0
    assert before["synthq_outbox_unsent"] == {(): 1}
    assert "synthq_workers" not in before
    assert "synthq_scheduler_lead_left_seconds" not in before
    start_worker(slots=4)
    start_scheduler()
    claim()
    after = samples(api)
    assert after["synthq_jobs"] == {("eval", "running"): 1}
    assert after["synthq_steps_running"][("rollout",)] == 1
    assert after["synthq_workers"] == {("rollout",): 1}
    assert after["synthq_worker_slots"] == {("rollout",): 4}
    assert 0 < after["synthq_scheduler_lead_left_seconds"][()] <= 60
    assert job["id"] not in api.get("/metrics").text


def test_what_serves_models_is_counted_by_engine_and_state(api: TestClient):
    assert "synthq_endpoints" not in samples(api)
    begun, ready, other = (endpoints.register(f"inference-{n}", engines=["transformers"]) for n in range(3))
    for id, busy in ((ready, 3), (other, 4)):
        served = {"one": {"path": "/a", "sha256": ""}}
        endpoints.report(id, state="ready", base="/m", engine="vllm", in_flight=busy, capacity=8, adapters=served)
    found = samples(api)
    assert found["synthq_endpoints"] == {("vllm", "ready"): 2, ("", "starting"): 1}
    assert [found[f"synthq_endpoint_{name}"] for name in ("requests", "capacity", "adapters")] == [
        {("vllm",): 7},
        {("vllm",): 16},
        {("vllm",): 2},
    ]
    assert not any(id in api.get("/metrics").text for id in (begun, ready, other))
    endpoints.stopped(begun)
    assert samples(api)["synthq_endpoints"] == {("vllm", "ready"): 2}


def test_requests_are_counted_under_their_routes_and_never_under_ids(api: TestClient, submit: Submit):
    job = submit()

    def counts() -> dict[tuple[str, ...], float]:
        return samples(api)["synthq_http_request_duration_seconds_count"]

    before = counts()
    api.get(job["links"]["self"])
    api.get("/nothing/here")
    api.request("BREW", "/v1/jobs")
    after = counts()
    wanted = [("200", "GET", "/v1/jobs/{ref}"), ("404", "GET", "unmatched"), ("405", "other", "/v1/jobs")]
    for labels in wanted:
        assert after.get(labels, 0) == before.get(labels, 0) + 1, labels
    assert job["id"] not in str(after)

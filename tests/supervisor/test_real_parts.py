from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from supervisor.conftest import Home, until

from app.settings import get_settings
from app.supervisor.state import end_leftovers, identity, read_state

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SPEC = {"eval": {"env": "crafter", "seeds": "0-5", "policies": ["scripted"], "episodes_per_step": 2, "save_frames": "none"}}


@pytest.fixture
def synthq(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """The real processes with an embedded broker, and a client of their api."""
    monkeypatch.delenv("SYNTHQ_REDIS_URL")
    monkeypatch.setenv("SYNTHQ_TASK_APP_PORT", "0")
    get_settings.cache_clear()
    up = home.run("up", "--detach", "--port", "0", "--no-flower")
    assert up.returncode == 0, up.stderr
    with httpx.Client(base_url=home.state()["facts"]["api"], trust_env=False, timeout=20) as client:
        yield client
    state = read_state(get_settings())
    home.down()
    if state is not None:
        end_leftovers(state)


def submit(client: httpx.Client) -> str:
    answer = client.post("/v1/jobs", json={"kind": "eval", "spec": SPEC})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def held_by(client: httpx.Client, job_id: str, worker_id: str) -> list[dict[str, Any]]:
    steps = client.get(f"/v1/jobs/{job_id}/steps").json()
    rows: list[dict[str, Any]] = steps["data"] if isinstance(steps, dict) else steps
    return [step for step in rows if step["owner"] == worker_id and step["state"] == "running"]


def test_a_killed_workers_step_goes_back_at_once_and_the_job_ends_well(synthq: httpx.Client, home: Home) -> None:
    job_id = submit(synthq)
    first = home.state()["processes"]["rollout-1"]
    until(lambda: held_by(synthq, job_id, first["worker_id"]), "the worker holds a step")

    os.kill(first["pid"], signal.SIGKILL)

    # Its lease would last a minute; nobody waits for that.
    until(lambda: not held_by(synthq, job_id, first["worker_id"]), "its step went back", timeout_s=10)
    events = synthq.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert any("worker rollout-1 ended" in event["message"] for event in events)
    job = until(
        lambda: (found := synthq.get(f"/v1/jobs/{job_id}").json())["state"] in ("succeeded", "failed", "cancelled") and found,
        "the job ends",
        timeout_s=120,
    )
    assert (job["state"], job["progress"]["done"]) == ("succeeded", 6)


def test_down_hands_work_back_and_leaves_nothing_running(synthq: httpx.Client, home: Home) -> None:
    job_id = submit(synthq)
    workers = [each["worker_id"] for name, each in home.state()["processes"].items() if name.startswith("rollout")]
    until(lambda: any(held_by(synthq, job_id, worker) for worker in workers), "a worker holds a step")
    pids = home.pids()

    assert home.down().returncode == 0
    assert not any(identity(pid) for pid in pids.values())

    again = home.run("up", "--detach", "--port", "0", "--no-flower")
    assert again.returncode == 0, again.stderr
    with httpx.Client(base_url=home.state()["facts"]["api"], trust_env=False, timeout=20) as client:
        until(
            lambda: client.get(f"/v1/jobs/{job_id}").json()["progress"]["done"] == 6, "the job went on to its end", timeout_s=120
        )

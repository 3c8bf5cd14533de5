"""Events: pages without gaps, and streams that follow a job to its end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from core.kit import claim, work_through
from fastapi import FastAPI
from fastapi.testclient import TestClient
from served import Submit, client_of, fail

from app import db
from app.routes import events as routes
from app.store import events

SSE = {"Accept": "text/event-stream"}


@pytest.fixture
def served(app: FastAPI, home) -> Iterator[httpx.Client]:
    """The API behind a real server, where a client can really go away."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield client
    server.should_exit = True
    thread.join(20)


def wait_until(true, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def messages(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The messages of a stream, each as field -> value."""
    message: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            message[name] = value
        elif message:
            yield message
            message = {}


def test_pages_are_in_order_without_gaps_and_say_when_the_job_has_ended(api: TestClient, submit: Submit):
    url = submit()["links"]["events"]
    work_through()
    seen, after, ended = [], 0, False
    while not ended:
        page = api.get(f"{url}?after={after}&limit=2").json()
        seen += [event["seq"] for event in page["data"]]
        after, ended = page["next_after"], page["ended"]
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= 3
    assert api.get(url).json()["data"][-1]["type"] == "job.succeeded"


def test_a_page_behind_the_last_event_of_a_running_job_is_empty_and_not_the_end(api: TestClient, submit: Submit):
    page = api.get(f"{submit()['links']['events']}?after=1").json()
    assert page == {"data": [], "next_after": 1, "ended": False}


def test_the_stream_of_an_ended_job_is_its_events_and_then_done(api: TestClient, submit: Submit):
    job = submit()
    work_through()
    response = api.get(job["links"]["events"], headers=SSE)
    told = list(messages(response.iter_lines()))
    page = api.get(job["links"]["events"]).json()["data"]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert told[0] == {"retry": "3000"}
    assert [json.loads(message["data"]) for message in told[1:-1]] == page
    assert [(int(message["id"]), message["event"]) for message in told[1:-1]] == [(e["seq"], e["type"]) for e in page]
    assert (told[-1]["event"], json.loads(told[-1]["data"])["state"]) == ("done", "succeeded")
    assert "id" not in told[-1]


def test_a_stream_goes_on_where_the_client_lost_it(api: TestClient, submit: Submit):
    job = submit()
    work_through()
    url, last = job["links"]["events"], len(api.get(job["links"]["events"]).json()["data"])
    told = list(messages(api.get(f"{url}?after=1", headers={**SSE, "Last-Event-ID": str(last - 1)}).iter_lines()))
    assert [message.get("id") for message in told] == [None, str(last), None]
    told = list(messages(api.get(f"{url}?after={last}", headers=SSE).iter_lines()))
    assert [message.get("event") for message in told] == [None, "done"]


@pytest.mark.parametrize("id", ["x", "-1", "1.5", "99999999999", "١"])
def test_a_last_event_id_that_is_no_number_is_refused(api: TestClient, submit: Submit, id: str):
    headers = {**SSE, "Last-Event-ID": id.encode()}
    assert api.get(submit()["links"]["events"], headers=headers).status_code == 422


def test_a_stream_tells_events_as_they_come(served: httpx.Client, submit: Submit):
    job = submit()
    with served.stream("GET", job["links"]["events"], headers=SSE) as response:
        told = messages(response.iter_lines())
        assert [next(told).get("event") for _ in range(2)] == [None, "job.created"]
        claim()
        assert next(told)["event"] == "job.started"
        with db.writing() as session:
            events.append(session, job["id"], "note", "line one\nline two")
        assert json.loads(next(told)["data"])["message"] == "line one\nline two"
        served.post(f"/v1/jobs/{job['id']}/cancel")
        assert next(told)["event"] == "job.cancel_requested"


def test_a_client_that_goes_away_gives_its_place_back(app: FastAPI, served: httpx.Client, submit: Submit):
    url = submit()["links"]["events"]
    with served.stream("GET", url, headers=SSE) as response:
        lines = response.iter_lines()  # kept: httpx closes a response whose iterator goes away
        next(lines)
        assert app.state.streams.open == 1
    wait_until(lambda: app.state.streams.open == 0)


def test_the_stream_of_a_job_that_is_removed_just_ends(served: httpx.Client, submit: Submit):
    job = submit()
    served.post(f"/v1/jobs/{job['id']}/cancel")
    with served.stream("GET", job["links"]["events"], headers=SSE) as response:
        assert [m.get("event") for m in messages(response.iter_lines())][-1] == "done"
    other = submit()
    with served.stream("GET", other["links"]["events"], headers=SSE) as response:
        lines = response.iter_lines()
        next(lines)
        served.post(f"/v1/jobs/{other['id']}/cancel")
        served.delete(f"/v1/jobs/{other['id']}")
        list(lines)


def test_one_caller_holds_only_so_many_streams(app: FastAPI, served: httpx.Client, submit: Submit, monkeypatch):
    monkeypatch.setattr(routes, "MOST_STREAMS", 1)
    url = submit()["links"]["events"]
    with served.stream("GET", url, headers=SSE) as response:
        lines = response.iter_lines()
        next(lines)
        refused = served.get(url, headers=SSE)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
        assert served.get(url).status_code == 200, "pages are never refused"
    wait_until(lambda: app.state.streams.open == 0)
    with served.stream("GET", url, headers=SSE) as response:
        assert response.status_code == 200


def test_a_quiet_stream_is_kept_open_by_comments(served: httpx.Client, submit: Submit, monkeypatch):
    monkeypatch.setattr(routes, "PING_S", 0.2)
    with served.stream("GET", f"{submit()['links']['events']}?after=1", headers=SSE) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": ping"


def test_what_went_wrong_with_a_step_is_among_the_events(app: FastAPI, api: TestClient, submit: Submit):
    job = submit()
    fail(claim(), "the disk is full", retryable=True)
    told = client_of(app).get(job["links"]["events"]).json()["data"][-1]
    assert (told["type"], told["level"]) == ("step.requeued", "warning")
    assert "the disk is full" in told["message"]
    assert told["step_id"].startswith("stp_")

"""A broker that is gone or frozen slows no request down: the API writes rows and leaves the queue to the scheduler."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from served import Submit, forget_broker, unused_port

from app.settings import get_settings

SOON_S = 0.5


@pytest.fixture(params=["nobody listens", "it accepts and never answers", "its packets are swallowed"])
def broken(request, home, monkeypatch) -> Iterator[None]:
    """A broker's address at which no broker works."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if request.param == "it accepts and never answers":
            listener.listen(16)  # the kernel accepts; nobody ever reads
        elif request.param == "its packets are swallowed":
            listener.listen(0)  # a full backlog: the kernel drops what comes
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
        else:
            port = unused_port()
        monkeypatch.setenv("SYNTHQ_REDIS_URL", f"redis://127.0.0.1:{port}/0")
        get_settings.cache_clear()
        forget_broker()
        yield
        if request.param == "its packets are swallowed":
            for filler in fillers:
                filler.close()
    forget_broker()


def test_jobs_are_accepted_cancelled_and_retried_at_once(broken, api: TestClient, submit: Submit):
    submit()  # what is loaded at the first request is not the broker's doing
    took: list[float] = []
    for _ in range(5):
        started = time.monotonic()
        job = submit()
        took.append(time.monotonic() - started)
        for change in ("cancel", "retry"):
            started = time.monotonic()
            assert api.post(f"{job['links']['self']}/{change}").status_code == 200
            took.append(time.monotonic() - started)
    # They take 10 to 20 ms each. One may meet a disk that another test keeps busy; a wait for the broker would meet them all.
    assert sorted(took)[-2] < SOON_S


def test_readiness_and_queues_answer_within_their_time(broken, api: TestClient):
    started = time.monotonic()
    assert not api.get("/readyz").json()["parts"]["broker"]["ready"]
    assert time.monotonic() - started < 2.5
    started = time.monotonic()
    assert {queue["hints"] for queue in api.get("/v1/queues").json()["data"]} == {None}
    assert time.monotonic() - started < 1.5

"""A broker that is gone or frozen slows no request down: the API writes rows and leaves the queue to the scheduler."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from core import kit
from fastapi.testclient import TestClient
from served import Submit, forget_broker, unused_port

from app.settings import get_settings

SOON_S = 0.4
"""A request takes 10 to 20 ms; a wait for the broker takes half a second and more."""


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


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that something took, and what it gave."""
    started = time.monotonic()
    found = act()
    return time.monotonic() - started, found


def usual_s() -> float:
    """What a write that asks no broker takes on this machine now: others may keep its processors and its disk busy."""
    return max(timed(kit.submit_noop)[0] for _ in range(3))


def test_jobs_are_accepted_cancelled_and_retried_at_once(broken, api: TestClient, submit: Submit):
    submit()  # what is loaded at the first request is not the broker's doing
    took, usual = [], []
    for _ in range(5):
        usual.append(usual_s())
        seconds, job = timed(submit)
        took.append(seconds)
        for change in ("cancel", "retry"):
            seconds, answer = timed(lambda path=f"{job['links']['self']}/{change}": api.post(path))
            assert answer.status_code == 200
            took.append(seconds)
    # One may meet what another test does; a wait for the broker would meet them all.
    assert sorted(took)[-2] < max(SOON_S, 10 * max(usual))


def test_no_request_speaks_to_the_broker_itself(broken, api: TestClient, submit: Submit, monkeypatch: pytest.MonkeyPatch):
    spoke: list[str] = []
    connect = redis.connection.AbstractConnection.connect
    monkeypatch.setattr(
        redis.connection.AbstractConnection,
        "connect",
        lambda self: (spoke.append(threading.current_thread().name), connect(self))[1],
    )
    job = submit()
    api.post(f"{job['links']['self']}/cancel")
    kit.until(lambda: spoke, 30, "the scheduler is to be woken")
    assert set(spoke) == {"synthq-nudge"}


def test_readiness_and_queues_answer_within_their_time(broken, api: TestClient):
    slack = 10 * usual_s()
    seconds, answer = timed(lambda: api.get("/readyz"))
    assert not answer.json()["parts"]["broker"]["ready"]
    assert seconds < 2.5 + slack
    seconds, answer = timed(lambda: api.get("/v1/queues"))
    assert {queue["hints"] for queue in answer.json()["data"]} == {None}
    assert seconds < 1.5 + slack

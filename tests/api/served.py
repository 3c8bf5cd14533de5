"""What the tests of the API share: a client, small specs, and the acts of a worker and a scheduler."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import redis
from core.kit import WORKER
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app import broker, claims, db, heartbeat, lifecycle
from app.models import Job
from app.store import jobs

Submit = Callable[..., dict[str, Any]]


def unused_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


KEPT: list[redis.Redis] = []
"""Clients that the nudging thread may still be using: one that nobody holds closes itself under the thread's hands."""


def forget_broker() -> None:
    """Let the next call of the broker go to the address in the present settings."""
    KEPT.append(broker.client(broker.NUDGE_TIMEOUT_S))
    broker.client.cache_clear()


def client_of(app: FastAPI, *, address: str = "127.0.0.1", host: str = "127.0.0.1", **options: Any) -> TestClient:
    """A client at an address that calls the API by a host name."""
    return TestClient(app, base_url=f"http://{host}", client=(address, 50000), **options)


def eval_tables(**table: Any) -> dict[str, Any]:
    """A small eval; keywords go over the keys of its table."""
    asked = {"policies": ["scripted"], "seeds": "0-1", "max_turns": 6, **table}
    return {"eval": {**asked, "env_config": {"length": 60}}}


def row(job_id: str) -> Job:
    """A job's row as it is now."""
    with db.reading() as session:
        return jobs.find(session, job_id)


def fail(taken: claims.Claim, reason: str, *, retryable: bool = False) -> None:
    """End an attempt of a step badly."""
    with db.writing() as session:
        lifecycle.fail_step(session, taken.step_id, taken.fence, reason, retryable=retryable)


def start_scheduler() -> None:
    """Write that a scheduler leads."""
    assert heartbeat.lead("scheduler", "scheduler-of-the-test", 60.0)


def start_worker(slots: int = 1, worker_id: str = WORKER) -> None:
    """Write that a worker is alive and serves the queues of a rollout worker."""
    heartbeat.register(worker_id, role="rollout", queues=["rollout", "data"], slots=slots)

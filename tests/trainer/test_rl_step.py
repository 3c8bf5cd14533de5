"""The steps ``begin`` and ``update`` in a worker, with a real child: what they write, publish and wait for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core.kit import WORKER, job, job_events, steps, use_settings
from core.serving import bring_there, look, up

pytest.importorskip("torch", reason="the trainer needs the extra 'model'")

from trainer.rl_kit import Stage, spec_of

from app import claims, db, lifecycle
from app.models import AdapterVersion, Queue
from app.store import metrics
from workers.runner import run_claim
from workers.tasks import STEPS
from workers.trainer.resident import Resident, keeper

pytestmark = [pytest.mark.usefixtures("sqlite_store"), pytest.mark.vision, pytest.mark.slow, pytest.mark.integration]


@pytest.fixture
def child(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resident of this test's own."""
    with use_settings(SYNTHQ_BACKOFF_S="0", SYNTHQ_ENDPOINT_HEARTBEAT_S="1000", OMP_NUM_THREADS="1"):
        own = Resident()
        monkeypatch.setattr(keeper, "_own", own)
        own.start()
        yield
        own.stop()


@pytest.fixture
def served(tiny_model: Path, sqlite_store: str, child: None) -> Iterator[None]:
    """An endpoint that loads at once whatever is desired, and a scheduler that looks."""
    endpoint, stop = up(base=str(tiny_model)), threading.Event()

    def tend() -> None:
        while not stop.wait(0.05):
            look()
            bring_there(endpoint)

    thread = threading.Thread(target=tend)
    thread.start()
    yield
    stop.set()
    thread.join()


def work(queue: Queue) -> dict[str, Any]:
    """Run the step that waits, as a worker would; what it gives."""
    taken = claims.claim(queue, owner=WORKER)
    assert taken is not None, f"nothing waits in {queue}"
    run_claim(taken, STEPS)
    [done] = [step for step in steps(taken.job_id) if step.id == taken.step_id]
    assert done.state == "succeeded", done.reason
    return done.result or {}


def played(of: Stage, iteration: int) -> None:
    """Play an iteration here, in place of the workers whose steps wait."""
    of.play(iteration)
    while (taken := claims.claim(Queue.ROLLOUT, owner=WORKER)) is not None:
        with db.writing() as session:
            lifecycle.succeed_step(session, taken.step_id, taken.fence, {})


def version(job_id: str, number: int) -> AdapterVersion:
    with db.reading() as session:
        found = session.get(AdapterVersion, (job_id, number))
        assert found is not None
        session.expunge(found)
        return found


@pytest.mark.usefixtures("served")
def test_an_update_ends_when_its_version_is_live_and_a_retry_goes_on_from_it(tiny_model: Path) -> None:
    of = Stage(tiny_model, spec_of(tiny_model, evaluation={"at_start": False}, loggers={"tensorboard": False}))
    begun = work(Queue.TRAINER)
    assert (begun["updates"], begun["version"]) == (0, 1)
    assert version(of.job.id, 1).state == "live"
    assert version(of.job.id, 1).sha256 == of.result(-1)["sha256"]
    played(of, 0)
    made = work(Queue.TRAINER)
    assert (made["version"], made["stop"], made["warnings"]) == (2, None, [])
    assert (version(of.job.id, 2).state, version(of.job.id, 2).sha256) == ("live", of.result(0)["sha256"])
    with db.reading() as session:
        [point] = metrics.series(session, of.job.id, "update")
    assert point.index == 0
    assert point.values == {**of.result(0)["figures"], "seconds/publish": pytest.approx(point.values["seconds/publish"])}
    assert point.values["seconds/publish"] >= 0
    said = [event.message for event in job_events(of.job.id) if event.type == "update.done"]
    assert said[0].startswith("update 0: return ")
    with db.writing() as session:
        lifecycle.cancel(session, job(of.job.id))
        lifecycle.retry(session, job(of.job.id))
    again = work(Queue.TRAINER)
    assert (again["updates"], again["version"]) == (1, 2)
    assert version(of.job.id, 2).state == "live"


@pytest.mark.usefixtures("child")
def test_where_nobody_serves_the_base_a_step_makes_room_and_goes_on_later(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.trainer.rl.step.LIVE_S", 0.2)
    of = Stage(tiny_model, spec_of(tiny_model))
    taken = claims.claim(Queue.TRAINER, owner=WORKER)
    assert taken is not None
    run_claim(taken, STEPS)
    [step] = steps(of.job.id)
    assert (step.state, step.attempt) == ("queued", 0)
    assert step.reason == "no engine has loaded version 1 of the adapter within 0.2 s"
    assert version(of.job.id, 1).state == "loading", "it is published, and whoever comes loads it"

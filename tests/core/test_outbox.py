"""Hints: as many as there are free slots and a margin, sent again when lost, held back while the broker is away."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest
from core import kit
from core.kit import Broker
from sqlalchemy import text

from app import broker as broker_module
from app import claims, db, heartbeat, lifecycle, outbox
from app.errors import BrokerUnavailable
from app.models import Queue
from app.scheduler import Scheduler
from app.settings import get_settings

MARGIN = 4


@pytest.fixture
def publisher(broker: Broker):
    made = broker_module.HintPublisher()
    yield made
    made.close()


def unsent() -> bool:
    with db.reading() as session:
        return outbox.unsent(session)


def worker(slots: int, name: str = "w") -> None:
    heartbeat.register(name, role="rollout", queues=["rollout", "data"], slots=slots)


def hinted(broker: Broker, queue: Queue = Queue.DATA) -> list[str]:
    """The step ids that lie in a queue, oldest first, as a worker would read them."""
    import base64

    raw = broker.client.lrange(f"synthq:{queue}", 0, -1)[::-1]
    return [json.loads(base64.b64decode(json.loads(message)["body"]))[0][0] for message in raw]


# -- how many --------------------------------------------------------------------------------------------------------------


def test_a_queue_holds_a_hint_for_each_free_slot_and_a_margin(
    broker: Broker, publisher: broker_module.HintPublisher, store: str
) -> None:
    worker(3)
    kit.submit_noop(50)
    assert outbox.dispatch(publisher) == 3 + MARGIN
    assert broker_module.depth(Queue.DATA) == 3 + MARGIN
    assert outbox.dispatch(publisher) == 0
    for _ in range(3):
        assert claims.claim(Queue.DATA, owner="w") is not None
        broker.client.rpop("synthq:data")
    assert outbox.dispatch(publisher) == 0, "every slot is busy, and the margin still lies there"
    assert len(set(hinted(broker))) == MARGIN


def test_a_hint_is_for_a_step_that_waits_and_there_are_never_more_than_such_steps(
    broker: Broker, publisher: broker_module.HintPublisher, store: str
) -> None:
    worker(10)
    job = kit.submit_noop(2)
    kit.submit_eval("0-9", episodes_per_step=1, concurrency=2)
    pausing = kit.submit_noop(5)
    kit.write("UPDATE step SET available_at = available_at + 3600 WHERE job_id = :id", id=pausing.id)
    assert outbox.dispatch(publisher) == 2 + 2
    assert sorted(hinted(broker)) == sorted(step.id for step in kit.steps(job.id))
    assert broker_module.depth(Queue.ROLLOUT) == 2
    assert not unsent()


def test_without_workers_a_queue_holds_the_margin(broker: Broker, publisher: broker_module.HintPublisher, store: str) -> None:
    worker(8, "stopped")
    heartbeat.stopped("stopped")
    kit.submit_noop(50)
    assert outbox.dispatch(publisher) == MARGIN


# -- what is lost is sent again --------------------------------------------------------------------------------------------


def test_lost_hints_are_sent_again(broker: Broker, publisher: broker_module.HintPublisher, sqlite_store: str) -> None:
    kit.submit_noop(50)
    outbox.dispatch(publisher)
    for _ in range(2):
        broker.client.flushall()
        assert outbox.dispatch(publisher) == MARGIN
        assert len(hinted(broker)) == MARGIN, "a publish after a flush must not fall into the void"


def test_nothing_is_sent_while_the_broker_is_away_and_everything_after(
    broker: Broker, publisher: broker_module.HintPublisher, sqlite_store: str
) -> None:
    kit.submit_noop(3)
    broker.kill()
    with pytest.raises(BrokerUnavailable, match="does not answer"):
        outbox.dispatch(publisher)
    assert unsent()
    broker.start()
    assert outbox.dispatch(publisher) == 3
    assert not unsent()
    broker.kill()  # and once more, with connections that were in use
    kit.submit_noop(1)
    with pytest.raises(BrokerUnavailable):
        outbox.dispatch(publisher)
    broker.start()
    kit.until(lambda: outbox.dispatch(publisher) or broker_module.depth(Queue.DATA), 5, "the hint is sent")


def test_sent_rows_are_deleted_after_their_time(broker: Broker, publisher: broker_module.HintPublisher, store: str) -> None:
    kit.submit_noop()
    outbox.dispatch(publisher)
    kit.write("UPDATE outbox SET sent_at = sent_at - :s", s=outbox.KEEP_SENT_S + 1)
    kit.submit_noop()
    outbox.prune()
    with db.reading() as session:
        assert session.execute(text("SELECT count(*) FROM outbox")).scalar() == 1
    assert unsent()


# -- a frozen broker -------------------------------------------------------------------------------------------------------


def test_a_frozen_broker_holds_up_neither_submit_nor_nudge(broker: Broker, sqlite_store: str) -> None:
    with broker.frozen():
        began = time.monotonic()
        kit.submit_noop()
        for _ in range(100):
            broker_module.nudge()
        assert time.monotonic() - began < 0.5
    kit.until(lambda: broker.client.llen("synthq:nudge"), 5, "a nudge arrives after the thaw")
    assert broker.client.llen("synthq:nudge") == 1


@pytest.mark.parametrize("what", ["ping", "depth", "publish", "wait_for_nudge"])
def test_every_call_of_a_frozen_broker_ends_soon_with_a_sentence(broker: Broker, sqlite_store: str, what: str) -> None:
    calls = {
        "ping": lambda: broker_module.ping(1.0),
        "depth": lambda: broker_module.depth(Queue.DATA),
        "publish": lambda: broker_module.HintPublisher().publish(Queue.DATA, ["stp_1"]),
        "wait_for_nudge": lambda: broker_module.wait_for_nudge(0.2),
    }
    if what != "publish":  # a connection that is in use already
        broker_module.ping(1.0)
    with broker.frozen():
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            calls[what]()
        assert time.monotonic() - began < broker_module.PUBLISH_TIMEOUT_S + 1.5


def test_a_broker_that_accepts_and_never_answers_is_told_from_one_that_works(
    own_home: Path, sqlite_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_settings().run_dir.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(get_settings().broker_socket))
        mute.listen(8)
        kit.submit_noop()
        monkeypatch.setattr(broker_module, "celery", broker_module.make_celery())
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            outbox.dispatch(broker_module.HintPublisher())
        assert time.monotonic() - began < broker_module.PUBLISH_TIMEOUT_S + 1.5
    assert unsent()


def test_a_frozen_broker_does_not_stop_the_reconciling(
    broker: Broker, sqlite_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "PUBLISH_TIMEOUT_S", 0.3)
    with kit.use_settings(**kit.SHORT):
        job = kit.submit_noop()
        claim = claims.claim(Queue.DATA, owner="gone")
        assert claim is not None
        kit.submit_noop(3)  # so that there is something to send all the time
        scheduler = Scheduler()
        thread = threading.Thread(target=scheduler.run, daemon=True)
        with broker.frozen():
            thread.start()
            kit.until(lambda: kit.step(claim.step_id).state == "queued", 10, "the expired lease is taken back")
            with db.writing() as session:
                lifecycle.cancel(session, job)
            late = kit.submit_noop(after=[{"job": job.id, "on": "any"}])
            kit.until(lambda: kit.steps(late.id), 10, "the waiting job is started")
        kit.until(lambda: broker_module.depth(Queue.DATA) >= MARGIN, 10, "the hints are sent after the thaw")
        scheduler.stop()
        thread.join(10)
        assert not thread.is_alive()

"""Workers that say they are alive, and who leads; in both databases, with several at once."""

from __future__ import annotations

import threading

import pytest
from core import kit
from core.test_claims import together
from sqlalchemy import select

from app import db, heartbeat
from app.models import Worker
from workers.main import Heart


def alive() -> list[str]:
    with db.reading() as session:
        return [worker.id for worker in heartbeat.live_workers(session)]


def register(worker_id: str) -> None:
    heartbeat.register(worker_id, role="rollout", queues=["rollout"], slots=2)


def test_a_worker_counts_as_alive_until_it_misses_three_beats(store: str) -> None:
    register("a")
    register("b")
    kit.write("UPDATE worker SET heartbeat_at = heartbeat_at - :s WHERE id = 'b'", s=heartbeat.gone_after_s() + 1)
    assert alive() == ["a"]
    assert heartbeat.beat("b")
    assert alive() == ["a", "b"]


def test_a_worker_that_stopped_is_not_alive_and_one_whose_row_is_gone_is_told_so(store: str) -> None:
    register("a")
    heartbeat.stopped("a")
    assert alive() == []
    kit.write("DELETE FROM worker")
    assert not heartbeat.beat("a")


def test_registering_again_takes_the_row_over_and_forgets_those_gone_for_a_day(store: str) -> None:
    register("a")
    register("old")
    kit.write("UPDATE worker SET heartbeat_at = heartbeat_at - 90000 WHERE id = 'old'")
    register("a")
    with db.reading() as session:
        assert session.scalars(select(Worker.id)).all() == ["a"]


def test_a_heart_that_was_stopped_in_the_middle_of_a_beat_stays_stopped(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_beat, stopped = threading.Event(), threading.Event()
    real_beat, real_stopped = heartbeat.beat, heartbeat.stopped

    def slow_beat(worker_id: str) -> bool:
        in_a_beat.set()
        stopped.wait(0.5)
        return real_beat(worker_id)

    def note_stopped(worker_id: str) -> None:
        real_stopped(worker_id)
        stopped.set()

    monkeypatch.setattr(heartbeat, "beat", slow_beat)
    monkeypatch.setattr(heartbeat, "stopped", note_stopped)
    with kit.use_settings(SYNTHQ_HEARTBEAT_S="0.01"):
        heart = Heart("w", "rollout", ["rollout"], 1)
        heart.start()
        assert in_a_beat.wait(5)
        heart.stop()
        heart._thread.join(5)
        assert alive() == []


def test_a_heart_whose_row_is_deleted_registers_again(sqlite_store: str) -> None:
    with kit.use_settings(SYNTHQ_HEARTBEAT_S="0.05"):
        heart = Heart("w", "rollout", ["rollout"], 1)
        heart.start()
        kit.write("DELETE FROM worker")
        kit.until(lambda: alive() == ["w"], 5, "the worker is back in the list")
        heart.stop()


def test_one_of_many_leads_from_the_first_moment_on(store: str) -> None:
    for round in range(6):
        leaders: list[int] = []
        name = f"lead-{round}"

        def ask(i: int, name: str = name, leaders: list[int] = leaders) -> None:
            if heartbeat.lead(name, f"owner-{i}", 60):
                leaders.append(i)

        together(ask, 6)
        assert len(leaders) == 1


def test_a_lead_is_kept_by_renewing_it_and_passes_on_when_it_runs_out_or_is_given_up(store: str) -> None:
    assert heartbeat.lead("x", "a", 60)
    assert not heartbeat.lead("x", "b", 60)
    assert heartbeat.lead("x", "a", 60)
    kit.write("UPDATE leader SET until = 1")
    assert heartbeat.lead("x", "b", 60)
    assert not heartbeat.lead("x", "a", 60)
    heartbeat.resign("x", "a")
    assert not heartbeat.lead("x", "a", 60)
    heartbeat.resign("x", "b")
    assert heartbeat.lead("x", "a", 60)

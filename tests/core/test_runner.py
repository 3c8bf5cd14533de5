"""Running a step: the lease is kept, standstill is ended, a drain costs nothing, and what went wrong becomes a reason."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from core import kit
from core.kit import Process

from app import claims, db, lifecycle, reconciler
from app.models import Job, Queue
from app.settings import get_settings
from workers import runner
from workers.rollout.play import Game
from workers.tasks import STEPS

QUICK = {
    "SYNTHQ_LEASE_S": "0.8",
    "SYNTHQ_RENEW_S": "0.2",
    "SYNTHQ_WATCH_S": "0.02",
    "SYNTHQ_BACKOFF_S": "0",
}


@pytest.fixture
def quick(sqlite_store: str) -> Iterator[None]:
    with kit.use_settings(**QUICK):
        yield


def run(step: str, *, queue: Queue = Queue.DATA) -> str | None:
    return runner.run_hint(queue, {"noop": f"core.steps:{step}"}, hint="h")


@contextmanager
def running(step: str) -> Iterator[threading.Thread]:
    """A step that runs in a thread until the test lets it go on."""
    thread = threading.Thread(target=run, args=(step,), daemon=True)
    thread.start()
    kit.until(begun, 10, "the step has begun")
    yield thread
    go()
    thread.join(10)
    assert not thread.is_alive()


def begun() -> bool:
    return (get_settings().home / "begun").exists()


def go() -> None:
    (get_settings().home / "go").touch()


def only_step(job: Job) -> Any:
    (row,) = kit.steps(job.id)
    return row


def cancel(job: Job) -> None:
    with db.writing() as session:
        lifecycle.cancel(session, job)


# -- the lease -------------------------------------------------------------------------------------------------------------


def test_a_step_that_runs_for_many_leases_keeps_its_lease(quick: None) -> None:
    job = kit.submit_noop()
    with running("patient"):
        until = time.monotonic() + 3 * get_settings().lease_s
        while time.monotonic() < until:
            assert reconciler.sweep().released == 0
    assert (only_step(job).state, only_step(job).result) == ("succeeded", {"fence": 1})


def test_a_step_outlives_a_short_outage_of_the_database(quick: None, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "BUSY_TIMEOUT_S", 0.05)
    job = kit.submit_noop()
    with running("patient"), closing(sqlite3.connect(own_home / "synthq.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(2 * get_settings().renew_s)  # a renewal meets the outage
        other.execute("ROLLBACK")
        before = only_step(job).lease_until
        kit.until(lambda: only_step(job).lease_until > before, 5, "the lease is renewed again")
    assert only_step(job).state == "succeeded"


def test_a_step_whose_hold_moved_on_stops_and_writes_nothing(quick: None) -> None:
    job = kit.submit_noop()
    with running("patient") as thread:
        kit.write("UPDATE step SET fence = fence + 1")
        thread.join(5)
        assert not thread.is_alive()
    assert (only_step(job).state, only_step(job).fence, only_step(job).result) == ("running", 2, None)


def test_a_write_under_an_old_fence_is_undone(quick: None) -> None:
    job = kit.submit_noop()
    with running("write_late"):
        kit.write("UPDATE step SET fence = fence + 1")
    assert [event.message for event in kit.job_events(job.id)] == ["noop job created", "first step claimed"]
    assert only_step(job).state == "running"


# -- standstill ------------------------------------------------------------------------------------------------------------


@contextmanager
def process_that_hangs(home: Path, **env: str) -> Iterator[Process]:
    code = (
        "from workers import runner; "
        "runner.run_hint('data', {'noop': 'core.steps:hang'}, hint='h', on_stuck=runner.kill_this_process)"
    )
    process = kit.python("-c", code, log=home / "hangs.log", **env)
    try:
        kit.until(begun, 20, "the step has begun")
        yield process
    finally:
        process.end()


@pytest.mark.integration
def test_a_step_without_progress_is_given_back_and_its_process_ended(quick: None, own_home: Path) -> None:
    job = kit.submit_noop()
    with process_that_hangs(own_home, SYNTHQ_PROGRESS_DEADLINE_S="0.5") as process:
        assert process.wait(10) == -signal.SIGKILL
    row = only_step(job)
    assert (row.state, row.attempt) == ("queued", 1)
    assert row.reason.startswith("no progress for")
    assert kit.job_events(job.id)[-1].type == "step.requeued"


@pytest.mark.integration
@pytest.mark.parametrize("why", ["cancelled", "lost"])
def test_a_process_that_does_not_stop_when_it_must_is_ended_after_the_grace(quick: None, own_home: Path, why: str) -> None:
    job = kit.submit_noop()
    with process_that_hangs(own_home, SYNTHQ_CANCEL_GRACE_S="0.5") as process:
        if why == "cancelled":
            cancel(job)
        else:
            kit.write("UPDATE step SET fence = fence + 1")
        assert process.wait(10) == -signal.SIGKILL


def test_a_step_that_reports_progress_may_run_longer_than_the_deadline(quick: None) -> None:
    job = kit.submit_noop()
    with kit.use_settings(SYNTHQ_PROGRESS_DEADLINE_S="0.4"), running("patient"):
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            kit.write("UPDATE step SET progress_at = :at", at=time.time())
            time.sleep(0.02)
    assert only_step(job).state == "succeeded"


# -- stops -----------------------------------------------------------------------------------------------------------------


def test_a_cancel_reaches_a_running_step(quick: None) -> None:
    job = kit.submit_noop()
    with running("patient") as thread:
        cancel(job)
        thread.join(5)
        assert not thread.is_alive()
    assert kit.job(job.id).state == "cancelled"


def test_a_drain_gives_the_step_back_and_costs_no_attempt(quick: None) -> None:
    job = kit.submit_noop()
    with running("patient") as thread:
        runner.drain_file().parent.mkdir(exist_ok=True)
        runner.drain_file().touch()
        thread.join(5)
        assert not thread.is_alive()
    assert (only_step(job).state, only_step(job).attempt, only_step(job).fence) == ("queued", 0, 1)
    assert run("patient") is None, "a worker that drains claims nothing"
    runner.drain_file().unlink()
    assert run("patient") == only_step(job).id
    assert (only_step(job).state, only_step(job).attempt) == ("succeeded", 1)


def test_an_episode_that_was_drained_goes_on_from_its_snapshot_and_ends_the_same(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Game.turn
    turns: list[int] = []

    async def turn_and_maybe_drain(game: Game) -> Any:
        turns.append(game.totals.turns)
        if turns == list(range(30)):
            runner.drain_file().parent.mkdir(exist_ok=True)
            runner.drain_file().touch()
        if len(turns) >= 30 and runner.drain_file().exists():
            time.sleep(0.05)  # the keeper looks in the meantime
        return await real(game)

    whole = kit.submit_eval("7", max_turns=60)
    while runner.run_hint(Queue.ROLLOUT, STEPS, hint=None):
        pass
    monkeypatch.setattr(Game, "turn", turn_and_maybe_drain)
    drained = kit.submit_eval("7", max_turns=60)
    assert runner.run_hint(Queue.ROLLOUT, STEPS, hint=None)
    assert kit.played(drained.id) == {}
    assert (kit.steps(drained.id)[0].state, kit.steps(drained.id)[0].attempt) == ("queued", 0)
    runner.drain_file().unlink()
    stopped_at = len(turns)
    assert 30 <= stopped_at < 40
    assert runner.run_hint(Queue.ROLLOUT, STEPS, hint=None)
    assert turns == list(range(60)), "every turn was played once"
    assert kit.played(drained.id) == kit.played(whole.id)
    assert set(kit.played(whole.id)) == {(7, 0)}


# -- what goes wrong -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "state", "reason"),
    [
        ("hopeless", "failed", "the file has no lines"),
        ("unlucky", "queued", "the engine does not answer"),
        ("faulty", "queued", "ZeroDivisionError: integer division or modulo by zero"),
    ],
)
def test_what_ends_a_step_is_its_reason(quick: None, step: str, state: str, reason: str) -> None:
    job = kit.submit_noop()
    run(step)
    assert (only_step(job).state, only_step(job).reason) == (state, reason)
    for _ in range(3):
        run(step)
    assert (kit.job(job.id).state, kit.job(job.id).reason) == ("failed", reason)
    assert only_step(job).attempt == (1 if state == "failed" else 3)


def test_a_kind_of_step_that_this_worker_does_not_know_fails_with_a_sentence(quick: None) -> None:
    job = kit.submit_noop()
    runner.run_hint(Queue.DATA, {"play": "x:y"}, hint=None)
    assert str(kit.job(job.id).reason).startswith("this worker has no step of kind 'noop' (it has play)")


def test_the_folder_of_a_step_is_gone_after_it(quick: None) -> None:
    job = kit.submit_noop()
    run("use_a_folder")
    folder = Path(only_step(job).result["folder"])
    assert folder.parent.exists()
    assert not folder.exists()


def test_a_hint_that_comes_too_late_does_nothing(quick: None) -> None:
    assert run("patient") is None
    job = kit.submit_noop()
    claim = claims.claim(Queue.DATA, owner="other")
    assert claim is not None
    assert run("patient") is None
    assert only_step(job).owner == "other"

"""The trainer's child is called over and over, stops when it is asked to, and ends with whoever started it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core.kit import submit_noop, until, use_settings

from app.errors import BadModel, ChildDied, ChildFailed, LostStep, StepCancelled
from app.supervisor.state import identity
from workers.runner import Drain
from workers.trainer.resident import Resident, child
from workers.trainer.wire import Wire

TARGETS = "trainer.child_targets"
TESTS = Path(__file__).resolve().parents[1]
HOLDER = """
from workers.trainer.resident import Resident
with Resident().child() as child:
    child.call("trainer.child_targets:hang", on_event=lambda told: print(told["pid"], flush=True))
"""


@pytest.fixture(autouse=True)
def path_to_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds this folder's targets."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def resident() -> Iterator[Resident]:
    """One without the thread that ends idle children."""
    made = Resident()
    yield made
    made.stop()


def call(resident: Resident, target: str, args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    with resident.child() as held:
        return held.call(f"{TARGETS}:{target}", args, **more)


class After:
    """Raises what it is given from the moment that it was told to."""

    def __init__(self, why: Exception) -> None:
        self.why, self.now = why, False

    def __call__(self) -> None:
        if self.now:
            raise self.why


def test_a_call_gives_its_result_and_tells_on_the_way_and_what_it_prints_goes_to_its_log(resident: Resident) -> None:
    told: list[dict[str, Any]] = []
    with resident.child() as held:
        result = held.call(f"{TARGETS}:add", {"numbers": [1, 2, 3]}, on_event=told.append)
        log = Path(held.log_file)

    assert result["total"] == 6
    assert told == [{"total": 1}, {"total": 3}, {"total": 6}]
    until(lambda: log.read_text().count("past Python's own files") == 3, 5, "the log is written")
    assert "so far 6" in log.read_text()


def test_the_child_s_threads_sleep_where_they_wait_unless_the_user_says_otherwise(
    resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert call(resident, "environment", {"names": ["OMP_WAIT_POLICY"]}) == {"OMP_WAIT_POLICY": "PASSIVE"}
    resident.stop()
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    other = Resident()
    assert call(other, "environment", {"names": ["OMP_WAIT_POLICY"]}) == {"OMP_WAIT_POLICY": "ACTIVE"}
    other.stop()


def test_the_child_is_kept_between_calls(resident: Resident) -> None:
    first, second = call(resident, "count"), call(resident, "count")

    assert (first["calls"], second["calls"]) == (1, 2)
    assert first["pid"] == second["pid"]


def test_nothing_is_started_before_it_is_needed(resident: Resident) -> None:
    resident.start()
    resident.drain()
    resident.stop()

    assert resident._process is None


def test_an_idle_child_is_ended_and_the_next_call_has_a_new_one() -> None:
    with use_settings(SYNTHQ_TRAINER_IDLE_S="0.2"):
        resident = Resident()
        resident.start()
        first = call(resident, "count")
        until(lambda: identity(first["pid"]) is None, 15, "the idle child has ended")
        second = call(resident, "count")
        resident.stop()

    assert second["calls"] == 1
    assert identity(second["pid"]) is None


@pytest.mark.parametrize("why", [StepCancelled("the job was cancelled"), LostStep("stp_1", 3), Drain("the worker ends")])
def test_a_call_that_should_stop_comes_to_a_point_where_it_can_go_on(resident: Resident, tmp_path: Path, why: Exception) -> None:
    stop, told = After(why), []

    def hear(event: dict[str, Any]) -> None:
        told.append(event)
        stop.now = stop.now or event.get("step", 0) >= 3

    with pytest.raises(type(why)) as caught:
        call(resident, "go_on", {"checkpoint": str(tmp_path / "at")}, on_event=hear, check=stop)

    assert caught.value is why
    steps = [event["step"] for event in told if "step" in event]
    assert told[-1] == {"saved": steps[-1]}, "events are heard to the end: the step still holds what it writes to"
    assert (tmp_path / "at").read_text() == str(steps[-1])
    assert call(resident, "count")["pid"] == told[0]["pid"], "the child, and what it holds, is there for the next call"


def test_a_call_is_stopped_by_what_its_events_run_into(resident: Resident, tmp_path: Path) -> None:
    heard = []

    def lose(event: dict[str, Any]) -> None:
        heard.append(event)
        raise LostStep("stp_1", 3)

    with pytest.raises(LostStep):
        call(resident, "go_on", {"checkpoint": str(tmp_path / "at")}, on_event=lose)

    assert len(heard) == 1, "nothing more is written"
    assert call(resident, "add", {"numbers": [1]})["total"] == 1


def test_a_lost_hold_outranks_a_worker_that_ends(resident: Resident, tmp_path: Path) -> None:
    stop = After(Drain("the worker ends"))

    def hear(event: dict[str, Any]) -> None:
        stop.now = True
        if "saved" in event:
            raise LostStep("stp_1", 3)

    with pytest.raises(LostStep):
        call(resident, "go_on", {"checkpoint": str(tmp_path / "at")}, on_event=hear, check=stop)


def test_a_cancel_that_comes_late_does_not_meet_the_next_call(resident: Resident) -> None:
    stop = After(Drain("the worker ends"))

    def hear(event: dict[str, Any]) -> None:
        stop.now = True

    assert call(resident, "add", {"numbers": [1]}, on_event=hear, check=stop)["total"] == 1, "it was done all the same"
    for _ in range(20):
        assert call(resident, "add", {"numbers": [1]}, on_event=hear)["total"] == 1


def test_what_should_stop_before_it_began_is_not_begun(resident: Resident) -> None:
    stop = After(StepCancelled("the job was cancelled"))
    stop.now = True
    with pytest.raises(StepCancelled):
        call(resident, "hang", check=stop)

    assert call(resident, "count")["calls"] == 1


def test_a_child_that_does_not_stop_is_killed_and_the_next_call_has_another(
    resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.trainer.resident.calls.LEAVE_S", 0.5)
    stop, pids = After(Drain("the worker ends")), []

    def hear(event: dict[str, Any]) -> None:
        pids.append(event["pid"])
        stop.now = True

    began = time.monotonic()
    with pytest.raises(Drain):
        call(resident, "hang", on_event=hear, check=stop)

    assert time.monotonic() - began < 10
    until(lambda: identity(pids[0]) is None, 5, "it is gone")
    assert call(resident, "count")["calls"] == 1


def test_a_child_that_dies_is_told_of_with_its_last_words_and_another_takes_its_place(resident: Resident) -> None:
    with pytest.raises(ChildDied, match="the last words") as caught:
        call(resident, "fall")

    assert caught.value.retryable
    assert "SIGKILL" in str(caught.value) or "137" in str(caught.value)
    assert "trainer.child_targets:fall" in str(caught.value)
    assert call(resident, "count")["calls"] == 1


def test_what_goes_wrong_in_a_call_ends_it_alone(resident: Resident) -> None:
    with pytest.raises(ChildFailed, match="ValueError: no good: 7") as caught:
        call(resident, "stumble", {"what": 7})
    assert (caught.value.of, caught.value.retryable) == ("ValueError", True)

    with pytest.raises(ChildFailed, match=r"^/models/nothing is no model$") as caught:
        call(resident, "refuse")
    assert (caught.value.of, caught.value.retryable) == (BadModel.__name__, False)

    with pytest.raises(ChildFailed, match="no_such_module"), resident.child() as held:
        held.call("no_such_module:run")
    assert call(resident, "count")["calls"] == 1


def test_a_step_that_hangs_is_ended_with_its_child(resident: Resident) -> None:
    pids: list[int] = []
    ender = threading.Thread(target=lambda: (until(lambda: pids, 30, "it began"), resident.give_up()))
    ender.start()
    with pytest.raises(ChildDied):
        call(resident, "hang", on_event=lambda event: pids.append(event["pid"]))
    ender.join()


def test_the_child_ends_with_its_worker_even_by_sigkill() -> None:
    worker = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, cwd=TESTS.parent)
    assert worker.stdout is not None
    with worker.stdout:
        pid = int(worker.stdout.readline())
        worker.kill()
        worker.wait()
        until(lambda: identity(pid) is None, 5, "the child has ended with it")


def test_the_child_reads_the_store_and_cannot_write_to_it(resident: Resident, store: str) -> None:
    job = submit_noop()

    assert call(resident, "jobs") == {"jobs": 1}
    with pytest.raises(ChildFailed, match=r"(?i)read.?only"):
        call(resident, "write", {"job": job.id})


def test_the_module_keeps_one_child_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.trainer.resident import keeper

    monkeypatch.setattr(keeper, "_own", None)
    with child() as held:
        first = held.call(f"{TARGETS}:count")
    with child() as held:
        second = held.call(f"{TARGETS}:count")
    keeper._resident().stop()

    assert (first["pid"], second["calls"]) == (second["pid"], 2)


def test_torch_is_loaded_in_the_child_alone() -> None:
    look = "import sys; from workers import tasks; from workers.runner import load; from workers.trainer.resident import make; "
    look += "[load(tasks.STEPS[kind]) for kind in ('sft', 'begin', 'update', 'keep')]; make('trainer-1'); "
    look += "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, cwd=TESTS.parent, timeout=60, check=False)

    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_lines_of_any_length_pass_while_the_other_end_waits_for_one() -> None:
    ours, theirs = map(Wire, socket.socketpair())
    long = {"said": "x" * 3_000_000}
    writer = threading.Thread(target=lambda: [ours.send(long) for _ in range(3)])
    writer.start()
    heard = [theirs.receive(10) for _ in range(3)]
    writer.join()

    assert heard == [long] * 3
    assert theirs.receive(0.01) is None
    ours.close()
    with pytest.raises(EOFError):
        theirs.receive(1)
    theirs.close()

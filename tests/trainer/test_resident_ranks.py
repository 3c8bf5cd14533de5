"""Several processes that train together are one child: one of them speaks, all do the same, and they end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core.kit import descendants, until, use_settings

from app.errors import BadModel, ChildDied, ChildFailed
from app.supervisor.state import identity
from workers.runner import Drain
from workers.trainer.resident import Resident

pytestmark = pytest.mark.slow

pytest.importorskip("torch", reason="processes that train together need the extra 'model'")

TARGETS = "trainer.child_targets"
HOLDER = """
from workers.trainer.resident import Resident
with Resident().child() as child:
    child.call("trainer.child_targets:hang", on_event=lambda told: print(told["pid"], flush=True))
"""
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pair() -> Iterator[Resident]:
    """A child of two processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]))
        resident = Resident()
        yield resident
        resident.stop()


@pytest.fixture(autouse=True)
def two_devices(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What this process's settings ask for; no GPU, for two processes need two."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with use_settings(SYNTHQ_TRAINER_DEVICES="2"):
        yield


def call(resident: Resident, target: str, args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    with resident.child() as held:
        return held.call(f"{TARGETS}:{target}", args, **more)


def test_all_take_part_and_one_speaks(pair: Resident) -> None:
    told: list[dict[str, Any]] = []
    result = call(pair, "all_sum", on_event=told.append)

    assert (result["sum"], result["size"]) == (3.0, 2)
    assert told == [{"rank": 0}]
    assert call(pair, "count")["calls"] == 1
    assert call(pair, "count")["calls"] == 2, "they are kept"


def test_all_stop_at_the_same_pass(pair: Resident, tmp_path: Path) -> None:
    steps: list[int] = []

    def check() -> None:
        if steps and steps[-1] >= 3:
            raise Drain("the worker ends")

    def hear(event: dict[str, Any]) -> None:
        steps.extend([event["step"]] if "step" in event else [])

    with pytest.raises(Drain):
        call(pair, "go_on", {"checkpoint": str(tmp_path / "at")}, on_event=hear, check=check)

    assert (tmp_path / "at").read_text() == str(steps[-1])
    assert call(pair, "all_sum")["sum"] == 3.0, "they are together still"


def test_what_goes_wrong_in_all_of_them_ends_the_call_alone(pair: Resident) -> None:
    before = call(pair, "count")
    with pytest.raises(ChildFailed, match=r"^ValueError: no good: 7$"):
        call(pair, "stumble", {"what": 7})
    with pytest.raises(ChildFailed) as caught:
        call(pair, "refuse")

    assert caught.value.of == BadModel.__name__
    assert call(pair, "count") == {"calls": before["calls"] + 1, "pid": before["pid"]}


@pytest.mark.parametrize("rank", [0, 1])
def test_what_goes_wrong_in_one_of_them_ends_them_all(pair: Resident, rank: int) -> None:
    before = call(pair, "count")
    with pytest.raises(ChildFailed, match=f"process {rank} of 2: ValueError: no good: 7"):
        call(pair, "stumble", {"what": 7, "rank": rank})

    after = call(pair, "all_sum")
    assert after["sum"] == 3.0, "the next call has others"
    until(lambda: identity(before["pid"]) is None, 10, "those before are gone")


def test_of_one_that_ends_the_others_in_the_middle_of_a_call_the_sentence_is_told_alone(pair: Resident) -> None:
    with pytest.raises(ChildDied) as caught:
        call(pair, "stumble_on_the_way", {"what": 7, "rank": 1})

    said = str(caught.value)
    assert "): process 1 of 2: ValueError: no good: 7; its log is " in said
    assert len(said.splitlines()) == 2, "beside it, what it was at"
    assert "torch" not in said


def test_one_that_dies_takes_the_others_with_it_and_they_start_again(pair: Resident) -> None:
    def kill(event: dict[str, Any]) -> None:
        os.kill(event["pid"], signal.SIGKILL)

    with pytest.raises(ChildDied):
        call(pair, "hang", on_event=kill)

    assert call(pair, "all_sum")["sum"] == 3.0


def test_all_of_them_end_with_their_worker_even_by_sigkill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    worker = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, cwd=TESTS.parent)
    assert worker.stdout is not None
    with worker.stdout:
        worker.stdout.readline()
        below = descendants(worker.pid)
        worker.kill()
        worker.wait()
    assert len(below) >= 4, "the leash, torchrun, and two that train"
    until(lambda: not any(identity(pid) for pid in below), 10, "all have ended")


def test_another_number_of_devices_is_another_child(pair: Resident) -> None:
    together = call(pair, "count")
    with use_settings(SYNTHQ_TRAINER_DEVICES="1"):
        alone = call(pair, "count")

    assert together["pid"] != alone["pid"]
    assert identity(together["pid"]) is None

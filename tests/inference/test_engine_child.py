"""An engine's process ends with all that it started, its end is noticed, and its last words are kept."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from supervisor.conftest import until

from app.supervisor.child import LogFile
from app.supervisor.state import identity
from workers.inference.engines.base import Options
from workers.inference.engines.child import EngineChild, cause, free_port

WITH_A_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print("child", child.pid, flush=True)
time.sleep(100)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(100)"
FALLS = """
import sys
print("reading the weights", flush=True)
print("(Worker pid=7) ERROR 11-23 [core.py:1] ValueError: 36 layers do not fit", file=sys.stderr)
print("RuntimeError: Engine core initialization failed. See root cause above.", file=sys.stderr)
sys.exit(3)
"""
HOLDER = """
import sys, time
from pathlib import Path
from inference.test_engine_child import Script
from workers.inference.engines.child import EngineChild
child = EngineChild(Script(sys.argv[1]), "m", {}, host="127.0.0.1", port=1, log_file=Path(sys.argv[2]))
time.sleep(100)
"""


class Script:
    """An engine that is a few lines of Python."""

    name = "script"

    def __init__(self, code: str, **variables: str) -> None:
        self._code, self._variables = code, variables

    def command(self, base: str, options: Options, *, host: str, port: int) -> list[str]:
        return [sys.executable, "-c", self._code, base, host, str(port)]

    def environment(self, base: str, options: Options) -> dict[str, str]:
        return self._variables


def start(code: str, log: Path, **variables: str) -> EngineChild:
    return EngineChild(Script(code, **variables), "m", {}, host="127.0.0.1", port=1, log_file=log)


def words(log: Path, count: int) -> list[str]:
    """The first words of a log, once there are as many."""
    until(lambda: log.is_file() and len(log.read_text().split()) >= count, "it spoke", timeout_s=20)
    return log.read_text().split()


def test_it_is_stopped_with_what_it_started(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    child = start(WITH_A_CHILD, log)
    grandchild = int(words(log, 2)[1])

    assert child.running
    assert child.stop(10.0)
    assert not child.running
    until(lambda: identity(grandchild) is None, "what it started is gone", timeout_s=5)


def test_it_ends_with_its_supervisor_and_so_does_what_it_started(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])])
    argv = [sys.executable, "-c", HOLDER, WITH_A_CHILD, str(log)]
    with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": paths}) as holder:
        grandchild = int(words(log, 2)[1])
        holder.send_signal(signal.SIGKILL)
    until(lambda: identity(grandchild) is None, "nothing of it is left", timeout_s=20)


def test_what_does_not_follow_is_killed_after_its_grace(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    child = start(STUBBORN, log)
    words(log, 1)
    began = time.monotonic()

    assert not child.stop(0.3)
    assert time.monotonic() - began < 10
    assert child.exit_status == -signal.SIGKILL


def test_its_end_is_noticed_at_once_and_told_with_the_cause_once(tmp_path: Path) -> None:
    child = start(FALLS, tmp_path / "engine.log")

    assert child.wait(20.0)
    assert child.exit_status == 3
    log = tmp_path / "engine.log"
    assert child.why() == f"engine script ended (exit status 3): ValueError: 36 layers do not fit; its log is {log}"


def test_an_end_without_a_cause_is_told_with_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    child = start("print('reading the weights'); print('and more'); raise SystemExit(3)", log)

    assert child.wait(20.0)
    told = [f"engine script ended (exit status 3); its log is {log}", "  reading the weights", "  and more"]
    assert child.why().splitlines() == told


def test_its_log_holds_no_key_and_no_picture(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    picture = "data:image/png;base64," + "iVBORw0KGgo" * 10
    child = start("import os; print(os.environ['SAID'])", log, SAID=f"Bearer secret-of-mine {picture}")
    child.wait(20.0)

    assert log.read_text().splitlines()[0] == "Bearer *** data:image/..."


def test_a_log_that_cannot_be_written_does_not_hold_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: LogFile, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LogFile, "write", full)
    child = start("for n in range(20_000): print(n, 'of many lines that fill a pipe')", tmp_path / "engine.log")

    assert child.wait(20.0)
    assert child.exit_status == 0
    assert "19999 of many lines" in child.why()


def test_a_free_port_can_be_had_on_both_loopbacks() -> None:
    assert 1024 <= free_port("127.0.0.1") < 65536


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["all is well", "INFO 200 OK"], ""),
        (
            ["Traceback (most recent call last):", "torch.OutOfMemoryError: CUDA out of memory"],
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        (
            ["(EngineCore pid=12) ERROR 11-23 core.py] ValueError: bad", "RuntimeError: Engine core initialization failed."],
            "ValueError: bad",
        ),
        (["Error: /m has no config.json"], "/m has no config.json"),
    ],
)
def test_the_cause_is_the_first_exception_that_points_at_no_other(lines: list[str], found: str) -> None:
    assert cause(lines) == found

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from supervisor.conftest import until

from app import leash
from app.supervisor.state import identity

HOLDER = """
import subprocess, sys
from app.leash import leashed
command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
with subprocess.Popen(leashed(command)) as child:
    pass
"""


@pytest.fixture(params=["kernel", "watch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two ways in which the promise is kept; the kernel's is Linux's alone."""
    if request.param == "kernel" and sys.platform != "linux":
        pytest.skip("only Linux signals a child at its parent's death")
    monkeypatch.setenv("SYNTHQ_LEASH", request.param)
    way: str = request.param
    return way


def test_a_command_ends_when_its_holder_is_killed(way: str) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert identity(pid)
        holder.kill()
        until(lambda: identity(pid) is None, "the command is gone", timeout_s=5)


def test_a_command_does_not_start_for_a_holder_that_is_gone(tmp_path: Path, way: str) -> None:
    if way == "watch":
        pytest.skip("the watcher ends the command half a second later instead")
    mark = tmp_path / "ran"
    ran = subprocess.run([*leash.leashed(["touch", str(mark)])[:4], "1", "9", "touch", str(mark)], check=False)

    assert (ran.returncode, mark.exists()) == (1, False)


def test_exit_status_and_signals_pass_through(way: str) -> None:
    assert subprocess.run(leash.leashed([sys.executable, "-c", "raise SystemExit(7)"]), check=False).returncode == 7

    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(5)); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(leash.leashed([sys.executable, "-c", code]), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(timeout=10) == 5


def test_a_command_that_is_not_there_is_named(way: str) -> None:
    ran = subprocess.run(leash.leashed(["/no/such/program"]), capture_output=True, text=True, check=False)

    assert ran.returncode == 1
    assert "/no/such/program cannot be run" in ran.stderr

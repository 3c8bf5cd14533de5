"""``synthq up --detach`` and ``synthq down``: a supervisor in the background, seen from outside through its state file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from app.errors import Conflict
from app.settings import Settings
from app.supervisor import readiness, report
from app.supervisor.child import GRACE_S, WORKER_GRACE_S
from app.supervisor.state import (
    SupervisorState,
    already_up,
    end_leftovers,
    identity,
    lock,
    make_home,
    read_state,
    running,
    state_file,
)

READY_TIMEOUT_S = 90.0
FALLS = 3
"""A process that was started again this often will not get ready by waiting longer."""
DOWN_TIMEOUT_S = WORKER_GRACE_S + 4 * GRACE_S
"""Longest orderly end: workers together, then scheduler, api, Flower and broker."""
LOOK_S = 0.1
NOT_READY = 6
INTERRUPTED = 130


def up(settings: Settings, words: list[str]) -> int:
    """Start a supervisor in the background with these words; return when synthq is ready, or say what is not."""
    make_home(settings)
    if running(settings) is not None:
        raise already_up(settings)
    settings.logs_dir.mkdir(exist_ok=True)
    log = settings.logs_dir / "supervisor.log"
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(
            [*report.PYTHON_M, "app.supervisor", *words, "--in-background"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if (silent := readiness.silent_broker(settings)) is not None:
            sys.stderr.write(f"{silent}\n")
        return _wait_until_ready(child, settings, began)
    except KeyboardInterrupt:
        sys.stderr.write("\nsynthq goes on starting in the background; `synthq down` ends it\n")
        return INTERRUPTED


def _wait_until_ready(child: subprocess.Popen[bytes], settings: Settings, began: float) -> int:
    while time.monotonic() - began < READY_TIMEOUT_S:
        code = child.poll()
        if code is not None:  # what it said is the reason, in its own words
            sys.stderr.write((settings.logs_dir / "supervisor.log").read_text(encoding="utf-8", errors="replace"))
            return code or 1
        state = read_state(settings)
        if state is not None and state.pid == child.pid and state.phase == "ready":
            _say(report.summary(state, took_s=time.monotonic() - began))
            child.returncode = 0  # it lives on: Popen shall not complain that nobody waits for it
            return 0
        if state is not None and state.pid == child.pid and any(each.restarts >= FALLS for each in state.processes.values()):
            break
        time.sleep(LOOK_S)
    sys.stderr.write(
        f"Error: synthq is not ready after {time.monotonic() - began:.0f} s; it goes on trying, and `synthq down` ends it\n"
        f"{report.not_ready(read_state(settings), settings)}\n"
    )
    child.returncode = 0
    return NOT_READY


def down(settings: Settings) -> int:
    """End the supervisor of this home and all that it runs."""
    state = running(settings)
    if state is None:
        return _nothing_to_end(settings)
    began = time.monotonic()
    os.kill(state.pid, signal.SIGTERM)
    while identity(state.pid) == state.identity:
        if time.monotonic() - began > DOWN_TIMEOUT_S:
            os.kill(state.pid, signal.SIGKILL)
            end_leftovers(state)
            state_file(settings).unlink(missing_ok=True)
            _say(f"synthq did not end within {DOWN_TIMEOUT_S:g} s and was killed")
            return 0
        time.sleep(LOOK_S)
    _say(f"ended {_names(state)} ({time.monotonic() - began:.1f} s)")
    return 0


def _nothing_to_end(settings: Settings) -> int:
    """No supervisor is alive; one that was killed may have left processes."""
    state = read_state(settings)
    try:
        with lock(settings):
            names = end_leftovers(state) if state else []
            state_file(settings).unlink(missing_ok=True)
    except Conflict:  # between its lock and its first word
        sys.stderr.write(f"synthq in {settings.home} is just starting or ending; try again\n")
        return Conflict.exit_code
    _say(f"ended {', '.join(names)}, left by a supervisor that was killed" if names else f"nothing runs in {settings.home}")
    return 0


def _names(state: SupervisorState) -> str:
    return ", ".join(reversed(state.processes)) or "the supervisor"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")

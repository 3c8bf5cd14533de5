"""What a supervisor tells about itself: a lock for its lifetime, and a state file that other processes read."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from app.errors import BadFlag, Conflict
from app.settings import Settings

Phase = Literal["starting", "ready", "stopping"]


@dataclass(slots=True, kw_only=True)
class ProcessState:
    """One supervised process."""

    pid: int | None = None
    """None while it waits for its next start."""
    identity: str | None = None
    started_at: float | None = None
    """UTC epoch seconds."""
    restarts: int = 0
    last_exit: int | None = None
    worker_id: str | None = None
    log: str = ""


@dataclass(slots=True, kw_only=True)
class SupervisorState:
    """A supervisor and its processes, as in ``supervisor.json``."""

    pid: int
    identity: str
    started_at: float
    phase: Phase = "starting"
    waiting_for: list[str] = field(default_factory=list)
    """What is not ready yet, a sentence each."""
    skipped: list[str] = field(default_factory=list)
    """What the Procfile lists and this run leaves out, a sentence each."""
    facts: dict[str, str] = field(default_factory=dict)
    """Address, home, broker and the like, for people; never a password."""
    processes: dict[str, ProcessState] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Put the whole state in place of the last one."""
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        draft.replace(path)


def make_home(settings: Settings) -> None:
    """Make the folder for state. Raises BadFlag where that cannot be."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise BadFlag(f"SYNTHQ_HOME={settings.home} cannot be made: {error.strerror}; it takes a folder of your own") from None


def state_file(settings: Settings) -> Path:
    """Where the supervisor of this home writes its state."""
    return settings.run_dir / "supervisor.json"


def read_state(settings: Settings) -> SupervisorState | None:
    """The state that was written last, also by a supervisor that is gone; None when there is none."""
    try:
        raw: dict[str, Any] = json.loads(state_file(settings).read_text(encoding="utf-8"))
        processes = {name: ProcessState(**each) for name, each in raw.pop("processes").items()}
        return SupervisorState(**raw, processes=processes)
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # half a file, or another version's
        return None


def running(settings: Settings) -> SupervisorState | None:
    """The supervisor of this home, if it is alive."""
    state = read_state(settings)
    return state if state is not None and identity(state.pid) == state.identity else None


@contextlib.contextmanager
def lock(settings: Settings) -> Iterator[None]:
    """Be the one supervisor of this home. Raises Conflict when another one is."""
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.run_dir / "supervisor.lock").open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise already_up(settings) from None
        yield


def already_up(settings: Settings) -> Conflict:
    """The refusal of a second supervisor."""
    state = running(settings)
    who = f" (pid {state.pid}, {state.facts.get('api', 'no api')})" if state else ""
    return Conflict(f"synthq is up in {settings.home} already{who}; `synthq down` ends it, another SYNTHQ_HOME stands beside it")


def identity(pid: int) -> str | None:
    """What tells this process from a later one with the same pid: when it started. None when it is gone or a zombie."""
    if sys.platform == "linux":
        try:
            after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if after_name[0] in "ZX" else f"{_boot()}:{after_name[19]}"
    ran = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    status, _, started = ran.stdout.strip().partition(" ")
    return None if not started or status.startswith("Z") else started.strip()


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]


def alive(process: ProcessState) -> bool:
    """Whether this very process still runs."""
    return process.pid is not None and process.identity is not None and identity(process.pid) == process.identity


def end_leftovers(state: SupervisorState) -> list[str]:
    """Kill what a supervisor left running that was itself killed; the names of what was."""
    names = [name for name, process in state.processes.items() if alive(process)]
    for name in names:
        kill_group(state.processes[name].pid, signal.SIGKILL)
    deadline = time.monotonic() + 5.0
    while any(alive(state.processes[name]) for name in names) and time.monotonic() < deadline:
        time.sleep(0.02)
    return names


def kill_group(pid: int | None, number: signal.Signals) -> None:
    """Signal a process and the children in its group, if they are still there."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies is not permitted
            os.killpg(pid, number)

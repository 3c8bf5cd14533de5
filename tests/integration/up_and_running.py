"""A synthq that was started as a user starts it, in a home of its own, and the command line as a program beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.settings import get_settings
from app.supervisor.state import end_leftovers, identity, read_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What became of one command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as JSON."""
        return json.loads(self.out)


class Running:
    """A home, the processes in it, and commands given in a folder beside it."""

    def __init__(self, home: Path, folder: Path, **env: str) -> None:
        self.home, self.folder = home, folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SYNTHQ_")}
        self.env = clean | {"SYNTHQ_HOME": str(home), "SYNTHQ_TASK_APP_PORT": "0"} | env

    def __call__(self, *words: str, code: int = 0, timeout_s: float = 60.0) -> Said:
        """Run ``synthq`` with these words; it must end with ``code``."""
        line = [sys.executable, "-m", "cli.main", *map(str, words)]
        ran = subprocess.run(line, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert ran.returncode == code, f"{' '.join(words)} ended with {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return Said(code=ran.returncode, out=ran.stdout, err=ran.stderr)

    def up(self) -> None:
        """Start it on a free port, and turn later commands to that."""
        self("up", "--detach", "--port", "0", "--workers", "rollout=2", "--no-flower", timeout_s=120)
        self.env["SYNTHQ_URL"] = self.state()["facts"]["api"]

    def state(self) -> dict[str, Any]:
        """What the supervisor has told last."""
        found: dict[str, Any] = json.loads((self.home / "run" / "supervisor.json").read_text())
        return found

    def pids(self) -> list[int]:
        """The supervisor and every process that it runs."""
        state = self.state()
        return [state["pid"], *(each["pid"] for each in state["processes"].values() if each["pid"])]

    def job(self, ref: str) -> dict[str, Any]:
        """A job, as ``status --json`` tells it."""
        found: dict[str, Any] = self("status", ref, "--json").json
        return found


@contextmanager
def up(home: Path, folder: Path, **env: str) -> Iterator[Running]:
    """A synthq that runs, and that has surely ended afterwards."""
    running = Running(home, folder, **env)
    try:
        running.up()
        yield running
    finally:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SYNTHQ_HOME", str(home))
            get_settings.cache_clear()
            left = read_state(get_settings())
            if left is not None:
                running("down")
                end_leftovers(left)
        get_settings.cache_clear()


def family(pids: list[int]) -> dict[int, str | None]:
    """These processes and all that they started, each with what tells it from a later one of the same pid."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}
    found = set(pids)
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return {pid: identity(pid) for pid in found}


def until(true: Callable[[], Any], what: str, *, timeout_s: float = 20.0) -> Any:
    """Wait until something holds; its value. Fails with ``what`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)
    return value

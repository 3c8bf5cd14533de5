"""A synthq of fake processes in a home of its own, started and ended as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.settings import get_settings
from app.supervisor.state import end_leftovers, identity, read_state

PLAYER = Path(__file__).with_name("player.py")


def until(true: Callable[[], Any], what: str, *, timeout_s: float = 20.0) -> Any:
    """Wait until something holds; its value. Fails with ``what`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)
    return value


class Home:
    """A home, a Procfile of players, and the commands of a user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.procfile = folder / "Procfile"

    def write(self, *lines: str) -> None:
        """Each line is ``name flags``; a player's name is its role."""
        words = [line.partition(" ") for line in lines]
        self.procfile.write_text("".join(f"{name}: python {PLAYER} {name} {flags}\n" for name, _, flags in words))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "app.supervisor", *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60, check=False)

    def up(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("up", "--procfile", str(self.procfile), "--detach", "--port", "0", *words)

    def down(self) -> subprocess.CompletedProcess[str]:
        return self.run("down")

    def state(self) -> dict[str, Any]:
        """What the supervisor has told last."""
        found: dict[str, Any] = json.loads((self.folder / "run" / "supervisor.json").read_text())
        return found

    def pids(self) -> dict[str, int]:
        return {name: each["pid"] for name, each in self.state()["processes"].items()}

    def order(self) -> list[str]:
        return (self.folder / "order").read_text().splitlines()


@pytest.fixture
def home(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home whose broker is somebody else's, so that none is started; all that runs in it is ended afterwards."""
    monkeypatch.setenv("SYNTHQ_REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    yield Home(own_home)
    state = read_state(get_settings())
    if state is not None:
        if identity(state.pid) == state.identity:
            os.kill(state.pid, 9)
            until(lambda: identity(state.pid) is None, "the supervisor is gone")
        end_leftovers(state)

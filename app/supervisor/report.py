"""What ``synthq up`` and ``synthq down`` tell people. Never a password: a URL comes without, a file is named."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from app.settings import Settings
from app.supervisor.child import tail
from app.supervisor.state import SupervisorState

COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
"""ANSI colours of the processes' names, in turn."""
LOG_LINES = 10


def summary(state: SupervisorState, *, took_s: float) -> str:
    """The lines that tell a user where everything is."""
    lines = [f"synthq is up ({took_s:.1f} s)"]
    lines += [f"  {name:<10}{value}" for name, value in state.facts.items()]
    lines += [f"  {'left out':<10}{sentence}" for sentence in state.skipped]
    return "\n".join(lines)


def not_ready(state: SupervisorState | None, settings: Settings) -> str:
    """Which parts are not ready, each with the end of its log."""
    sentences = state.waiting_for if state else []
    lines = [f"  {sentence}" for sentence in sentences] or ["  the database or the broker has not answered yet"]
    for name, process in (state.processes if state else {}).items():
        if any(sentence.startswith(f"{name} ") for sentence in sentences):
            lines += [f"  the last lines of {process.log}:", *(f"    {line}" for line in tail(Path(process.log), LOG_LINES))]
    if not sentences:
        log = settings.logs_dir / "supervisor.log"
        lines += [f"  the last lines of {log}:", *(f"    {line}" for line in tail(log, LOG_LINES))]
    return "\n".join(lines)


class Console:
    """Lines of many processes on one stream, each with its name in front."""

    def __init__(self, stream: TextIO, names: list[str], *, quiet: bool = False, env: Mapping[str, str] = os.environ) -> None:
        self._stream, self._quiet = stream, quiet
        self._width = max(map(len, [*names, "synthq"]))
        self._colours: dict[str, int] = {}
        self._coloured = stream.isatty() and not env.get("NO_COLOR") and env.get("TERM") != "dumb"

    def say(self, name: str, line: str) -> None:
        """A line of a process. A quiet console leaves those to the log files."""
        if not self._quiet:
            self._write(f"{self._painted(name)} | {line}")

    def tell(self, text: str) -> None:
        """Something that the supervisor itself has to say."""
        for line in text.splitlines():
            self._write(line if self._quiet else f"{self._painted('synthq')} | {line}")

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (BrokenPipeError, OSError):  # the terminal is gone; the log files are not
            self._quiet = True

    def _painted(self, name: str) -> str:
        padded = name.ljust(self._width)
        if not self._coloured:
            return padded
        colour = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
        return f"\x1b[{colour}m{padded}\x1b[0m"


PYTHON_M = (sys.executable, "-m")

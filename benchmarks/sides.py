"""Two programs that are measured in turn, each a process with an interpreter of its own: what they say to one another.

The standard library alone, for one side's interpreter may know nothing of synthq.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO


class Seconds(NamedTuple):
    """On the clock, and of a processor in all of this process's threads."""

    wall: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> Seconds:
        """Since some time in the past."""
        return cls(time.perf_counter(), time.process_time())

    def plus(self, other: Seconds) -> Seconds:
        """Both together."""
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def less(self, other: Seconds) -> Seconds:
        """Without the other, such as the beginning."""
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


class Side:
    """A process that does what it is told, and tells what came of it; it waits and does nothing else between orders."""

    def __init__(self, python: str | Path, module: str, config: Path, *, threads: int, log: Path) -> None:
        """``config``: a JSON file that the module's command line takes; what else it prints goes to ``log``."""
        self._log = log
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        env |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [str(python), "-m", module, str(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=env | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            )

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """Give an order, and wait for its answer. Raises SystemExit with the end of the log when the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **more}) + "\n")
            self._process.stdin.flush()
            said = self._process.stdout.readline()
        except BrokenPipeError:
            said = ""
        if not said:
            end = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise SystemExit(f"{' '.join(map(str, self._process.args))} ended when it was to {what}:\n{end}")  # type: ignore[arg-type]
        return dict(json.loads(said))

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Orders:
    """What the process of a side is told. From then on whatever is printed goes to the log."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def next(self) -> dict[str, Any]:
        """The next order; the process ends where there is none."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        return dict(json.loads(line))

    def answer(self, told: Mapping[str, Any]) -> None:
        """Tell what came of the last order."""
        self._out.write(json.dumps(dict(told)) + "\n")
        self._out.flush()

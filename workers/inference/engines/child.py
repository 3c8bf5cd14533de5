"""One engine's process, and what it ended of."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from app.errors import EngineFailed
from app.watched import Watched, log_of, shortened
from workers.inference.engines.base import Engine, Options

log = logging.getLogger("synthq.inference")

CAUSE_S: Final = 30.0
"""How long before its last line a process may have told what it ended of."""
CAUSE: Final = re.compile(r"^Error: (?P<said>.+)|(?:^|[\s)])(?P<told>(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b: .+)")
"""What an exception's last line looks like, wherever a process writes it."""
REPEATS: Final = re.compile(r"Engine core initialization failed|WorkerProc initialization failed|See root cause above")
"""Exceptions that only say that another one went before."""
MARGIN: Final = re.compile(r"^\([A-Za-z0-9_]+ pid=\d+\)\s*")
"""What vLLM writes before each line of its processes."""


def free_port(host: str) -> int:
    """A port that nobody listens on at this moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class EngineChild(Watched):
    """An engine's process, in a process group of its own that ends with it, and with this process, even by SIGKILL."""

    def __init__(
        self, engine: Engine, base: str, options: Options, *, host: str, port: int, log_file: Path | None = None
    ) -> None:
        """Starts it. ``log_file``: where its output goes; None: beside the logs of ``synthq up``, named after this worker.

        Raises NotHere or InvalidInput where the engine cannot serve this, EngineFailed when no process can be started.
        """
        self.engine = engine
        argv = engine.command(base, options, host=host, port=port)
        env, path = engine.environment(base, options), log_file or log_of("engine")
        try:
            super().__init__(f"engine {engine.name}", argv, env=env, log_file=path, log=log, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise EngineFailed(f"engine {engine.name} cannot be started: {error.strerror}") from None
        log.info("engine %s starts, pid %d, with %s; its log: %s", engine.name, self.pid, base, self.log_file)

    def why(self) -> str:
        """A sentence about its end: how, and what went wrong as far as its output tells, else its last lines."""
        lines = list(self.lines)
        found = cause([line for at, line in lines if at > lines[-1][0] - CAUSE_S])
        return self.last_words([_short(line) for _, line in lines if line.strip()], found)

    def failure(self) -> EngineFailed:
        """Its end as an error."""
        return EngineFailed(self.why())


def cause(lines: Sequence[str]) -> str:
    """The first exception that these lines tell of, other than those that only point at another; empty when there is none."""
    for line in lines:
        found = CAUSE.search(line)
        if found and not REPEATS.search(line):
            return _short(found["told"] or found["said"])
    return ""


def _short(line: str) -> str:
    return shortened(MARGIN.sub("", line.strip()))

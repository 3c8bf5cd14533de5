"""One engine's process, from its start to its end: its log, its last words, its group."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from app.errors import EngineFailed
from app.leash import leashed
from app.logs import redacted
from app.settings import get_settings
from app.supervisor.child import LogFile, describe
from app.supervisor.state import kill_group
from workers.inference.engines.base import Engine, Options

log = logging.getLogger("synthq.inference")

KEPT_LINES: Final = 400
"""Of what it said last; the cause of a failed start may stand far above the end."""
SHOWN_LINES: Final = 6
LONGEST_LINE: Final = 300
"""Characters of a line that a sentence shows."""
DRAIN_S: Final = 1.0
"""How long to read on after it ended."""
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


class EngineChild:
    """An engine's process, in a process group of its own that ends with it, and with this process, even by SIGKILL."""

    def __init__(
        self, engine: Engine, base: str, options: Options, *, host: str, port: int, log_file: Path | None = None
    ) -> None:
        """Starts it. ``log_file``: where its output goes; None: beside the logs of ``synthq up``, named after this worker.

        Raises NotHere or InvalidInput where the engine cannot serve this, EngineFailed when no process can be started.
        """
        self.engine, self.log_file = engine, log_file or _log_file()
        argv = engine.command(base, options, host=host, port=port)
        env = {**os.environ, "PYTHONUNBUFFERED": "1", **engine.environment(base, options)}
        self._log = LogFile(self.log_file)
        self._lines: deque[tuple[float, str]] = deque(maxlen=KEPT_LINES)
        self._writing = threading.Lock()
        self._stopping = self._silent = False
        try:
            self._process = subprocess.Popen(
                leashed(argv, group=True),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise EngineFailed(f"engine {engine.name} cannot be started: {error.strerror}") from None
        assert self._process.stdout is not None
        self._pump = threading.Thread(target=self._read, args=(self._process.stdout,), name="synthq-engine-log", daemon=True)
        self._ended = threading.Event()
        self._pump.start()
        threading.Thread(target=self._keep, name="synthq-engine-end", daemon=True).start()
        log.info("engine %s starts, pid %d, with %s; its log: %s", engine.name, self.pid, base, self.log_file)

    @property
    def pid(self) -> int:
        """Of the process that leads its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended.is_set()

    @property
    def exit_status(self) -> int | None:
        """What it ended with, negative for a signal; None while it runs."""
        return None if self.running else self._process.returncode

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended, which is noticed at once; False when it has not by then."""
        return self._ended.wait(timeout_s)

    def why(self) -> str:
        """A sentence about its end: how, and what went wrong as far as its output tells, else its last lines."""
        how = describe(self._process.returncode) if self._process.returncode is not None else "it runs"
        lines = list(self._lines)
        told = f"engine {self.engine.name} ended ({how})"
        if found := cause([line for at, line in lines if at > lines[-1][0] - CAUSE_S]):
            return f"{told}: {found}; its log is {self.log_file}"
        said = [_short(line) for _, line in lines if line.strip()][-SHOWN_LINES:]
        return "\n  ".join([f"{told}; its log is {self.log_file}, and ends with", *said]) if said else f"{told}; it said nothing"

    def failure(self) -> EngineFailed:
        """Its end as an error."""
        return EngineFailed(self.why())

    def stop(self, grace_s: float) -> bool:
        """Ask it to end, kill its whole group after ``grace_s``; True when it ended by itself. May be called from any thread."""
        self._stopping = True
        if self.running:
            self._process.terminate()
        willing = self._ended.wait(grace_s)
        if not willing:
            log.warning("engine %s, pid %d, has not ended %g s after SIGTERM; killed", self.engine.name, self.pid, grace_s)
            kill_group(self.pid, signal.SIGKILL)
            self._ended.wait()
        return willing

    def _keep(self) -> None:
        """Wait for its end; then end what it left in its group."""
        code = self._process.wait()
        kill_group(self.pid, signal.SIGKILL)
        self._pump.join(DRAIN_S)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write(f"{at} synthq: engine {self.engine.name} ended, {describe(code)}\n")
        with self._writing:
            self._log.close()
            self._ended.set()
        if self._stopping:
            log.info("engine %s, pid %d, ended, %s", self.engine.name, self.pid, describe(code))
        else:
            log.warning("engine %s, pid %d, ended by itself, %s", self.engine.name, self.pid, describe(code))
            for _, line in list(self._lines)[-SHOWN_LINES:]:
                log.warning("engine %s said: %s", self.engine.name, line)

    def _read(self, output: IO[bytes]) -> None:
        with output:
            for raw in output:
                line = redacted(raw.decode("utf-8", "replace").rstrip("\r\n"))
                self._lines.append((time.monotonic(), line))
                if self._ended.is_set():  # a process that left the group still speaks
                    return
                self._write(f"{line}\n")
                log.debug("engine %s: %s", self.engine.name, line)

    def _write(self, text: str) -> None:
        """Add to its log. Where that fails it is read on: an engine whose output nobody takes stands still."""
        with self._writing:
            try:
                if not self._ended.is_set():
                    self._log.write(text.encode())
            except (OSError, ValueError) as error:  # ValueError: a file that was closed to begin a new one, which failed
                if not self._silent:
                    log.warning("what engine %s says is not written to %s: %s", self.engine.name, self.log_file, error)
                self._silent = True


def cause(lines: Sequence[str]) -> str:
    """The first exception that these lines tell of, other than those that only point at another; empty when there is none."""
    for line in lines:
        found = CAUSE.search(line)
        if found and not REPEATS.search(line):
            return _short(found["told"] or found["said"])
    return ""


def _short(line: str) -> str:
    text = MARGIN.sub("", line.strip())
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}..."


def _log_file() -> Path:
    """One for each worker process of ``synthq up``, whatever was added to its name for this start."""
    settings = get_settings()
    worker = os.environ.get("SYNTHQ_WORKER_ID", "")
    return settings.logs_dir / f"engine-{worker.rpartition('-')[0] or worker or os.getpid()}.log"

"""A process that lives beside its worker for long: its log, its last words, its end, and that of its whole group."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from app.leash import leashed
from app.logs import redacted
from app.settings import get_settings
from app.supervisor.child import LogFile, describe
from app.supervisor.state import kill_group

KEPT_LINES: Final = 400
"""Of what it said last; the cause of a failed start may stand far above the end."""
SHOWN_LINES: Final = 6
LONGEST_LINE: Final = 300
"""Characters of a line that a sentence shows."""
DRAIN_S: Final = 1.0
"""How long to read on after it ended."""


class Watched:
    """A process in a group of its own that ends with it, and with this process, even by SIGKILL."""

    def __init__(
        self, name: str, argv: list[str], *, env: Mapping[str, str], log_file: Path, log: logging.Logger, stdin: int
    ) -> None:
        """Starts it. ``name``: what sentences call it; ``log_file``: where its output goes. Raises OSError."""
        self.name, self.log_file = name, log_file
        self._say = log
        self._log = LogFile(log_file)
        self.lines: deque[tuple[float, str]] = deque(maxlen=KEPT_LINES)
        """When it said what."""
        self._writing = threading.Lock()
        self._stopping = self._silent = False
        try:
            self._process = subprocess.Popen(
                leashed(argv, group=True),
                env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError:
            self._log.close()
            raise
        assert self._process.stdout is not None
        self._pump = threading.Thread(target=self._read, args=(self._process.stdout,), name="synthq-child-log", daemon=True)
        self._ended = threading.Event()
        self._pump.start()
        threading.Thread(target=self._keep, name="synthq-child-end", daemon=True).start()

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

    def last_words(self, said: list[str], cause: str = "") -> str:
        """A sentence about its end: how, and what went wrong as far as is known, else the last of what it said."""
        how = describe(self._process.returncode) if self._process.returncode is not None else "it runs"
        told = f"{self.name} ended ({how})"
        if cause:
            return f"{told}: {cause}; its log is {self.log_file}"
        last = said[-SHOWN_LINES:]
        return "\n  ".join([f"{told}; its log is {self.log_file}", *last]) if last else f"{told}; it said nothing"

    def stop(self, grace_s: float) -> bool:
        """Ask it to end, kill its whole group after ``grace_s``; True when it ended by itself. May be called from any thread."""
        self._stopping = True
        if self.running:
            self.ask_to_end()
        willing = self._ended.wait(grace_s)
        if not willing:
            self._say.warning("%s, pid %d, has not ended %g s after it was asked to; killed", self.name, self.pid, grace_s)
            self.kill()
        return willing

    def ask_to_end(self) -> None:
        """How it is asked."""
        self._process.terminate()

    def kill(self) -> None:
        """End all of it now."""
        self._stopping = True
        kill_group(self.pid, signal.SIGKILL)
        self._ended.wait()

    def _keep(self) -> None:
        """Wait for its end; then end what it left in its group."""
        code = self._process.wait()
        kill_group(self.pid, signal.SIGKILL)
        self._pump.join(DRAIN_S)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write(f"{at} synthq: {self.name} ended, {describe(code)}\n")
        with self._writing:
            self._log.close()
            self._ended.set()
        if self._stopping:
            self._say.info("%s, pid %d, ended, %s", self.name, self.pid, describe(code))
        else:
            self._say.warning("%s, pid %d, ended by itself, %s", self.name, self.pid, describe(code))
            for _, line in list(self.lines)[-SHOWN_LINES:]:
                self._say.warning("%s said: %s", self.name, line)

    def _read(self, output: IO[bytes]) -> None:
        with output:
            for raw in output:
                line = redacted(raw.decode("utf-8", "replace").rstrip("\r\n"))
                self.lines.append((time.monotonic(), line))
                if self._ended.is_set():  # a process that left the group still speaks
                    return
                self._write(f"{line}\n")
                self._say.debug("%s: %s", self.name, line)

    def _write(self, text: str) -> None:
        """Add to its log. Where that fails it is read on: a process whose output nobody takes stands still."""
        with self._writing:
            try:
                if not self._ended.is_set():
                    self._log.write(text.encode())
            except (OSError, ValueError) as error:  # ValueError: a file that was closed to begin a new one, which failed
                if not self._silent:
                    self._say.warning("what %s says is not written to %s: %s", self.name, self.log_file, error)
                self._silent = True


def shortened(line: str) -> str:
    """A line as a sentence shows it."""
    text = line.strip()
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}..."


def log_of(kind: str) -> Path:
    """A log for each worker process of ``synthq up``, whatever was added to its name for this start."""
    worker = os.environ.get("SYNTHQ_WORKER_ID", "")
    return get_settings().logs_dir / f"{kind}-{worker.rpartition('-')[0] or worker or os.getpid()}.log"

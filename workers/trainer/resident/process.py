"""The child's process, or all of them where several train together: its start, its log and last words, its end."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Final

from app.errors import ChildDied
from app.leash import leashed
from app.logs import redacted
from app.settings import get_settings
from app.supervisor.child import LogFile, describe
from app.supervisor.state import kill_group
from workers.model.threads import sharing
from workers.trainer.wire import Wire

log = logging.getLogger("synthq.trainer")

MODULE: Final = "workers.trainer.child"
KEPT_LINES: Final = 40
"""Of what it said last."""
SHOWN_LINES: Final = 6
LONGEST_LINE: Final = 300
"""Characters of a line that a sentence shows."""
DRAIN_S: Final = 1.0
"""How long to read on after it ended."""
NOISE: Final = re.compile(r"^\s*$|torch/distributed/|^[=-]{10,}|^\s*(time|host|rank|exitcode|error_file|traceback)\s*:")
"""What torchrun adds when a process of its ends: where, but not why."""


def command(devices: int) -> list[str]:
    """The command line of a child with so many processes."""
    if devices == 1:
        return [sys.executable, "-m", MODULE]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return [*launcher, "--nproc-per-node", str(devices), "--module", MODULE]


class Process:
    """A child that runs. It ends with this process, even by SIGKILL; its standard input is the socket on which it speaks."""

    def __init__(self, devices: int, log_file: Path | None = None) -> None:
        """Starts it. ``log_file``: where its output goes; None: beside the logs of ``synthq up``. Raises ChildDied."""
        self.devices, self.log_file = devices, log_file or _log_file()
        self._log = LogFile(self.log_file)
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._writing = threading.Lock()
        self._ended = threading.Event()
        ours, theirs = socket.socketpair()
        self.wire = Wire(ours)
        cores = max(1, (os.cpu_count() or 1) // devices)
        env = {"OMP_NUM_THREADS": str(cores), **os.environ} if devices > 1 else dict(os.environ)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    leashed(command(devices), group=True),
                    env={**env, **sharing(), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"},
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                self.wire.close()
                self._log.close()
                raise ChildDied(f"the trainer's child cannot be started: {error.strerror}") from None
        assert self._process.stdout is not None
        self._pump = threading.Thread(target=self._read, args=(self._process.stdout,), name="synthq-trainer-log", daemon=True)
        self._pump.start()
        threading.Thread(target=self._keep, name="synthq-trainer-end", daemon=True).start()
        log.info("the trainer's child starts, pid %d, %d processes; its log: %s", self.pid, devices, self.log_file)

    @property
    def pid(self) -> int:
        """Of the process that leads its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended.is_set()

    def why(self) -> str:
        """How it ended, and its last words."""
        said = [line for line in self._lines if not NOISE.search(line)][-SHOWN_LINES:]
        how = describe(self._process.returncode) if self._process.returncode is not None else "it runs"
        told = f"the trainer's child ended ({how})"
        return "\n  ".join([f"{told}; its log is {self.log_file}, and ends with", *said]) if said else f"{told}; it said nothing"

    def stop(self, grace_s: float) -> bool:
        """Let it end, and kill all of it after ``grace_s``; True when it ended by itself. May be called from any thread."""
        self.wire.close()
        willing = self._ended.wait(grace_s)
        if not willing:
            self.kill()
        return willing

    def kill(self) -> None:
        """End all of it now."""
        kill_group(self.pid, signal.SIGKILL)
        self._ended.wait()

    def _keep(self) -> None:
        """Wait for its end; then end what it left in its group."""
        code = self._process.wait()
        kill_group(self.pid, signal.SIGKILL)
        self._pump.join(DRAIN_S)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write(f"{at} synthq: the trainer's child, pid {self.pid}, ended, {describe(code)}\n")
        with self._writing:
            self._log.close()
            self._ended.set()
        log.info("the trainer's child, pid %d, ended, %s", self.pid, describe(code))

    def _read(self, output: IO[bytes]) -> None:
        with output:
            for raw in output:
                line = redacted(raw.decode("utf-8", "replace").rstrip("\r\n"))
                self._lines.append(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}...")
                if not self.running:  # a process that left the group still speaks
                    return
                self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        """Add to its log. Where that fails it is read on: a process whose output nobody takes stands still."""
        with self._writing:
            try:
                if self.running:
                    self._log.write(text.encode())
            except (OSError, ValueError) as error:  # ValueError: a file that was closed to begin a new one, which failed
                log.warning("what the trainer's child says is not written to %s: %s", self.log_file, error)


def _log_file() -> Path:
    """One for each worker process of ``synthq up``, whatever was added to its name for this start."""
    settings = get_settings()
    worker = os.environ.get("SYNTHQ_WORKER_ID", "")
    return settings.logs_dir / f"child-{worker.rpartition('-')[0] or worker or os.getpid()}.log"

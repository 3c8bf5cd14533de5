"""One supervised process: starts it, keeps its log, starts it again when it ends, stops it when asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from app.leash import leashed
from app.supervisor.state import ProcessState, identity, kill_group

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
STEADY_S = 60.0
"""A process that ran this long starts again with the first delay."""
WORKER_GRACE_S = 20.0
"""How long a worker may take to hand its step back before it is killed; the step goes back to its queue either way."""
GRACE_S = 8.0
"""The same for what holds nothing."""
LOG_BYTES = 10 * 1024 * 1024
LOGS_KEPT = 3
LINE_LIMIT = 1024 * 1024
DRAIN_S = 1.0
"""How long to read on after a process ended, for what a child of it may still say."""


class LogFile:
    """A process's output on disk: ``name.log``, and ``name.log.1`` to ``.3`` before it."""

    def __init__(self, path: Path, *, limit: int = LOG_BYTES) -> None:
        self.path, self.limit = path, limit
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Add bytes; begin a new file first when this one is full."""
        if self._file.tell() + len(data) > self.limit and self._file.tell():
            self._rotate()
        self._file.write(data)

    def _rotate(self) -> None:
        self._file.close()
        for number in range(LOGS_KEPT, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            if older.exists():
                older.replace(self.path.with_name(f"{self.path.name}.{number}"))
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Child:
    """A process that is kept running until ``stop``.

    ``say`` gets each line of its output; ``ended`` is awaited when it ended without being asked to.
    """

    def __init__(
        self,
        name: str,
        argv: list[str],
        *,
        env: Mapping[str, str],
        log: Path,
        say: Callable[[str, str], None],
        changed: Callable[[], None],
        ended: Callable[[Child], Awaitable[None]],
        is_worker: bool = False,
        at_death: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name, self.argv, self.env, self.is_worker, self.at_death = name, argv, dict(env), is_worker, at_death
        self.state = ProcessState(log=str(log))
        self._log = LogFile(log)
        self._say, self._changed, self._ended = say, changed, ended
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it runs at this moment."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; from now on it is kept running."""
        await self._spawn()
        self._task = asyncio.create_task(self._keep(), name=self.name)

    async def stop(self, grace_s: float) -> bool:
        """Ask it to end, kill it after ``grace_s``; True when it ended by itself. Its whole process group goes with it."""
        self._stopping.set()
        willing = True
        if self.running:
            self._signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._wait(), grace_s)
            except TimeoutError:
                willing = False
                self.kill()
        if self._task is not None:
            await self._task
        self._log.close()
        return willing

    def kill(self) -> None:
        """End it and its children now."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """SIGTERM goes to the process, which tells its children; SIGKILL to the whole group."""
        if self._process is None or not self.running:
            return
        if number == signal.SIGKILL:
            kill_group(self._process.pid, number)
        else:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _wait(self) -> None:
        if self._process is not None:
            await self._process.wait()

    async def _spawn(self) -> None:
        env = {**self.env, "PYTHONUNBUFFERED": "1"}
        if self.is_worker:  # a new id with each start: what an earlier one still holds is not this one's
            self.state.worker_id = env["SYNTHQ_WORKER_ID"] = f"{self.name}-{secrets.token_hex(4)}"
        self._process = await asyncio.create_subprocess_exec(
            *leashed(self.argv, at_death=self.at_death),
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal reaches the supervisor alone
            limit=LINE_LIMIT,
        )
        self.state.pid, self.state.started_at = self._process.pid, time.time()
        self.state.identity = identity(self._process.pid)
        self._note(f"started, pid {self._process.pid}")
        self._changed()

    async def _keep(self) -> None:
        delay = FIRST_DELAY_S
        while True:
            began = time.monotonic()
            code = await self._until_end()
            self.state.pid = self.state.identity = None
            self.state.last_exit = code
            self._changed()
            if self._stopping.is_set():
                self._note(f"ended, {describe(code)}")
                return
            await self._ended(self)
            if time.monotonic() - began >= STEADY_S:
                delay = FIRST_DELAY_S
            self._tell(f"ended by itself, {describe(code)}; starts again in {delay:g} s")
            if not await self._again(delay):
                return
            delay = min(delay * 2, LONGEST_DELAY_S)

    async def _again(self, delay: float) -> bool:
        """Wait and start once more; False when it is to stay down."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            if self._stopping.is_set():
                return False
            self.state.restarts += 1
            try:
                await self._spawn()
            except OSError as error:  # no memory or no process left; there may be later
                self._tell(f"cannot be started: {error}; tried again in {LONGEST_DELAY_S:g} s")
                delay = LONGEST_DELAY_S
                continue
            if self._stopping.is_set():  # asked while it started, when there was nothing to signal yet
                self.kill()
            return True

    async def _until_end(self) -> int:
        """Copy its output until it ends; then end what it left in its group, which could hold the pipe open."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        pump = asyncio.create_task(self._pump(process.stdout))
        code = await process.wait()
        kill_group(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pump, DRAIN_S)
        return code

    async def _pump(self, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readuntil(b"\n")
            except asyncio.IncompleteReadError as last:
                line = last.partial
            except asyncio.LimitOverrunError as long:
                line = await output.readexactly(long.consumed)
            if not line:
                return
            self._log.write(line)
            self._say(self.name, line.decode("utf-8", "replace").rstrip("\r\n"))

    def _tell(self, text: str) -> None:
        self._note(text)
        self._say(self.name, text)

    def _note(self, text: str) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._log.write(f"{at} synthq up: {self.name} {text}\n".encode())


def describe(code: int) -> str:
    """An exit status in words: ``exit status 1`` or ``SIGKILL``."""
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def tail(path: Path, lines: int = 10) -> list[str]:
    """The last lines of a log; nothing when there is none."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 64 * 1024))
        return file.read().decode("utf-8", "replace").splitlines()[-lines:]

"""Keeps the one child of a worker process: starts it when a step needs one, again after it died, and ends it when it is idle."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from app import engines
from app.errors import NotHere
from app.settings import get_settings
from workers.runner import kill_this_process
from workers.trainer.resident.calls import Child
from workers.trainer.resident.process import Process

log = logging.getLogger("synthq.trainer")

LOOK_S: Final = 1.0
"""How often it is looked whether the child is idle."""
END_S: Final = 5.0
"""How long a child without work may take to end."""


class Resident:
    """One child, or none while nothing was asked for. ``start``, ``drain`` and ``stop`` are called by the main thread."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._used_at = time.monotonic()
        self._in_use = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="synthq-trainer", daemon=True)

    def start(self) -> None:
        """Watch over the child from now on. It is started by the first step that needs it."""
        self._thread.start()

    def drain(self) -> None:
        """Nothing: the step that runs is told by its own context, and brings the child to a point where it can go on."""

    def stop(self) -> None:
        """End the child."""
        self._end.set()
        with self._in_use:
            self._leave("the worker ends")

    @contextmanager
    def child(self) -> Iterator[Child]:
        """The child for one step, which has it alone. Raises ChildDied when none can be started."""
        with self._in_use:
            devices = get_settings().trainer_devices
            process = self._process
            if process is not None and not (process.running and process.devices == devices):
                self._leave("another takes its place")
                process = None
            if process is None:
                process = self._process = Process(devices)
            child = Child(process)
            try:
                yield child
            finally:
                if child.busy and process.running:  # a call was left behind
                    process.kill()
                self._used_at = time.monotonic()

    def give_up(self) -> None:
        """End a step that neither goes on nor stops: with the child that it waits for, else with this process."""
        process = self._process
        if process is not None and process.running and self._in_use.locked():
            log.error("ending the trainer's child, pid %d: its step neither goes on nor stops", process.pid)
            process.kill()
        else:
            kill_this_process()

    def _run(self) -> None:
        while not self._end.wait(LOOK_S):
            if not self._in_use.acquire(blocking=False):
                continue
            try:
                if self._process is not None and time.monotonic() - self._used_at >= get_settings().trainer_idle_s:
                    self._leave(f"no step has needed it for {get_settings().trainer_idle_s:g} s")
            finally:
                self._in_use.release()

    def _leave(self, why: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            log.info("the trainer's child, pid %d, is ended: %s", process.pid, why)
            process.stop(END_S)


_own: Resident | None = None


def make(worker_id: str) -> Resident:
    """What a trainer worker looks after. Raises NotHere where nothing can be trained."""
    if missing := engines.why_not(engines.TRANSFORMERS):
        raise NotHere(f"nothing can be trained here: {missing}")
    return _resident()


def _resident() -> Resident:
    global _own
    if _own is None:
        _own = Resident()
    return _own


@contextmanager
def child() -> Iterator[Child]:
    """The child of this process for one step, which has it alone. Raises ChildDied when none can be started."""
    with _resident().child() as found:
        yield found


def give_up() -> None:
    """End the step of this process, which neither goes on nor stops."""
    _resident().give_up()

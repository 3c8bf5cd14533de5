"""The child as a step function has it: something to call."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from app.errors import ChildDied, ChildFailed
from workers.trainer.resident.process import Process

LOOK_S: Final = 0.2
"""How often it is looked whether the call should stop."""
LEAVE_S: Final = 12.0
"""How long a call that should stop may take to come to a point where it can go on; below what a worker has to end in."""
GONE_S: Final = 5.0
"""How long a child that closed its end, or said that it goes, may take to be gone."""

NUMBERS: Final = itertools.count(1)
"""Calls are numbered, so that one which has just ended is not taken for the next when it is cancelled."""


class Child:
    """A running child, for one step at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.busy = False
        """Whether a call is under way: it is no good for another one."""

    @property
    def log_file(self) -> str:
        """Where what it prints goes."""
        return str(self._process.log_file)

    def call(
        self,
        target: str,
        args: Mapping[str, Any] | None = None,
        *,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        check: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Run ``target`` (``module:function``, as ``workers.trainer.child.Target``) there, and give its result.

        ``on_event`` gets what it tells meanwhile. ``check`` is called several times a second; what it or ``on_event`` raises
        stops the call: the child is asked to come to an end, may tell and finish for up to ``LEAVE_S``, and is killed after
        that. A result that it gives all the same is given; else what stopped the call is raised. Raises ChildFailed for what
        went wrong there, ChildDied when it ended.
        """
        check = check or _go_on
        check()
        self.busy = True
        under_way = _Call(self._process, target, on_event or _ignore, check)
        try:
            return under_way.wait(dict(args or {}))
        finally:
            self.busy = not under_way.answered


class _Call:
    """One call under way."""

    def __init__(
        self, process: Process, target: str, on_event: Callable[[dict[str, Any]], None], check: Callable[[], None]
    ) -> None:
        self._process, self._target, self._on_event, self._check = process, target, on_event, check
        self._number = next(NUMBERS)
        self.answered = False
        """It has ended there, whatever came of it."""
        self._why: Exception | None = None
        """What stopped it."""
        self._deaf = False
        """Nobody takes its events any more."""
        self._until = 0.0

    def wait(self, args: dict[str, Any]) -> dict[str, Any]:
        """Send it and see it through."""
        try:
            self._process.wire.send({"call": self._target, "args": args, "number": self._number})
        except OSError:
            raise self._died() from None
        while True:
            self._look()
            told = self._next()
            if told is None:
                continue
            if "event" in told:
                self._hand_on(told["event"])
                continue
            self.answered = True
            if told.get("goes"):  # it could not be kept; the next call finds another
                self._process.stop(GONE_S)
            if "result" in told and not self._deaf:
                result: dict[str, Any] = told["result"]
                return result
            if self._why is not None:
                raise self._why
            raise ChildFailed(told["error"], of=told["of"], retryable=told["retryable"])

    def _next(self) -> dict[str, Any] | None:
        """What it said; None when it said nothing for a while."""
        try:
            alive = self._process.running
            told = self._process.wire.receive(LOOK_S if alive else 0.0)
        except EOFError:
            self._process.stop(GONE_S)
            raise self._why or self._died() from None
        if told is None and not alive:  # all that it had sent before its end was read
            raise self._why or self._died()
        return told

    def _look(self) -> None:
        try:
            if not self._deaf:  # what its events ran into says more than any look
                self._check()
        except Exception as why:  # noqa: BLE001 - whatever it is, it stops the call, and is raised at its end
            self._stop(why)
        if self._why is not None and time.monotonic() > self._until:
            self._process.kill()
            raise self._why

    def _hand_on(self, event: dict[str, Any]) -> None:
        if self._deaf:
            return
        try:
            self._on_event(event)
        except Exception as why:  # noqa: BLE001 - as above
            self._deaf = True
            self._stop(why)

    def _stop(self, why: Exception) -> None:
        """Ask it to come to an end. What comes later says more: a hold that is lost outranks a worker that ends."""
        if self._why is None:
            self._until = time.monotonic() + LEAVE_S
            with suppress(OSError):  # it is gone, which the next look tells
                self._process.wire.send({"cancel": self._number})
        self._why = why

    def _died(self) -> ChildDied:
        return ChildDied(f"{self._process.why()}\n  it was at {self._target}")


def _ignore(event: dict[str, Any]) -> None:
    """Nobody wants to know."""


def _go_on() -> None:
    """Nothing stops it."""

"""The way from the engine's thread into the event loop: what comes while the loop is busy is handed over in one go."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Calls functions in an event loop, in the order in which they were posted."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._posted: deque[tuple[Callable[[T], None], T]] = deque()
        self._called = False

    def post(self, receive: Callable[[T], None], value: T) -> None:
        """Have ``receive(value)`` called in the loop. From any thread."""
        self._posted.append((receive, value))
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        self._called = False  # before the first is taken: what is posted from here on calls again, or is taken below
        while self._posted:
            receive, value = self._posted.popleft()
            receive(value)

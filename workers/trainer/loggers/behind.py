"""A logger at work in a thread of its own, so that one which is slow, silent or broken holds no training up."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Final

from workers.trainer.loggers.base import Logger, Values

log = logging.getLogger("synthq.loggers")

MOST_WAITING: Final = 10_000
"""Points that may wait for it; those beyond are dropped."""
CLOSE_S: Final = 20.0
"""How long the end of a step waits for it to take what is left."""

Point = tuple[str, int, Values]


class Behind:
    """One logger, opened, fed and closed in its own thread. Nothing here raises, and nothing but ``close`` waits."""

    def __init__(self, name: str, make: Callable[[], Logger]) -> None:
        self.name = name
        self._make = make
        self._points: queue.Queue[Point | None] = queue.Queue(MOST_WAITING)
        self._fault: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"synthq-logger-{name}", daemon=True)
        self._thread.start()

    def put(self, point: Point) -> None:
        """Have it told of a point."""
        if self._over.is_set():
            return
        try:
            self._points.put_nowait(point)
        except queue.Full:
            self._fault = self._fault or f"{MOST_WAITING:,} points wait for it, and those that come now are dropped"

    def fault(self) -> str | None:
        """What went wrong since this was last asked; None: nothing."""
        found, self._fault = self._fault, None
        return found

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Let it take what is left and end, for a while; then it is left to itself."""
        try:
            self._points.put_nowait(None)
        except queue.Full:
            self._over.set()
        self._thread.join(wait_s)
        if self._thread.is_alive():
            left = self._points.qsize()
            self._fault = self._fault or f"it has not taken its last points within {wait_s:g} s ({left} wait)"
            self._over.set()

    def _run(self) -> None:
        try:
            logger = self._make()
            try:
                while (point := self._next()) is not None:
                    logger.log(*point)
            finally:
                logger.close()
        except Exception as error:
            self._fault = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
            log.warning("the logger %s failed", self.name, exc_info=error)
        self._over.set()

    def _next(self) -> Point | None:
        return None if self._over.is_set() else self._points.get()

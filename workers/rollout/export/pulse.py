"""A sign of life between two pieces of work: does the step go on, and how far has it come?"""

from __future__ import annotations

import time

from workers.runner import StepContext

NOTE_S = 0.5
"""Shortest time between two notes of progress: each is a write."""


class Pulse:
    """Call it before every piece of work, however small."""

    def __init__(self, context: StepContext) -> None:
        self._context, self._noted_at = context, time.monotonic()
        self._done, self._total = 0, 0

    def __call__(self) -> None:
        """Raise StepCancelled, LostStep or Drain when the work should stop; note the progress now and then."""
        self._context.check()
        if time.monotonic() - self._noted_at > NOTE_S:
            self._note()

    def reach(self, done: int, total: int) -> None:
        """So many episodes are done, of so many."""
        self._done, self._total = done, total
        if done == total:
            self._note()

    def _note(self) -> None:
        self._context.progress(self._done, self._total)
        self._noted_at = time.monotonic()

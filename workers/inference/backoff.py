"""When to try again what failed: soon at first, then ever later, and slowly once it looks hopeless."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

FIRST_S: Final = 0.5
LONGEST_S: Final = 30.0
MOST: Final = 3
"""Failures in a row after which it counts as failed rather than as coming."""
SLOW_S: Final = 30.0
"""Between tries of what counts as failed."""
STEADY_S: Final = 60.0
"""What went well for this long begins its count anew."""


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Failures in a row of one thing."""

    count: int = 0
    lasting: bool = False
    """It would fail the same way until something outside changes."""
    reason: str = ""
    """Why it failed last; empty when it did not."""
    _again_at: float = 0.0

    @property
    def due(self) -> bool:
        """Whether it may be tried now."""
        return time.monotonic() >= self._again_at

    @property
    def hopeless(self) -> bool:
        """Whether it counts as failed."""
        return self.lasting or self.count >= MOST

    def failed(self, reason: str, *, lasting: bool = False, well_for_s: float = 0.0) -> None:
        """It failed, after it had gone well for a while."""
        self.count = 1 if well_for_s >= STEADY_S else self.count + 1
        self.lasting, self.reason = lasting, reason
        delay = SLOW_S if self.hopeless else min(FIRST_S * 2 ** (self.count - 1), LONGEST_S)
        self._again_at = time.monotonic() + delay

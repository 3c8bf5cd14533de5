"""Where an update's time goes, how far it is, and what memory it took."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from workers.trainer.child.held import Held

TOLD_S: Final = 1.0
"""How often it is told how far it is."""
MIB: Final = 1024**2


class Phases:
    """The clock of one call. A phase may be entered again; its seconds add up."""

    def __init__(self, tell: Callable[[dict[str, Any]], None], held: Held) -> None:
        self._tell, self._held = tell, held
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._begun = time.monotonic()
        self._told_at = 0.0
        self._phase, self._done, self._total = "", 0, 0

    @contextmanager
    def __call__(self, name: str, *, total: int = 0) -> Iterator[None]:
        """A block that is a phase; ``total``: samples that it goes through."""
        begun = time.monotonic()
        self._phase, self._done, self._total = name, 0, total
        self._say()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - begun

    def pulse(self) -> None:
        """Say from time to time that it goes on. Raises Cancelled when the call should end."""
        self._held.check()
        if time.monotonic() - self._told_at > TOLD_S:
            self._say()

    def done(self, samples: int) -> None:
        """So many more samples are done."""
        self._done += samples
        self.pulse()

    def seconds(self, name: str) -> float:
        """What a phase that has ended, or is not entered yet, took."""
        return self._seconds[name]

    def figures(self) -> dict[str, float]:
        """Seconds by phase and in all, and the most memory that was taken."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1 / 1024)
        told = {f"seconds/{name}": seconds for name, seconds in self._seconds.items()}
        told |= {"seconds/call": time.monotonic() - self._begun, "memory/peak_mib": peak / MIB}
        if torch.cuda.is_available():
            told["memory/gpu_peak_mib"] = torch.cuda.max_memory_allocated() / MIB
            torch.cuda.reset_peak_memory_stats()
        return told

    def _say(self) -> None:
        self._told_at = time.monotonic()
        self._tell({"phase": self._phase, "done": self._done, "total": self._total})

"""A cache with a budget: what was used least recently goes first. Safe between threads; no torch here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Values by key, no more of them than ``budget`` holds; the sizes are in whatever unit the user of it counts."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.hits = self.misses = self.evicted = 0
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: K) -> V | None:
        """The value of a key, which is now the most recently used; None when it is not held."""
        with self._lock:
            found = self._held.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._held.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Hold a value, if the budget can hold one of its size at all."""
        with self._lock:
            if key in self._held:
                self.used -= self._held.pop(key)[1]
            if size > self.budget:
                return
            self._held[key] = (value, size)
            self.used += size
            while self.used > self.budget:
                _, (_, gone) = self._held.popitem(last=False)
                self.used -= gone
                self.evicted += 1

    def clear(self) -> None:
        """Hold nothing."""
        with self._lock:
            self._held.clear()
            self.used = 0

    def figures(self) -> dict[str, int]:
        """Hits, misses, evictions, entries and the size of what is held."""
        with self._lock:
            return {
                "hits": self.hits,
                "misses": self.misses,
                "evicted": self.evicted,
                "entries": len(self._held),
                "used": self.used,
            }

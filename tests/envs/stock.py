"""Stock Crafter with the one change that makes it reproducible: chunks keep their objects in order."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import crafter
import crafter.engine


class OrderedSet(dict[Any, None]):
    """As much of a set as a chunk needs, in the order of insertion."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


class OrderedWorld(crafter.engine.World):
    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._chunks = defaultdict(OrderedSet)


def stock(seed: int, *, length: int = 10_000, size: int = 64) -> crafter.Env:
    """A stock environment whose first reset gives the world of this seed."""
    env = crafter.Env(seed=seed, length=length, size=(size, size))
    env._world.__class__ = OrderedWorld
    return env

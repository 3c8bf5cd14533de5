"""What an engine serves: its base and the adapters on it, by name, and how many requests use each. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Condition
from typing import Any

from app.errors import Conflict, UnknownName


@dataclass(slots=True, kw_only=True, eq=False)
class Served:
    """A name that requests may ask for."""

    name: str
    path: str
    sha256: str
    slot: int | None
    """Where the adapter stands; None: the base."""
    parent: str | None
    """The base's name, for an adapter."""
    users: int = 0
    """Requests that have not ended."""

    def told(self) -> dict[str, Any]:
        """For people and programs."""
        return {"id": self.name, "parent": self.parent, "path": self.path, "sha256": self.sha256}


class Catalog:
    """The names. Safe between threads: every method holds ``lock``, which the caller may hold already."""

    def __init__(self, base: Served, *, max_loras: int, lock: Condition) -> None:
        self._names = {base.name: base}
        self._base, self._most, self._lock = base, max_loras, lock
        self._coming: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def told(self) -> list[dict[str, Any]]:
        """All that is served, the base first."""
        with self._lock:
            return [served.told() for served in self._names.values()]

    def use(self, name: str) -> Served:
        """What a new request asks for; it stays until ``unuse``. Raises UnknownName."""
        with self._lock:
            served = self._names.get(name)
            if served is None:
                raise UnknownName("model", name, self._names)
            served.users += 1
            return served

    def unuse(self, served: Served) -> None:
        """A request has ended."""
        with self._lock:
            served.users -= 1

    def expect(self, name: str, sha256: str) -> bool:
        """Whether an adapter is to be loaded under a name, to which ``add`` or ``drop`` is to follow; False: it is there.

        Raises Conflict when the name is another's, or nothing more can be held.
        """
        with self._lock:
            there = self._names.get(name)
            if there is not None and there.sha256 == sha256:
                return False
            if there is not None or name in self._coming:
                raise Conflict(f"{name!r} is served already, and what a name stands for does not change; take a new name")
            held = len(self._names) - 1 + len(self._coming)
            if held >= self._most:
                raise Conflict(
                    f"{held} adapters are held, the most that this engine was started for (max_loras); unload one first"
                )
            self._coming.add(name)
            return True

    def add(self, name: str, path: str, sha256: str, slot: int) -> None:
        """An adapter that was expected is there."""
        with self._lock:
            self._coming.discard(name)
            self._names[name] = Served(name=name, path=path, sha256=sha256, slot=slot, parent=self._base.name)

    def drop(self, name: str) -> None:
        """An adapter that was expected does not come."""
        with self._lock:
            self._coming.discard(name)

    def remove(self, name: str) -> int:
        """Serve an adapter no more; the slot that it leaves. Raises UnknownName, and Conflict while requests use it."""
        with self._lock:
            served = self._names.get(name)
            if served is None:
                raise UnknownName("adapter", name, [other for other, each in self._names.items() if each.slot is not None])
            if served.slot is None:
                raise Conflict(f"{name!r} is the base, which stays as long as the engine")
            if served.users:
                count = f"{served.users} requests use" if served.users > 1 else "1 request uses"
                raise Conflict(f"{count} {name!r}; unload it when none does")
            del self._names[name]
            return served.slot

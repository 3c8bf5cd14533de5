"""What an engine serves: its base and the adapters on it, by name. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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

"""The batching engine: many prompts at once through one model, without HTTP.

``Core`` brings torch, and is imported when it is asked for; ``request`` is light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.inference.core.engine import Core as Core
    from workers.inference.core.ticket import Ticket as Ticket


def __getattr__(name: str) -> Any:
    if name == "Core":
        from workers.inference.core.engine import Core

        return Core
    if name == "Ticket":
        from workers.inference.core.ticket import Ticket

        return Ticket
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

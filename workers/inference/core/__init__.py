"""The batching engine: many prompts at once through one model, without HTTP."""

from __future__ import annotations

from workers.inference.core.engine import Core
from workers.inference.core.ticket import Ticket

__all__ = ["Core", "Ticket"]

"""A step that does nothing: what the core itself costs is measured with it."""

from __future__ import annotations

from typing import Any

from workers.runner import StepContext


def run(context: StepContext) -> dict[str, Any]:
    """Nothing, successfully."""
    return {}

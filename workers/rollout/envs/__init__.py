"""The environments there are, found by name: those of this package and those that other packages register.

Another package adds one with an entry point in the group ``synthq.environments`` whose value is a class (or a function) that
takes the keys of ``env_config`` as keyword arguments and gives an ``Environment``.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from app.errors import UnknownEnvironment
from workers.rollout.envs.base import Environment

GROUP = "synthq.environments"

BUILT_IN = {"crafter": "workers.rollout.envs.crafter:Crafter"}


@lru_cache(maxsize=1)
def registered() -> dict[str, str]:
    """Every environment's name and where its class is (``module:attribute``)."""
    return {point.name: point.value for point in entry_points(group=GROUP)} | BUILT_IN


def make(name: str, config: dict[str, Any] | None = None) -> Environment:
    """Build an environment by name. Raises UnknownEnvironment with the names there are."""
    known = registered()
    if name not in known:
        raise UnknownEnvironment(name, known)
    module, _, attribute = known[name].partition(":")
    environment: Environment = getattr(import_module(module), attribute)(**(config or {}))
    return environment

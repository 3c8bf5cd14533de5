"""The engines there are, found by name."""

from __future__ import annotations

from typing import Final

from app.errors import UnknownName
from workers.inference.engines.base import Engine, Options
from workers.inference.engines.transformers import Transformers
from workers.inference.engines.vllm import Vllm

__all__ = ["ENGINES", "Engine", "Options", "make"]

ENGINES: Final[dict[str, type[Engine]]] = {Transformers.name: Transformers, Vllm.name: Vllm}


def make(name: str) -> Engine:
    """An engine by name. Raises UnknownName with the names there are."""
    if name not in ENGINES:
        raise UnknownName("engine", name, ENGINES)
    return ENGINES[name]()

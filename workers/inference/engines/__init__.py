"""The engines there are, found by name: those of this package and those that other packages register.

Another package adds one with an entry point in the group ``synthq.engines`` whose value is a class (or a function) that takes
nothing and gives an ``Engine``.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from app.errors import UnknownName
from workers.inference.engines.base import Engine, Options

__all__ = ["ENGINES", "GROUP", "Engine", "Options", "known", "make"]

GROUP = "synthq.engines"
ENGINES = {
    "transformers": "workers.inference.engines.transformers:Transformers",
    "vllm": "workers.inference.engines.vllm:Vllm",
}
"""Where each built-in engine's class is (``module:attribute``)."""


@lru_cache(maxsize=1)
def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def known() -> tuple[str, ...]:
    """Every name that ``make`` takes."""
    return tuple(sorted({*ENGINES, *_registered()}))


def make(name: str) -> Engine:
    """An engine by name. Raises UnknownName with the names there are."""
    if name in ENGINES:
        module, _, attribute = ENGINES[name].partition(":")
        built_in: Engine = getattr(import_module(module), attribute)()
        return built_in
    if name in _registered():
        other: Engine = _registered()[name].load()()
        return other
    raise UnknownName("engine", name, known())

"""A resolved spec as TOML that loads as the same spec, with where each value came from when that is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from app.specs.base import Path, Spec, dotted, quoted
from app.specs.out import resolved
from app.specs.seeds import format_seeds


def to_toml(spec: Spec, origin: Callable[[Path], str] | None = None) -> str:
    """The whole spec as TOML. ``origin`` gives the comment that stands behind a value."""
    return "\n".join(_table(resolved(spec), (), origin)).strip() + "\n"


def leaves(values: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value of a resolved spec that is no table, with its path."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _table(values: dict[str, Any], path: Path, origin: Callable[[Path], str] | None) -> Iterator[str]:
    for key, value in values.items():
        if not isinstance(value, dict) or not value:
            name = dotted((key,))
            said = f"# {name}: no value" if value is None else f"{name} = {_seeds(key, value) or _value(value)}"
            yield f"{said}  # {origin((*path, key))}" if origin is not None else said
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield ""
            yield f"[{dotted((*path, key))}]"
            yield from _table(value, (*path, key), origin)


def _seeds(key: str, value: Any) -> str | None:
    numbers = isinstance(value, list) and bool(value) and all(type(seed) is int and seed >= 0 for seed in value)
    return f'"{format_seeds(value)}"' if key == "seeds" and numbers else None


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dotted((k,))} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value if item is not None) + "]"
    if isinstance(value, str):
        return quoted(value.replace("${", "$${"))
    return json.dumps(value)

"""Whether a base that is served one way will do for a job that asks for it another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import col

from app.engines import AUTO
from app.models import Endpoint, ModelUse

LEAST: Final = (("max_model_len",), ("max_lora_rank",), ("max_loras",), ("limit_mm_per_prompt", "image"))
"""Keys of the spec's ``[vllm]`` of which more will do; what leaves one out asks for nothing."""
DTYPE: Final = "dtype"
MOST_LORAS: Final = 4
"""Adapters beside a base, where its options do not say."""


def covers(has: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether an engine with the options ``has`` takes all that a job may send that asks for ``asked``."""
    if asked.get(DTYPE, AUTO) not in (AUTO, has.get(DTYPE, asked.get(DTYPE))):
        return False
    pairs = [(_at(has, path), _at(asked, path)) for path in LEAST]
    return all(there is None or least is None or there >= least for there, least in pairs)


def differing(has: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The keys that were asked for otherwise, but for those of which enough is there."""
    graded = {path[0] for path in LEAST} | {DTYPE}
    return [key for key in asked if key not in graded and has.get(key) != asked[key]]


def short_of(has: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """What is asked for and not there, as text."""
    keys = [".".join(path) for path in LEAST if (_at(has, path) or 0) < (_at(asked, path) or 0)]
    found = [f"{key} = {_at(asked, key.split('.'))}, not {_at(has, key.split('.'))}" for key in keys]
    if asked.get(DTYPE, AUTO) not in (AUTO, has.get(DTYPE)):
        found.append(f"{DTYPE} = {asked[DTYPE]}, not {has.get(DTYPE)}")
    return "; ".join(found)


def loras(options: Mapping[str, Any]) -> int:
    """How many adapters an engine with these options holds."""
    return int(options.get("max_loras", MOST_LORAS))


def covered() -> ColumnElement[bool]:
    """``covers`` for the endpoint and the use of the surrounding query."""
    has, asked = col(Endpoint.desired), col(ModelUse.options)
    enough = [(has[("options", *path)].as_integer(), asked[path].as_integer()) for path in LEAST]
    there, wanted = has[("options", DTYPE)].as_string(), asked[(DTYPE,)].as_string()
    same = or_(wanted.is_(None), wanted == AUTO, there.is_(None), there == wanted)
    return and_(same, *(or_(more.is_(None), least.is_(None), more >= least) for more, least in enough))


def _at(options: Any, path: Any) -> Any:
    for key in path:
        options = options.get(key) if isinstance(options, Mapping) else None
    return options

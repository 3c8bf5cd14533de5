"""What the columns of a row hold, each read as what it is to be: what is not becomes a problem, and nothing breaks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from sqlalchemy import JSON, Boolean, Float, Integer, LargeBinary
from sqlmodel import SQLModel

from app.errors import cut
from app.fsck.findings import Check
from app.transfer.tables import Row

_STRICT: Final = ConfigDict(strict=True)
_COUNTS: Final = TypeAdapter(dict[str, int], config=_STRICT)
_NUMBERS: Final = TypeAdapter(dict[str, float], config=_STRICT)
_POINTS: Final = TypeAdapter(dict[str, float | None], config=_STRICT)
_NAMES: Final = TypeAdapter(list[str], config=_STRICT)
_TABLE: Final = TypeAdapter(dict[str, Any], config=_STRICT)
_LIST: Final = TypeAdapter(list[Any], config=_STRICT)
SHAPES: Final[Mapping[str, Mapping[str, TypeAdapter[Any]]]] = MappingProxyType(
    {
        "job": {"spec": _TABLE, "summary": _TABLE, "labels": _TABLE, "after": _LIST},
        "step": {"payload": _TABLE, "result": _TABLE},
        "metric": {"values": _POINTS},
        "episode": {"returns": _NUMBERS, "achievements": _COUNTS, "outcomes": _COUNTS, "scores": _NUMBERS, "timings": _NUMBERS},
        "turn": {
            "messages": _LIST,
            "reply": _TABLE,
            "actions": _NAMES,
            "dropped": _NAMES,
            "rewards": _NUMBERS,
            "unlocked": _NAMES,
            "timings": _NUMBERS,
            "prompt_ids": _LIST,
            "output_ids": _LIST,
            "logprobs": _LIST,
        },
    }
)
"""What the columns of JSON hold, by table."""
_SAID: Final = {int: "whole number", float: "number", bool: "truth value", bytes: "bytes", str: "text"}


def opened(check: Check, table: str, row: Row, *, subject: str, name: str) -> Row:
    """The row with its JSON read; a column that holds something else than it is to hold is told of, and left out."""
    held: Row = {}
    for column, value in row.items():
        try:
            held[column] = _read(table, column, value)
        except ValueError as why:
            check.problem(subject, f"{name} has in its column {column} what cannot be read: {why}")
    return held


def _read(table: str, column: str, value: Any) -> Any:
    """Raises ValueError."""
    kind, nullable = _column(table, column)
    if value is None:
        if nullable:
            return None
        raise ValueError("nothing at all")
    if kind is not JSON:
        fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
        if not fits:
            raise ValueError(f"{cut(repr(value))} is no {_SAID[kind]}")
        return value
    if not isinstance(value, str):
        raise ValueError(f"{cut(repr(value))} is no JSON text")
    try:
        return SHAPES[table][column].validate_python(json.loads(value))
    except ValidationError as error:
        raise ValueError(f"{cut(value)} is JSON of another form ({error.errors()[0]['msg'].lower()})") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{cut(value)} is no JSON") from None


@lru_cache(maxsize=256)
def _column(table: str, column: str) -> tuple[type, bool]:
    """The kind of value in a column, and whether there may be none."""
    found = SQLModel.metadata.tables[table].columns[column]
    kinds: tuple[tuple[type, type], ...] = ((JSON, JSON), (Boolean, bool), (Integer, int), (Float, float), (LargeBinary, bytes))
    return next((kind for of, kind in kinds if isinstance(found.type, of)), str), bool(found.nullable)

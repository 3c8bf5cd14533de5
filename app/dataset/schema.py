"""Does a value fit a tool's JSON schema? The part of JSON Schema that tools use; what is beyond it is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from app.dataset.source import kind, shown
from app.errors import did_you_mean

Misfit = tuple[str, str]
"""Where, as a path that continues the value's own, and a sentence."""

TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "integer": lambda v: _number(v) and v == v // 1,
    "number": lambda v: _number(v),
}
_FORMS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "type": (
        lambda v: all(isinstance(t, str) and t in TYPES for t in (v if isinstance(v, list) else [v])),
        f"among {', '.join(TYPES)}",
    ),
    "enum": (lambda v: isinstance(v, list) and bool(v), "a list of the values that are allowed"),
    "properties": (lambda v: isinstance(v, dict), "an object of schemas"),
    "required": (lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v), "a list of keys"),
    "anyOf": (lambda v: isinstance(v, list) and bool(v), "a list of schemas"),
    **{
        key: (lambda v: _number(v) and v >= 0, "a number, 0 or more")
        for key in ("minItems", "maxItems", "minLength", "maxLength")
    },
    "minimum": (lambda v: _number(v), "a number"),
    "maximum": (lambda v: _number(v), "a number"),
}
"""The form that a keyword's own value must have."""
CHECKED: Final = frozenset(
    {"type", "enum", "const", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "anyOf"}
    | {"minLength", "maxLength", "minimum", "maximum"}
)
SAYS_NOTHING: Final = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated"})
"""Keywords that allow every value."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def unchecked(schema: Any) -> Iterator[str]:
    """The keywords of a schema without faults that ``misfits`` does not look at."""
    if not isinstance(schema, Mapping):
        return
    yield from (key for key in schema if key not in CHECKED and key not in SAYS_NOTHING)
    inner = (*schema.get("properties", {}).values(), *schema.get("anyOf", ()))
    for each in (*inner, schema.get("items"), schema.get("additionalProperties")):
        yield from unchecked(each)


def faults(schema: Any, where: str) -> Iterator[Misfit]:
    """What keeps a schema from being one; ``misfits`` takes only one without faults."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield where, f"is {kind(schema)}; a schema is an object"
        return
    for key, (fits, wanted) in _FORMS.items():
        if key in schema and not fits(schema[key]):
            yield f"{where}.{key}", f"is {shown(schema[key])}; it must be {wanted}"
            return
    for name, inner in schema.get("properties", {}).items():
        yield from faults(inner, f"{where}.properties.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from faults(schema[key], f"{where}.{key}")
    for i, inner in enumerate(schema.get("anyOf", ())):
        yield from faults(inner, f"{where}.anyOf[{i}]")


def misfits(value: Any, schema: Any, where: str) -> Iterator[Misfit]:
    """Everything about a value that its schema does not allow."""
    if schema is False:
        yield where, f"is {shown(value)}, and the tool's schema allows nothing here"
    if not isinstance(schema, Mapping):
        return
    wanted = schema.get("type")
    types = [wanted] if isinstance(wanted, str) else wanted or []
    if types and not any(TYPES[each](value) for each in types):
        yield where, f"is {kind(value)} ({shown(value)}); the tool's schema wants {' or '.join(types)}"
        return
    if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
        yield where, _not_listed(value, schema["enum"])
    if "const" in schema and not _same(value, schema["const"]):
        yield where, f"is {shown(value)}; the tool's schema wants {shown(schema['const'])}"
    if schema.get("anyOf") and all(any(misfits(value, each, where)) for each in schema["anyOf"]):
        yield where, f"is {shown(value)}, which fits none of the {len(schema['anyOf'])} schemas of anyOf"
    if isinstance(value, dict):
        yield from _object(value, schema, where)
    elif isinstance(value, list):
        yield from _list(value, schema, where)
    elif isinstance(value, str):
        yield from _bounds(len(value), schema, where, "minLength", "maxLength", "{} characters long")
    elif _number(value):
        yield from _bounds(value, schema, where, "minimum", "maximum", "{}")


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _not_listed(value: Any, allowed: list[Any]) -> str:
    near = did_you_mean(value, [each for each in allowed if isinstance(each, str)]) if isinstance(value, str) else ""
    return f"is {shown(value)}, which is none of the {len(allowed)} values that the tool's schema lists{near}"


def _object(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> Iterator[Misfit]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield where, f"lacks the key {name!r}, which the tool's schema requires"
    for name, item in value.items():
        if name in known:
            yield from misfits(item, known[name], f"{where}.{name}")
        elif schema.get("additionalProperties") is False:  # rather than "nothing is allowed here"
            yield where, f"has the key {name[:60]!r}, which the tool's schema does not have{did_you_mean(name[:60], known)}"
        else:
            yield from misfits(item, schema.get("additionalProperties"), f"{where}.{name}")


def _list(value: list[Any], schema: Mapping[str, Any], where: str) -> Iterator[Misfit]:
    yield from _bounds(len(value), schema, where, "minItems", "maxItems", "a list of {}")
    for i, item in enumerate(value):
        yield from misfits(item, schema.get("items"), f"{where}[{i}]")


def _bounds(size: float, schema: Mapping[str, Any], where: str, least: str, most: str, told: str) -> Iterator[Misfit]:
    if _number(schema.get(least)) and size < schema[least]:
        yield where, f"is {told.format(size)}; the tool's schema wants at least {schema[least]}"
    if _number(schema.get(most)) and size > schema[most]:
        yield where, f"is {told.format(size)}; the tool's schema wants at most {schema[most]}"

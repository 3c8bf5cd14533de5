"""JSON Schema of a kind's files, for editors. It takes what ``load`` takes, other spellings too (marked deprecated)."""

from __future__ import annotations

from typing import Any

from app.specs.base import Compat, Spec
from app.specs.draft import split
from app.specs.kinds import spec_class

Node = dict[str, Any]


def schema(kind: str) -> Node:
    """JSON Schema (draft 2020-12) of a kind. Raises UnknownKind."""
    spec = spec_class(kind)
    whole = plain_schema(spec)
    for compat in spec.compats:
        _add(whole, compat)
    return whole


def plain_schema(spec: type[Spec]) -> Node:
    """JSON Schema of a Spec class without other spellings."""
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **spec.model_json_schema(mode="validation")}
    spec.finish_schema(whole)
    return whole


def _add(whole: Node, compat: Compat) -> None:
    for key, spellings in compat.values.items():
        node = property_at(whole, key)
        if "const" in node:
            node["enum"] = [node.pop("const")]
        if "enum" in node:
            node["enum"] = [*node["enum"], *spellings]
    for key, (allowed, holds) in compat.settled.items():
        if key not in compat.aliases and {} not in allowed:
            _put(whole, key, {"enum": list(allowed), "description": f"Changes nothing: {holds}."})
    for old, new in compat.aliases.items():
        kept = {k: v for k, v in property_at(whole, new).items() if k not in ("title", "default", "description")}
        _put(whole, old, {**kept, "description": f"Another spelling of {new}."})


def _put(whole: Node, key: str, node: Node) -> None:
    *parents, last = split(key)
    table = whole
    for part in parents:
        empty: Node = {"type": "object", "properties": {}, "additionalProperties": False}
        table = _table(whole, table["properties"].setdefault(part, empty))
    table["properties"].setdefault(last, {**node, "deprecated": True})


def property_at(whole: Node, key: str) -> Node:
    """The node of a dotted key."""
    *parents, last = split(key)
    table = whole
    for part in parents:
        table = _table(whole, table["properties"][part])
    found: Node = table["properties"][last]
    return found


def _table(whole: Node, node: Node) -> Node:
    """The object that a node is, or refers to, alone or among others."""
    for one in (node, *node.get("anyOf", ()), *node.get("allOf", ())):
        if "$ref" in one:
            found: Node = whole["$defs"][one["$ref"].rpartition("/")[2]]
            return found
    return node

"""The reference page of every key, written from the models: ``python -m app.specs.reference > docs/specs.md``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from app.specs.base import Spec
from app.specs.kinds import KINDS
from app.specs.schema import Node, plain_schema

_INTRO = """\
# Specs: every key

Written from the models by `python -m app.specs.reference`; change the models, not this page.

A spec is one TOML file for one job. Its kind is known from its table, `[eval]`, `[filter]` or `[sft]`, for rl
from `[rollout]`; a line such as `kind = "eval"` may say it too.

- An unknown key, a value of another type and a combination that cannot be right are refused, all at once, each with the
  file, the line, the key and the nearest known name. `"10"` is not a number here, and `1` is not `true`.
- `--set KEY=VALUE` puts one value on top of the file: `--set eval.seeds=0-4`, `--set eval.policies.0=random`. The value is
  read as TOML, and as text when it is none.
- `${NAME}` in a text becomes the value of that environment variable, `${NAME:-text}` the text when it is not set, and
  `$${` a plain `${`. A variable that is not set is refused, and so is one whose name looks like a secret: a spec is stored
  with its job. A key that is taken and asks nobody, such as `services.task_url`, keeps its text.
- The resolved spec has every default written out; it is stored with the job, and its sha256 (without `name`) says whether
  two jobs asked for the same. A retry uses the stored one, not the file.
- A file has at most 1,000,000 bytes.

`synthq config check FILE` tells what is wrong, `synthq config show FILE --origin` what a file comes to and where each value
is from, `synthq config schema KIND` gives JSON Schema for an editor.
"""


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield _INTRO
    yield "## Every kind"
    yield ""
    first = plain_schema(next(iter(KINDS.values())))
    shared = {key: node for key, node in first["properties"].items() if key in Spec.model_fields and key != "kind"}
    yield from _rows(first, {**first, "properties": shared})
    for kind, spec in KINDS.items():
        whole = plain_schema(spec)
        yield f"## {kind}"
        yield ""
        yield spec.__doc__ or ""
        yield ""
        own = {key: node for key, node in whole["properties"].items() if key not in Spec.model_fields}
        tables = [key for key, node in own.items() if _target(whole, node).get("properties")]
        for table in sorted(tables, key=lambda key: key != kind):
            yield from _tables(whole, own[table], table)
        if plain := {key: node for key, node in own.items() if key not in tables}:
            yield f"### beside the tables of {kind}"
            yield ""
            yield from _rows(whole, {**whole, "properties": plain})
        yield from _compat(spec)


def _tables(whole: Node, node: Node, path: str) -> Iterator[str]:
    table = _target(whole, node)
    yield f"### [{path}]"
    yield ""
    yield from _rows(whole, table)
    for key, inner in table["properties"].items():
        if _target(whole, inner).get("properties"):
            yield from _tables(whole, inner, f"{path}.{key}")


def _rows(whole: Node, table: Node) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, node in table["properties"].items():
        inner = _target(whole, node)
        value = "table" if inner.get("properties") else _says(whole, node)
        default = "needed" if key in table.get("required", ()) else _default(node, inner)
        meaning = node.get("description", inner.get("description", ""))
        yield f"| `{key}` | {_cell(value)} | {_cell(default)} | {_cell(meaning)} |"
    yield ""


def _default(node: Node, inner: Node) -> str:
    if inner.get("properties"):
        return "its own"
    if node.get("type") == "object":
        return "`{}`"
    return "no value" if node.get("default") is None else f"`{json.dumps(node['default'])}`"


def _compat(spec: type[Spec]) -> Iterator[str]:
    aliases = {old: new for compat in spec.compats for old, new in compat.aliases.items()}
    values = {key: names for compat in spec.compats for key, names in compat.values.items()}
    settled = {key: said for compat in spec.compats for key, said in compat.settled.items()}
    refused = {key: reason for compat in spec.compats for key, reason in compat.refused.items()}
    yield "Other spellings, from files of the project that synthq follows:"
    yield ""
    yield from (f"- `{old}` is `{new}`." for old, new in aliases.items())
    for key, names in values.items():
        yield from (f'- `{key} = "{name}"` is `"{value}"`.' for name, value in names.items())
    yield ""
    if settled:
        yield "Keys that change nothing, and the values that they may have:"
        yield ""
        for key, (allowed, holds) in settled.items():
            yield f"- `{key}`: {', '.join(f'`{json.dumps(value)}`' for value in allowed)}; {holds}."
        yield ""
    yield "Keys that are known and refused:"
    yield ""
    yield from (f"- `{key}`: {reason}." for key, reason in refused.items())
    yield ""


def _target(whole: Node, node: Node) -> Node:
    """The table that a node refers to, or the node."""
    for one in (node, *node.get("anyOf", ())):
        if "$ref" in one:
            found: Node = whole["$defs"][one["$ref"].rpartition("/")[2]]
            return found
    return node


def _says(whole: Node, node: Node) -> str:
    """What a value may be, in a few words."""
    if "anyOf" in node:
        parts = [_says(whole, one) for one in node["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(parts))
    if "const" in node:
        return f"`{json.dumps(node['const'])}`"
    if "enum" in node:
        return ", ".join(f"`{json.dumps(value)}`" for value in node["enum"])
    if node.get("type") == "array":
        return _list(whole, node)
    if node.get("type") == "object":
        inner = node.get("additionalProperties")
        return f"table of {_says(whole, inner)}" if isinstance(inner, dict) else "table"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return names[node["type"]] + _bounds(node)


def _list(whole: Node, node: Node) -> str:
    if "prefixItems" in node:
        items = node["prefixItems"]
        if all("const" in item for item in items):
            return f"`{json.dumps([item['const'] for item in items])}`"
        return f"list of {len(items)}: {', '.join(dict.fromkeys(_says(whole, item) for item in items))} each"
    return f"list of {_says(whole, node['items'])}"


def _bounds(node: dict[str, Any]) -> str:
    if "pattern" in node:
        return f" like `{node['pattern']}`"
    low = node.get("minimum", node.get("exclusiveMinimum"))
    high = node.get("maximum", node.get("exclusiveMaximum"))
    above = "above " if "exclusiveMinimum" in node else ""
    if low is not None and high is not None:
        return f", {above}{low:,} to {high:,}" if abs(high) < 2**31 - 1 else f", {low} or more"
    return f", {above}{low:,}{'' if above else ' or more'}" if low is not None else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.stdout.write(page())

"""From pydantic's errors to sentences: what was wrong, with the value, and what would be right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.specs.base import PATTERNS, Clashes, Path, Spec, dotted
from app.specs.draft import Draft, shown
from app.specs.tree import fields, meant, table_at

MOST = 100
"""Problems that are told; a file with more is no spec."""


def note(error: ValidationError, spec: type[Spec], draft: Draft) -> None:
    """Put every error into the draft's problems."""
    errors = error.errors(include_url=False)
    for one in errors[:MOST]:
        path: Path = tuple(part for part in one["loc"] if part != "[key]")
        if path in draft.faulty:
            continue  # it has been told already, and what is left of the value means nothing
        raised = one.get("ctx", {}).get("error")
        if isinstance(raised, Clashes):
            for clash in raised.found:
                draft.problem((*path, *clash.path), clash.message)
        else:
            draft.problem(path, _sentence(one, path, spec))
    if len(errors) > MOST:
        draft.problem((), f"and {len(errors) - MOST:,} problems more")


def _sentence(error: ErrorDetails, path: Path, spec: type[Spec]) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(path, spec)
    if kind == "missing":
        return _missing(path, spec)
    if kind == "value_error":
        return str(context["error"])
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind](context)}, not {shown(value)}"
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {shown(value)}{_way_out(kind, value)}"
    if kind == "literal_error":
        return f"must be {_choices(context['expected'])}, not {shown(value)}"
    if kind == "string_pattern_mismatch":
        return f"must be {PATTERNS[context['pattern']]}, not {shown(value)}"
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}, not {shown(value)}"


def _unknown(path: Path, spec: type[Spec]) -> str:
    table = table_at(spec, path[:-1])
    here = f"[{dotted(path[:-1])}]" if path[:-1] else "the top table"
    near = meant(spec, path)
    if near is not None and near[:-1] == path[:-1]:
        return f"no such key; did you mean {str(near[-1])!r}?"
    if near is not None:
        return f"no such key in {here}; did you mean {dotted(near)!r}?"
    known = f" (known there: {', '.join(table.model_fields)})" if table is not None else ""
    return f"no such key in {here}{known}"


def _missing(path: Path, spec: type[Spec]) -> str:
    field = next((field for known, field in fields(spec) if known == path), None)
    if field is None:
        return "is needed and not given"
    if table_at(spec, path) is not None:
        return f"the table [{dotted(path)}] is needed and not given"
    example = f", such as {shown(field.examples[0])}" if field.examples else ""
    return f"is needed and not given{example}"


_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "finite_number": "a finite number",
}


def _way_out(kind: str, value: Any) -> str:
    """How to write what was probably meant."""
    if kind in ("int_type", "float_type") and isinstance(value, str) and value.strip().lstrip("+-").replace(".", "", 1).isdigit():
        return f"; write {value.strip()} without quotes"
    if kind == "bool_type" and isinstance(value, str) and value.lower() in ("true", "false"):
        return f"; write {value.lower()} without quotes"
    if kind == "string_type" and isinstance(value, int | float):
        return f'; write "{shown(value)}" with quotes'
    return ""


_BOUNDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda c: f"{_number(c['ge'])} or more",
    "greater_than": lambda c: f"more than {_number(c['gt'])}",
    "less_than_equal": lambda c: f"{_number(c['le'])} or less",
    "less_than": lambda c: f"less than {_number(c['lt'])}",
    "string_too_short": lambda c: "text that is not empty",
    "string_too_long": lambda c: f"text of {c['max_length']} characters or less",
    "too_short": lambda c: f"a list of {c['min_length']} or more",
    "too_long": lambda c: f"a list of {c['max_length']} or less",
}


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _choices(expected: str) -> str:
    """pydantic's "'a', 'b' or 'c'" in TOML's spelling."""
    return expected.replace("'", '"')

"""Flags of `submit` as overrides of a spec: each becomes one `key=value` in TOML, and keeps its own name in sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from app import strict_json
from app.errors import BadFlag, Problem, SpecProblems

EXAMPLE = '{"use_vision": true}'


def parse_object(text: str, flag: str) -> dict[str, Any]:
    """The JSON object in a flag. Raises BadFlag with the place of the mistake."""
    try:
        value = strict_json.read(text)
    except json.JSONDecodeError as error:
        raise BadFlag(f"{flag} is not JSON: {_mistake(error, text)}; it takes an object such as '{EXAMPLE}'") from None
    except strict_json.NotStrict as error:
        raise BadFlag(f"{flag} {error}") from None
    except ValueError:
        raise BadFlag(f"{flag} cannot be read: a number in it has too many digits") from None
    if not isinstance(value, dict):
        raise BadFlag(f"{flag} {text[:60]} is not an object; it takes one such as '{EXAMPLE}'")
    return value


def _mistake(error: json.JSONDecodeError, text: str) -> str:
    """``expecting value at character 16, near 'True}'``."""
    where = f"character {error.pos + 1}" if error.lineno == 1 else f"line {error.lineno}, character {error.colno}"
    near = text[error.pos : error.pos + 20]
    return f"{error.msg[:1].lower()}{error.msg[1:]} at {where}, " + (f"near {near!r}" if near else "where the text ends")


def toml(value: Any, flag: str) -> str:
    """A value of JSON in TOML's spelling. Raises BadFlag for null, which TOML does not have."""
    if value is None:
        raise BadFlag(f"{flag} gives null, which a spec cannot hold; leave the key out")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(item, flag) for item in value)}]"
    return "{" + ", ".join(f"{toml(key, flag)} = {toml(item, flag)}" for key, item in value.items()) + "}"


def quoted(key: str, flag: str) -> str:
    """A key as one part of a dotted path."""
    if key and all(c.isascii() and (c.isalnum() or c in "_-") for c in key):
        return key
    if '"' in key or not key.isprintable():
        raise BadFlag(f"{flag} has a key that no spec has: {key[:60]!r}")
    return f'"{key}"'


class Overrides:
    """What flags say about a spec."""

    def __init__(self) -> None:
        self._given: list[tuple[str, str, str]] = []
        """Flag, dotted key, text of the value."""

    def add(self, flag: str, key: str, value: Any) -> None:
        """One value, unless it is None or an empty tuple: such a flag was not given."""
        if value is not None and value != ():
            self._given.append((flag, key, toml(value, flag)))

    def add_object(self, flag: str, key: str, text: str | None) -> None:
        """A JSON object: each of its keys goes on top of the table ``key``, the others stay as they are."""
        for name, value in parse_object(text, flag).items() if text is not None else ():
            self._given.append((flag, f"{key}.{quoted(name, flag)}", toml(value, f"{flag} {name}")))

    def texts(self, more: Sequence[str] = ()) -> list[str]:
        """The overrides for ``app.specs``, those of ``--set`` last."""
        return [f"{key}={value}" for _, key, value in self._given] + list(more)

    def named(self, problems: SpecProblems, more: Sequence[str] = ()) -> SpecProblems:
        """The problems with each flag under its own name, where ``app.specs`` knows only --set."""
        own = {key: flag for flag, key, _ in self._given}
        for text in more:
            own.pop(text.partition("=")[0].strip(), None)
        return SpecProblems(_named(problem, own) for problem in problems.problems)


def _named(problem: Problem, own: Mapping[str, str]) -> Problem:
    flag = next((own[key] for key in _around(problem.key) if key in own), None)
    return replace(problem, message=problem.message.replace("(from --set)", f"(from {flag})")) if flag else problem


def _around(key: str) -> Iterator[str]:
    """A dotted key, then each table around it."""
    while key:
        yield key
        key = key.rpartition(".")[0]

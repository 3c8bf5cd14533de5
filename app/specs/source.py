"""From a file or a mapping to plain tables: what can be read, how large it may be, and what could never be stored."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path as FilePath
from typing import Any

from app.errors import Problem, SpecProblems
from app.specs.base import Path, dotted

MAX_BYTES = 1_000_000
MAX_DEPTH = 16
MAX_VALUES = 250_000
MAX_TEXT = 100_000
MAX_KEY = 200

_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}\.[ \t]*+){{100}}")
"""``tomllib`` needs memory with the square of a key's parts."""


DATED = re.compile(r"(?:min|max)_created_at")
"""Keys whose value may be a date of TOML; the resolved spec holds seconds."""

_REPEATED = re.compile(r"Cannot declare \('(.*?)',?\) twice")


def read_text(path: FilePath) -> str:
    """The text of a spec file. Raises SpecProblems when there is none to be had."""
    try:
        if path.is_dir():
            raise _unreadable(path, "is a folder; name a TOML file in it")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise _unreadable(path, f"is larger than {MAX_BYTES:,} bytes, the most that a spec may have")
    return _decode(path, data)


def _decode(path: FilePath, data: bytes) -> str:
    if b"\0" in data:
        raise _unreadable(path, "is not text: it has a NUL byte; a spec is TOML in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, f"is not UTF-8 (byte 0x{data[error.start]:02x})", line) from None
    if not text.strip():
        raise _unreadable(path, "is empty; a spec has at least a table such as [eval] with seeds")
    return text


def _unreadable(path: FilePath, message: str, line: int | None = None) -> SpecProblems:
    return SpecProblems([Problem(key="", message=message, file=str(path), line=line)])


def parse_toml(text: str, file: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises SpecProblems with the line of a mistake in the syntax."""
    if long_key := _LONG_KEY.search(text):
        where = text.count("\n", 0, long_key.start()) + 1
        raise SpecProblems([Problem(key="", message="has a key of more than 100 parts", file=file, line=where)])
    line: int | None = None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = _syntax(str(error), text)
    except RecursionError:
        message = "is nested too deep to be read"
    except ValueError:  # Python's own limit
        message = "has a whole number of more than 64 bits"
    raise SpecProblems([Problem(key="", message=message, file=file, line=line)])


def _syntax(message: str, text: str) -> tuple[str, int | None]:
    message = _REPEATED.sub(r"the table [\1] is there twice", message).replace(
        "Cannot overwrite a value", "this key, or the table around it, is there already; each may come once"
    )
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if match is None:
        return f"not valid TOML: {_lower(message)}", None
    if match[2]:
        return f"not valid TOML: {_lower(match[1])} (column {match[3]})", int(match[2])
    return f"not valid TOML: {_lower(match[1])} (at the end of the file)", text.rstrip("\n").count("\n") + 1


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def storable(tables: dict[Any, Any]) -> Iterator[tuple[Path, str]]:
    """Where and why a tree of values could not be kept as JSON in the store, whatever the fields say of it."""
    waiting: list[tuple[Path, Any]] = [((), tables)]
    seen = 0
    while waiting:
        path, value = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            yield (), f"the spec has more than {MAX_VALUES:,} values"
            return
        if why := _fault(path, value):
            yield path, why
        elif isinstance(value, dict):
            waiting += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [((*path, i), item) for i, item in enumerate(value)]


def _fault(path: Path, value: Any) -> str | None:
    """Why one value cannot be kept, not looking at what is inside it."""
    if isinstance(value, dict | list | tuple):
        bad = next((key for key in value if _bad_key(key)), None) if isinstance(value, dict) else None
        if bad is not None:
            return f"has a key that cannot be stored: {bad!r:.60}"
        return f"is nested more than {MAX_DEPTH} levels deep" if len(path) >= MAX_DEPTH else None
    if isinstance(value, str):
        return _bad_text(value)
    if isinstance(value, float):
        return None if abs(value) < float("inf") else f"must be a finite number, not {value}"
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else "is a whole number of more than 64 bits"
    if isinstance(value, date) and path and DATED.fullmatch(str(path[-1])):
        return None
    return f"must be text, a number, true or false, a list or a table, not a {type(value).__name__}"


def _bad_key(key: object) -> bool:
    return not isinstance(key, str) or len(key) > MAX_KEY or _bad_text(key) is not None


def _bad_text(text: str) -> str | None:
    if len(text) > MAX_TEXT:
        return f"is text of {len(text):,} characters; the most is {MAX_TEXT:,}"
    if "\0" in text:
        return "has a NUL character, which cannot be stored"
    if any("\ud800" <= c <= "\udfff" for c in text):
        return "has half a surrogate pair, which is no character"
    return None


def describe(path: Path) -> str:
    """A path for a problem; long ones are cut."""
    text = dotted(path)
    return text if len(text) <= 200 else f"{text[:200]}..."

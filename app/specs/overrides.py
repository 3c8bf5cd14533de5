"""``--set a.b=c``: one value of a spec from the command line."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from app.errors import Problem
from app.specs.base import Path, dotted
from app.specs.draft import Draft, shown
from app.specs.source import MAX_DEPTH

_PART = re.compile(r'\s*(?:([A-Za-z0-9_-]+)|"([^"]*)"|\'([^\']*)\')\s*')


def override(draft: Draft, flag: str) -> None:
    """Carry out one ``--set``. What is wrong with it becomes a problem of the draft."""
    key, equals, text = flag.partition("=")
    if not equals:
        return _tell(draft, f"--set {flag[:80]!r} has no '='; write --set eval.seeds=0-9")
    path = _path(key)
    if path is None:
        return _tell(draft, f"--set {flag[:80]!r} names no key of a spec; write --set eval.seeds=0-9")
    return _place(draft, path, value_of(text), flag)


def value_of(text: str) -> Any:
    """What the text means as a value of TOML, or the text itself."""
    try:
        return tomllib.loads(f"value = {text.strip()}\n")["value"] if "\n" not in text else text
    except (ValueError, RecursionError):
        return text


def _path(key: str) -> Path | None:
    """The path that a dotted key means: ``a."b.c".0``."""
    parts: list[str | int] = []
    at = 0
    while (match := _PART.match(key, at)) is not None:
        bare = match[1]
        parts.append(
            int(bare) if bare and bare.isdecimal() and len(bare) < 10 else next(g for g in match.groups() if g is not None)
        )
        at = match.end()
        if at == len(key):
            return tuple(parts) if len(parts) <= MAX_DEPTH else None
        if key[at] != ".":
            return None
        at += 1
    return None


def _place(draft: Draft, path: Path, value: Any, flag: str) -> None:
    here: Any = draft.tables
    for at, part in enumerate(path):
        last = at == len(path) - 1
        if isinstance(here, list):
            if not isinstance(part, int) or part >= len(here):
                return _refuse(draft, path[:at], part, here, flag)
            index: Any = part
        elif isinstance(here, dict):
            index = str(part)
        else:
            return _refuse(draft, path[:at], part, here, flag)
        if last:
            here[index] = value
        else:
            here = here.setdefault(index, {}) if isinstance(here, dict) else here[index]
    draft.flags[_as_in(draft, path)] = flag
    return None


def _as_in(draft: Draft, path: Path) -> Path:
    """The path with indexes where the draft has lists, and keys elsewhere."""
    found: Path = ()
    for part in path:
        found = (*found, part if isinstance(draft.get(found), list) else str(part))
    return found


def _refuse(draft: Draft, parent: Path, part: str | int, here: Any, flag: str) -> None:
    if isinstance(here, list):
        items = f"item 0 to {len(here) - 1}" if here else "no items"
        why = f"{dotted(parent)} is a list with {items}, and no {str(part)!r}"
    else:
        why = f"{dotted(parent)} is {shown(here)}, which has nothing inside it"
    _tell(draft, f"--set {flag[:80]!r}: {why}")


def _tell(draft: Draft, message: str) -> None:
    """A flag that could not be carried out has no key and no line."""
    draft.problems.append(Problem(key="", message=message))

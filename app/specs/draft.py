"""A spec on its way in: plain tables, where each value came from, and the problems found so far.

Other spellings of keys are settled here, before any field is checked, so that the fields know one name for each thing. A problem
is still told under the key that the user wrote.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from typing import Any

from app.errors import Problem, did_you_mean
from app.specs.base import Compat, Path, dotted, quoted
from app.specs.source import describe

SECRET = re.compile(r"(?:^|_)(?:API_?)?(?:KEYS?|TOKENS?|SECRETS?|PASSWORDS?|PASSWD|CREDENTIALS?)(?:_|$)", re.IGNORECASE)
"""Names that look as if they stood for a secret."""

_PASSWORD = re.compile(r"(//[^/\s:@]*):[^/\s@]*@")
"""A password in an address."""

MISSING: Any = object()
"""What ``Draft.get`` gives for a key that is not there."""


def split(key: str) -> Path:
    """The path of a dotted key of ours (no quotes, no indexes)."""
    return tuple(key.split("."))


def shown(value: Any) -> str:
    """A value as a sentence carries it: in TOML's spelling, cut when long, without the password of an address."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, str):
        value = _PASSWORD.sub(r"\1:***@", value)
        return quoted(value) if len(value) <= 80 else f'{quoted(value[:80])[:-1]}..."'
    if isinstance(value, dict):
        return f"a table with {', '.join(map(str, list(value)[:3]))}" if value else "an empty table"
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value[:9]))}{', ...' if len(value) > 9 else ''}]"
        return text if len(text) <= 80 else f"a list of {len(value)}"
    return str(value)[:80]


class Draft:
    """Tables that are being made into a spec."""

    def __init__(self, tables: Mapping[str, Any], *, file: str | None = None, lines: Mapping[Path, int] | None = None) -> None:
        self.tables: dict[str, Any] = deepcopy(dict(tables))
        self.file = file
        self.lines = lines or {}
        self.flags: dict[Path, str] = {}
        """What ``--set`` gave: path and the flag as written."""
        self.problems: list[Problem] = []
        self.faulty: set[Path] = set()
        """Where a problem has been told, by the paths that the fields know."""
        self._written: dict[Path, Path] = {}
        """A path now, and the path under which the user wrote it."""

    def get(self, path: Path) -> Any:
        """The value at a path, or MISSING."""
        here: Any = self.tables
        for part in path:
            inside = part in here if isinstance(here, dict) else isinstance(here, list) and part in range(len(here))
            if not inside:
                return MISSING
            here = here[part]
        return here

    def pop(self, path: Path) -> Any:
        """Take the value at a path out of its table; MISSING when there is none."""
        parent = self.get(path[:-1])
        return parent.pop(path[-1], MISSING) if isinstance(parent, dict) else MISSING

    def put(self, path: Path, value: Any, *, written: Path) -> None:
        """Set a value, making the tables on the way. ``written`` is where the user wrote it."""
        here = self.tables
        for part in path[:-1]:
            here = here.setdefault(part, {})  # type: ignore[arg-type]
        here[path[-1]] = value  # type: ignore[index]
        self._written[path] = written

    def written(self, path: Path) -> Path:
        """The path as the user wrote it."""
        for cut in range(len(path), 0, -1):
            if (as_written := self._written.get(path[:cut])) is not None:
                return as_written + path[cut:]
        return path

    def flag(self, path: Path) -> str | None:
        """The ``--set`` that gave the value at a written path, or None."""
        return next((self.flags[path[:cut]] for cut in range(len(path), 0, -1) if path[:cut] in self.flags), None)

    def line(self, path: Path) -> int | None:
        """The line of a written path, or of the nearest table around it."""
        return next((self.lines[path[:cut]] for cut in range(len(path), 0, -1) if path[:cut] in self.lines), None)

    def problem(self, path: Path, message: str) -> None:
        """Note a problem at a path."""
        self.faulty.add(path)
        if path and isinstance(path[-1], int) and not isinstance(self.get(path[:-1]), list | tuple):
            path = path[:-1]  # one name that stands for a list of one
        path = self.written(path)
        if self.flag(path) is not None:
            self.problems.append(Problem(key=describe(path), message=f"{message} (from --set)"))
        else:
            self.problems.append(Problem(key=describe(path), message=message, file=self.file, line=self.line(path)))

    def origin(self, path: Path) -> str:
        """Where the value at a path came from: ``--set``, ``FILE:LINE``, ``given`` (no file), or ``default``."""
        if self.get(path) is MISSING and not self._listed(path):
            return "default"
        written = self.written(path)
        if self.flag(written) is not None:
            return "--set"
        line = self.line(written)
        return f"{self.file}:{line}" if self.file and line else "given"

    def _listed(self, path: Path) -> bool:
        """Is the path an item of something that was given in another form, such as seeds = "0-9"?"""
        return isinstance(path[-1], int) and self.get(path[:-1]) is not MISSING

    def apply(self, compat: Compat, *, own: Collection[str]) -> None:
        """Settle other spellings and the keys that are not taken: rewrite, move, take out, or refuse with the reason.

        ``own``: names of the spec's own tables, which stay.
        """
        if compat.only_if is not None and self.get(split(compat.only_if[0])) not in (MISSING, compat.only_if[1]):
            return
        for key, reason in compat.refused.items():
            if (value := self.get(split(key))) is not MISSING:
                secret = SECRET.search(str(split(key)[-1]))
                self.problem(split(key), reason if secret else f"{reason} (it is {shown(value)})")
                self.pop(split(key))
        for old, new in compat.aliases.items():
            self._alias(split(old), split(new), compat.values.get(new, {}))
        self._close_foreign_tables(compat, own)
        for key, spellings in compat.values.items():
            if (value := self.get(split(key))) is not MISSING:
                self.get(split(key)[:-1])[split(key)[-1]] = _spelled(value, spellings)
        for key, (allowed, holds) in compat.settled.items():
            if (value := self.get(split(key))) is not MISSING:
                if not _among(value, allowed):
                    self.problem(split(key), f"{shown(value)} cannot be had: {holds}")
                self.pop(split(key))

    def _alias(self, old: Path, new: Path, spellings: Mapping[str, str]) -> None:
        """Move a value from another spelling of its key. Two that are given must agree, or one must be from ``--set``."""
        if (value := self.get(old)) is MISSING:
            return
        if isinstance(value, dict) and isinstance(self.get(new), dict):  # a table that is given in both: key by key
            for key in list(value):
                self._alias((*old, key), (*new, key), {})
            self.pop(old)
            return
        from_old = self.written(old)
        self.pop(old)
        present = self.get(new)
        agree = _as_list(_spelled(value, spellings)) == _as_list(_spelled(present, spellings))
        if present is MISSING or (not agree and self._overrides(from_old, self.written(new))):
            if self._roomy(new[:-1]):
                self.put(new, value, written=from_old)
        elif not agree and not self._overrides(self.written(new), from_old):
            self.problem(
                old, f"{shown(value)} is another spelling of {dotted(new)}, which is {shown(present)}; keep one of the two"
            )

    def _close_foreign_tables(self, compat: Compat, own: Collection[str]) -> None:
        """Take out the tables that only other spellings have: they are empty now, or what is left in them is no key."""
        for root in dict.fromkeys(old.partition(".")[0] for old in compat.aliases):
            table = self.get((root,))
            if root in own or not isinstance(table, dict):
                continue
            for key in table:
                self.problem((root, key), f"no such key in [{root}]{_elsewhere(root, key, compat.aliases)}")
            self.pop((root,))

    def _overrides(self, one: Path, other: Path) -> bool:
        """Is the value written at one path from ``--set``, and the other not?"""
        return self.flag(one) is not None and self.flag(other) is None

    def _roomy(self, parents: Path) -> bool:
        """Are the parents tables, or absent? If not, the fields will say what is wrong with them."""
        return all(isinstance(self.get(parents[:n]), dict) or self.get(parents[:n]) is MISSING for n in range(len(parents) + 1))


def _elsewhere(root: str, key: str, aliases: Mapping[str, str]) -> str:
    """Where a key belongs that is in the wrong table of another dialect: the tail of a sentence."""
    for known in (*aliases, *aliases.values()):
        if split(known)[-1] == key:
            return f"; did you mean {known!r}?"
    here = [str(split(old)[-1]) for old in aliases if split(old)[0] == root]
    return did_you_mean(key, here) or f" (known there: {', '.join(here)})"


def _spelled(value: Any, spellings: Mapping[str, str]) -> Any:
    return spellings.get(value, value) if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _among(value: Any, allowed: Iterable[Any]) -> bool:
    """Like ``in``, but true is not 1."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed)

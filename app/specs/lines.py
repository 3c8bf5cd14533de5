"""On which line of a TOML file does each value stand? A scanner for text that ``tomllib`` has already accepted.

``tomllib`` tells no positions. This walks the same text once and notes lines only; it reads no values and judges nothing.
"""

from __future__ import annotations

import re
import tomllib

from app.specs.base import Path

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'')
_LONG = re.compile(r'"""(?:\\.|[^\\])*?"""(?:"{0,2}(?!"))|\'\'\'.*?\'\'\'(?:\'{0,2}(?!\'))', re.DOTALL)
_PLAIN = re.compile(r"[^,\]}\n#]*")


def index(text: str) -> dict[Path, int]:
    """1-based line of every table, key and list item of valid TOML, by path."""
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}
        """Items so far of each array of tables."""
        self._line, self._counted = 1, 0

    def run(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self.lines

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def _header(self) -> Path:
        line, many = self._here(), self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        keys = self._keys()
        path = self._inside(keys[:-1]) + keys[-1:]
        self.at += 2 if many else 1
        self._note(path, line)
        if not many:
            return self._inside(keys)
        count = self.counts[path] = self.counts.get(path, -1) + 1
        self._note((*path, count), line)
        return (*path, count)

    def _inside(self, keys: tuple[str, ...]) -> Path:
        """The path of a table, through the newest item of each array of tables on the way."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            if path in self.counts:
                path = (*path, self.counts[path])
        return path

    def _pair(self, table: Path) -> None:
        line = self._here()
        path = table + self._keys()
        self.at += 1  # the equals sign
        self._note(path, line)
        self._value(path)

    def _keys(self) -> tuple[str, ...]:
        """A key or dotted key; ends at what follows it, ``=`` or ``]``."""
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            token = _QUOTED.match(self.text, self.at) or _BARE.match(self.text, self.at)
            assert token is not None, "the scanner is given valid TOML"
            self.at = token.end()
            keys.append(tomllib.loads(f"k = {token[0]}")["k"] if token[0][0] in "\"'" else token[0])
            self._skip(_SPACE)
            if self.text[self.at] != ".":
                return tuple(keys)
            self.at += 1

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        opens = self.text[self.at]
        if opens == "[":
            self._items(path)
        elif opens == "{":
            self._inline(path)
        elif opens in "\"'":
            self._skip(_LONG if self.text.startswith(opens * 3, self.at) else _QUOTED)
        else:
            self._skip(_PLAIN)

    def _items(self, path: Path) -> None:
        self.at += 1
        count = 0
        while self.text[self._skip(_BLANK)] != "]":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._note((*path, count), self._here())
            self._value((*path, count))
            count += 1
        self.at += 1

    def _inline(self, path: Path) -> None:
        self.at += 1
        while self.text[self._skip(_BLANK)] != "}":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._pair(path)
        self.at += 1

    def _here(self) -> int:
        """The line of the present place. Counts on from the last one asked for: the scan never goes back."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def _note(self, path: Path, line: int) -> None:
        """Note a line for a path, and for the tables on its way that have none yet."""
        while path and path not in self.lines:
            self.lines[path] = line
            path = path[:-1]

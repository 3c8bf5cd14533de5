"""Whether files of models are still what they were: a look at sizes and times, at bytes only where that says otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

Look = tuple[tuple[str, int, int, int], ...]
"""Of each file its name, size, time of the last change in ns, and number in its file system."""

SETTLED_S: Final = 2.0
"""A file that changed a shorter time ago may change again without a trace: clocks of file systems are coarse."""


def look(files: Iterable[Path]) -> Look:
    """How files stand. Raises OSError for one that is not there."""
    stats = [(file.name, file.stat()) for file in files]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats))


def settled(seen: Look) -> bool:
    """Whether nobody has written to these files just now."""
    return all(abs(time.time_ns() - changed) > SETTLED_S * 1e9 for _, _, changed, _ in seen)


class Hashes:
    """The sha256s of folders, made anew only where files have changed."""

    def __init__(self, files: tuple[str, ...], sha256: Callable[[Path], str]) -> None:
        """``files``: names of those that ``sha256`` reads in a folder."""
        self._files, self._sha256 = files, sha256
        self._known: dict[Path, tuple[Look, str]] = {}

    def of(self, folder: Path) -> str:
        """As the function that it was made with."""
        try:
            seen = look(folder / name for name in self._files)
        except OSError:
            return self._sha256(folder)  # it has the sentence about what is missing
        known = self._known.get(folder)
        if known is not None and known[0] == seen:
            return known[1]
        made = self._sha256(folder)
        if settled(seen):
            self._known[folder] = seen, made
        return made

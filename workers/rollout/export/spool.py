"""Lines on disk, in the order of reading, and what is asked about them in memory: 54 bytes a line, however long it is."""

from __future__ import annotations

from array import array
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.rollout.export.columns import Ints, ints
from workers.rollout.lines import HASH_BYTES, Line


class Spool:
    """Lines of rows that come in ascending order. Write first, then read."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._offset, self._length, self._tokens, self._row = array("q"), array("i"), array("i"), array("i")
        self._images = array("h")
        self._prompts, self._replies = bytearray(), bytearray()
        self._at = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._row)

    def add(self, row: int, line: Line) -> None:
        """Write the line of a row, which is greater than every row before."""
        self._file.write(line.content)
        self._row.append(row)
        self._offset.append(self._at)
        self._length.append(len(line.content))
        self._tokens.append(line.tokens)
        self._images.append(line.images)
        self._prompts += line.prompt
        self._replies += line.reply
        self._at += len(line.content)

    def read(self, row: int) -> bytes:
        """The line of a row that is here."""
        at = int(np.searchsorted(self.rows, row))
        self._file.seek(self._offset[at])
        return self._file.read(self._length[at])

    @cached_property
    def rows(self) -> Ints:
        """The rows that are here, ascending. Ask when all are written."""
        return ints(self._row)

    def bytes(self, rows: Ints) -> int:
        """How much these lines take together."""
        return int(ints(self._length)[self._places(rows)].sum())

    def tokens(self, rows: Ints) -> Ints:
        """Most tokens of each line."""
        return ints(self._tokens)[self._places(rows)]

    def images(self, rows: Ints) -> Ints:
        """How many pictures each line has."""
        return ints(self._images)[self._places(rows)]

    def prompts(self, rows: Ints) -> Ints:
        """A number for each line: the same for the same prompt, and only then."""
        return _numbered(self._prompts)[self._places(rows)]

    def replies(self, rows: Ints) -> Ints:
        """A number for each line: the same for the same reply, and only then."""
        return _numbered(self._replies)[self._places(rows)]

    def _places(self, rows: Ints) -> Ints:
        return np.asarray(np.searchsorted(self.rows, rows), dtype=np.int64)


def _numbered(hashes: bytearray) -> Ints:
    """Hashes as numbers from 0."""
    pairs: npt.NDArray[Any] = np.frombuffer(bytes(hashes), dtype=[("high", "u8"), ("low", "u8")])
    assert pairs.dtype.itemsize == HASH_BYTES
    order = np.lexsort((pairs["low"], pairs["high"]))
    ordered = pairs[order]
    new = np.ones(len(ordered), dtype=np.int64)
    new[1:] = (ordered[1:] != ordered[:-1]).astype(np.int64)
    numbers = np.empty(len(ordered), dtype=np.int64)
    numbers[order] = np.cumsum(new) - 1
    return numbers

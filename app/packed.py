"""A folder as one stream of bytes, and back: a tar with its files in order of their names and nothing else about them.

The same files give the same bytes wherever and whenever they are packed, so the stream's sha256 is that of the folder: of what is
in it and of how it is named there.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from app.errors import BadSource, InvalidInput, cut
from app.file_names import clean_name

CHUNK_BYTES: Final = 1 << 20
BLOCK: Final = tarfile.BLOCKSIZE
END: Final = bytes(2 * BLOCK)


def pack(folder: Path) -> BinaryIO:
    """The folder's bytes, to be read from the start to the end; the caller closes it. Raises InvalidInput as ``files``."""
    return cast(BinaryIO, io.BufferedReader(_Stream(_pieces(files(folder))), CHUNK_BYTES))


def files(folder: Path) -> list[tuple[str, Path]]:
    """Every file in a folder and below, by its name there. Raises InvalidInput for what is no plain file, or has an odd name."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InvalidInput(f"{path} is no plain file, and a folder that is kept has nothing else in it")
        if path.is_dir():
            continue
        if not _is_plain(name):
            raise InvalidInput(f"{path} has a name that not every system takes: only ASCII letters, digits and ._-, none hidden")
        found.append((name, path))
    if not found:
        raise InvalidInput(f"there is no file in {folder}")
    return sorted(found)


def _is_plain(name: str) -> bool:
    return all(part == clean_name(part) for part in name.split("/"))


def _pieces(found: list[tuple[str, Path]]) -> Iterator[bytes]:
    for name, path in found:
        with path.open("rb") as file:
            about = tarfile.TarInfo(name)
            left = about.size = os.fstat(file.fileno()).st_size
            yield about.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
            while left:
                piece = file.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise OSError(f"{path} became shorter while it was read")
                left -= len(piece)
                yield piece
            yield bytes(-about.size % BLOCK)
    yield END


class _Stream(io.RawIOBase):
    """Pieces as a file that is read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._pieces.close()  # type: ignore[attr-defined]  # a generator, which has a file open
        super().close()


def unpack(stream: BinaryIO, folder: Path) -> None:
    """Write what ``pack`` made into a new folder, every file of it safe from a power cut. Raises BadSource for other bytes."""
    folder.mkdir()
    try:
        with tarfile.open(fileobj=stream, mode="r|") as packed:
            for about in packed:
                if not about.isreg() or not _is_plain(about.name):
                    raise BadSource(f"a packed folder holds {cut(about.name)}, which is no plain file with a plain name")
                content = packed.extractfile(about)
                assert content is not None
                _write(folder / about.name, content)
    except tarfile.TarError as error:
        raise BadSource(f"a packed folder cannot be read: {error}") from error
    for each in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync(each)


def _write(path: Path, content: IO[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        while piece := content.read(CHUNK_BYTES):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, safe from a power cut."""
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)

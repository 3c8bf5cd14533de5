"""The file that holds a backup: its parts, its manifest, and how it is told from any other file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from uuid import uuid4

from app.artifacts import CHUNK_BYTES, clean_name
from app.command_line import Tick, no_tick
from app.errors import BadFlag, BadSource, Conflict, SourceNotFound, cut

FORM: Final = 1
"""Version of the form of a backup."""
MANIFEST: Final = "manifest.json"
DATABASE: Final = "store.db"
ARTIFACTS: Final = "artifacts/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part, as the manifest tells of it."""

    name: str
    bytes: int
    sha256: str


@dataclass(slots=True, kw_only=True)
class Writer:
    """Writes the parts of a backup."""

    zip: zipfile.ZipFile
    parts: list[Part] = field(default_factory=list)

    def add(self, name: str, stream: BinaryIO) -> Part:
        """Write one part from a stream."""
        hasher, size = hashlib.sha256(), 0
        with self.zip.open(name, "w", force_zip64=True) as target:
            while chunk := stream.read(CHUNK_BYTES):
                hasher.update(chunk)
                size += len(chunk)
                target.write(chunk)
        part = Part(name=name, bytes=size, sha256=hasher.hexdigest())
        self.parts.append(part)
        return part

    def finish(self, **about: Any) -> dict[str, Any]:
        """Write the manifest; give it."""
        listed = [{"name": part.name, "bytes": part.bytes, "sha256": part.sha256} for part in self.parts]
        manifest = {"form": FORM, **about, "parts": listed}
        self.zip.writestr(MANIFEST, json.dumps(manifest, indent=1) + "\n")
        return manifest


@contextmanager
def created(path: Path, *, overwrite: bool) -> Iterator[Writer]:
    """A new backup under ``path``, there whole when the block has ended, and not at all when it raises.

    Raises Conflict for a file that is there, and BadFlag where none can be.
    """
    if path.is_dir():
        raise BadFlag(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise BadFlag(f"there is no folder {path.parent} for the backup; make it, or name a file in one that is there")
    if path.exists() and not overwrite:
        raise Conflict(f"{path} is there already; --overwrite takes its place")
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with draft.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened:
                yield Writer(zip=opened)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """An open backup whose manifest was read."""

    path: Path
    zip: zipfile.ZipFile
    manifest: dict[str, Any]
    parts: tuple[Part, ...]

    def check(self, tick: Tick = no_tick) -> None:
        """Compute every hash anew. Raises BadSource for a part that is not what the manifest says."""
        for part in self.parts:
            with self.open(part) as stream:
                hasher, size = hashlib.sha256(), 0
                while chunk := self._read(stream, part):
                    hasher.update(chunk)
                    size += len(chunk)
                    tick(len(chunk))
            if (size, hasher.hexdigest()) != (part.bytes, part.sha256):
                raise BadSource(
                    f"{self.path} is damaged: its part {part.name} has {size} bytes with sha256 {hasher.hexdigest()}, "
                    f"and the manifest tells of {part.bytes} with {part.sha256}"
                )

    def _read(self, stream: BinaryIO, part: Part) -> bytes:
        try:
            return stream.read(CHUNK_BYTES)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
            raise BadSource(f"{self.path} is damaged: its part {part.name} cannot be read ({error})") from error

    def open(self, part: Part) -> BinaryIO:
        """A part's bytes; the caller closes it."""
        try:
            return cast(BinaryIO, self.zip.open(part.name))
        except (KeyError, zipfile.BadZipFile) as error:
            raise BadSource(f"{self.path} is damaged: its part {part.name} cannot be read ({error})") from error

    def extract(self, part: Part, to: Path) -> None:
        """Write a part's bytes to a file."""
        with self.open(part) as stream, to.open("wb") as target:
            shutil.copyfileobj(stream, target, CHUNK_BYTES)
            target.flush()
            os.fsync(target.fileno())

    @property
    def database(self) -> Part:
        """The part with the database."""
        return next(part for part in self.parts if part.name == DATABASE)

    @property
    def artifacts(self) -> list[Part]:
        """The parts with artifacts' bytes."""
        return [part for part in self.parts if part.name.startswith(ARTIFACTS)]


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """A backup, to be read. Raises SourceNotFound, or BadSource for a file that is none."""
    if not path.exists():
        raise SourceNotFound(f"there is no file {path}")
    if not zipfile.is_zipfile(path):
        raise BadSource(f"{path} is no backup, or it is cut short: `synthq db backup FILE` makes one")
    try:
        with zipfile.ZipFile(path) as file:
            yield _reader(path, file)
    except zipfile.BadZipFile as error:
        raise BadSource(f"{path} is damaged ({error})") from error


def _reader(path: Path, file: zipfile.ZipFile) -> Reader:
    try:
        manifest = json.loads(file.read(MANIFEST))
        parts = tuple(Part(**each) for each in manifest["parts"])
        form = manifest["form"]
        names = [str(part.name) for part in parts]
    except (KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadSource(f"{path} is a zip file and no backup: it has no manifest that can be read ({error})") from error
    if form != FORM:
        raise BadSource(f"{path} is a backup of the form {form}, and this synthq reads {FORM}; use a newer synthq")
    _check_names(path, names, file.namelist())
    return Reader(path=path, zip=file, manifest=manifest, parts=parts)


def _check_names(path: Path, names: list[str], stored: list[str]) -> None:
    """Raise BadSource unless every part has a name of its own, and one that stays below where it is put."""
    if DATABASE not in names:
        raise BadSource(f"{path} is no whole backup: its manifest tells of no {DATABASE}")
    for name in names:
        inner = name.removeprefix(ARTIFACTS).split("/")
        clean = name.startswith(ARTIFACTS) and len(inner) == 2 and all(each == clean_name(each) for each in inner)
        if name != DATABASE and not clean:
            raise BadSource(
                f"{path} is no backup that synthq made: it has a part named {cut(name)}, "
                f"and a part is {DATABASE} or {ARTIFACTS}FOLDER/FILE"
            )
    for listed, where in ((names, "its manifest"), (stored, "the zip file")):
        twice = next((name for name, count in Counter(listed).items() if count > 1), None)
        if twice is not None:
            raise BadSource(f"{path} is no whole backup: {where} has the part {cut(twice)} more than once")

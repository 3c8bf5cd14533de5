"""Where the files that jobs make live: a folder, or any store that fsspec can reach (``SYNTHQ_ARTIFACTS_URL``).

A file is under its final name only when all of its bytes are there, and its name begins with the hash of its content: a step
that runs twice stores the same bytes under the same name. The row names a path below the root, so the root may move.

An artifact that is a folder (an adapter, a model) has the bytes of ``app.packed``: its row tells sha256 and size of those, and
they are what is sent, saved and compared. Below a root on a disk it lies unpacked, so that engines read it; elsewhere, packed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from uuid import uuid4

import fsspec
from fsspec import AbstractFileSystem
from sqlmodel import Session, select

from app import packed
from app.errors import ArtifactDamaged, ArtifactNotFound, InvalidInput
from app.file_names import clean_name
from app.models import FOLDER_KINDS, Artifact, new_id
from app.packed import CHUNK_BYTES
from app.settings import get_settings

WHOLE_PUTS: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"})
"""Object stores: a key shows its new content only when the upload is complete, and there is no rename."""


def store_file(
    path: Path,
    *,
    job_id: str,
    step_id: str,
    kind: str,
    name: str,
    parents: Sequence[str] = (),
    data: dict[str, Any] | None = None,
) -> Artifact:
    """Copy a finished local file to the artifact root. Gives a row that is not in any session yet.

    Until that row is committed nobody reads the file; a file whose row never comes goes with ``delete_job``.
    """
    sha256, size = digest(path)
    relative = place(job_id, sha256, name)
    put(path, relative)
    return _row(job_id, step_id, kind, name, relative, sha256, size, parents, data)


def store_folder(
    path: Path,
    *,
    job_id: str,
    step_id: str,
    kind: str,
    name: str,
    parents: Sequence[str] = (),
    data: dict[str, Any] | None = None,
) -> Artifact:
    """Copy a finished local folder to the artifact root, whole or not at all. As ``store_file`` otherwise.

    ``kind`` is one of FOLDER_KINDS. Raises InvalidInput for a folder with anything but plain files in it.
    """
    if kind not in FOLDER_KINDS:
        raise ValueError(f"an artifact of kind {kind!r} is no folder")
    with packed.pack(path) as stream:
        sha256, size = _digest(stream)
    relative = place(job_id, sha256, name)
    with packed.pack(path) as stream:
        put_stream(stream, relative, kind)
    return _row(job_id, step_id, kind, name, relative, sha256, size, parents, data)


def _row(
    job_id: str,
    step_id: str,
    kind: str,
    name: str,
    path: str,
    sha256: str,
    size: int,
    parents: Sequence[str],
    data: dict[str, Any] | None,
) -> Artifact:
    return Artifact(
        id=new_id("art"),
        job_id=job_id,
        step_id=step_id,
        kind=kind,
        name=clean_name(name),
        path=path,
        sha256=sha256,
        bytes=size,
        parents=list(parents),
        data=dict(data or {}),
        created_at=time.time(),
    )


def place(job_id: str, sha256: str, name: str) -> str:
    """Where a job's file is, below the root: a folder for each job, and in it a name that tells what is in the file."""
    return f"{clean_name(job_id)}/{clean_name(f'{sha256[:16]}-{clean_name(name)}')}"


def record(session: Session, artifact: Artifact) -> Artifact:
    """Add the row of a stored file, in place of what an earlier attempt of the same step recorded under this kind and name."""
    same = (Artifact.step_id == artifact.step_id, Artifact.kind == artifact.kind, Artifact.name == artifact.name)
    for earlier in session.exec(select(Artifact).where(*same)):
        if earlier.sha256 == artifact.sha256:
            return earlier
        session.delete(earlier)
    session.add(artifact)
    session.flush()
    return artifact


def open_artifact(artifact: Artifact, *, verify: bool = False, root_url: str | None = None) -> BinaryIO:
    """The artifact's bytes, open for reading from the start to the end; the caller closes it. Those of a folder are packed.

    ``verify`` reads everything once before, and raises ArtifactDamaged unless size and sha256 are those of the row. Raises
    ArtifactNotFound when the bytes are gone. ``root_url`` is another store's artifact root.
    """
    fs, root = _root(root_url)
    full = f"{root}/{_below(artifact)}"
    try:
        if verify:
            with _open(fs, full, artifact) as stream:
                _check(stream, artifact)
        return _open(fs, full, artifact)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ArtifactNotFound(artifact.id) from error
    except InvalidInput as error:  # something came into the folder that was not in it
        raise ArtifactDamaged(artifact.id, wanted=artifact.sha256, found=f"none: {error}") from error


def _open(fs: AbstractFileSystem, full: str, artifact: Artifact) -> BinaryIO:
    if artifact.is_folder and "file" in _protocols(fs) and Path(full).is_dir():
        return packed.pack(Path(full))
    return cast(BinaryIO, fs.open(full, "rb"))


def read_artifact(artifact: Artifact) -> bytes:
    """All of the artifact's bytes, checked against its sha256. For small ones, such as a report."""
    with open_artifact(artifact, verify=True) as stream:
        return stream.read()


def folder_of(artifact: Artifact) -> Path | None:
    """The folder that an artifact is, for what reads whole folders; None where it is none on a disk that is mounted here."""
    fs, root = _root()
    folder = Path(root) / _below(artifact)
    return folder if "file" in _protocols(fs) and folder.is_dir() else None


def delete_job(job_id: str) -> None:
    """Delete every file that a job stored, with or without a row. Nothing there is no error."""
    fs, root = _root()
    folder = f"{root}/{clean_name(job_id)}"
    if fs.exists(folder):
        fs.rm(folder, recursive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file below the artifact root, or a folder that is one artifact, whoever put it there."""

    path: str
    """Below the root, as in an artifact's row."""
    bytes: int
    modified: float
    """UTC epoch seconds, by the clock of where it is stored; now, where that tells no time. Of a folder, its newest file's."""


def stored_files() -> Iterator[StoredFile]:
    """Everything two levels below the artifact root, half-written ones too."""
    fs, root = _root()
    if not fs.exists(root):
        return
    for folder in sorted(each["name"] for each in fs.ls(root, detail=True) if each["type"] == "directory"):
        for found in sorted(fs.ls(folder, detail=True), key=lambda each: str(each["name"])):
            *_, job, name = found["name"].split("/")
            inside = [found] if found["type"] == "file" else list(fs.find(found["name"], detail=True).values())
            size, modified = sum(int(each["size"]) for each in inside), max(map(_modified, [found, *inside]))
            yield StoredFile(path=f"{job}/{name}", bytes=size, modified=modified)


def _modified(found: dict[str, Any]) -> float:
    stamp = found.get("mtime", found.get("LastModified", found.get("last_modified")))
    if isinstance(stamp, datetime):
        return stamp.timestamp()
    return float(stamp) if isinstance(stamp, int | float) else time.time()


def delete_file(stored: StoredFile) -> None:
    """Delete one file or folder below the root, and the job's folder when nothing is left in it."""
    fs, root = _root()
    fs.rm(f"{root}/{stored.path}", recursive=True)
    folder = f"{root}/{stored.path.partition('/')[0]}"
    if "file" in _protocols(fs) and not fs.ls(folder):
        fs.rmdir(folder)


def digest(path: Path) -> tuple[str, int]:
    """sha256 (hex) and size in bytes of a local file."""
    with path.open("rb") as stream:
        return _digest(stream)


def _root(url: str | None = None) -> tuple[AbstractFileSystem, str]:
    fs, root = fsspec.core.url_to_fs(url or get_settings().artifacts)
    return fs, root.rstrip("/")


def _below(artifact: Artifact) -> str:
    parts = artifact.path.split("/")
    if len(parts) != 2 or any(part != clean_name(part) for part in parts):
        raise ArtifactNotFound(artifact.id)
    return artifact.path


def put(path: Path, relative: str, kind: str = "") -> None:
    """Copy a finished local file with an artifact's bytes to its place below the root; it is there whole or not at all."""
    fs, root = _root()
    if _protocols(fs) & WHOLE_PUTS:
        fs.put_file(str(path), f"{root}/{relative}")
        return
    with path.open("rb") as source:
        put_stream(source, relative, kind)


def put_stream(source: BinaryIO, relative: str, kind: str = "") -> None:
    """Write an artifact's bytes to its place below the root, as ``put``; those of a folder become one where there is a disk."""
    fs, root = _root()
    folder, _, name = f"{root}/{relative}".rpartition("/")
    on_disk = "file" in _protocols(fs)
    if _protocols(fs) & WHOLE_PUTS:  # what breaks off in the middle of an upload could still be taken for the end of it
        with tempfile.NamedTemporaryFile(prefix="synthq-artifact-") as local:
            shutil.copyfileobj(source, local, CHUNK_BYTES)
            local.flush()
            fs.put_file(local.name, f"{folder}/{name}")
        return
    fs.makedirs(folder, exist_ok=True)
    draft = f"{folder}/.{name}.{uuid4().hex}"
    try:
        if on_disk and kind in FOLDER_KINDS:
            packed.unpack(source, Path(draft))
            _move_folder(Path(draft), Path(folder) / name)
            return
        with fs.open(draft, "wb") as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
            if on_disk:
                target.flush()
                os.fsync(target.fileno())  # else a power cut may leave the final name with no bytes behind it
        fs.mv(draft, f"{folder}/{name}")
    finally:
        if fs.exists(draft):
            fs.rm(draft, recursive=True)


def _move_folder(draft: Path, final: Path) -> None:
    """Give a whole folder its name. One that is there with the same content stays; another, which is damaged, makes room."""
    if final.is_dir() and _same(draft, final):
        return
    aside = draft.with_name(f"{draft.name}.aside")
    if final.exists():
        final.rename(aside)
    draft.rename(final)
    packed.sync(final.parent)
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)


def _same(one: Path, other: Path) -> bool:
    try:
        with packed.pack(one) as stream, packed.pack(other) as there:
            return _digest(stream) == _digest(there)
    except (InvalidInput, OSError):
        return False


def _protocols(fs: AbstractFileSystem) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def _check(stream: BinaryIO, artifact: Artifact) -> None:
    sha256, size = _digest(stream)
    if (sha256, size) != (artifact.sha256, artifact.bytes):
        raise ArtifactDamaged(artifact.id, wanted=artifact.sha256, found=sha256)


def _digest(stream: BinaryIO) -> tuple[str, int]:
    hasher, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        hasher.update(chunk)
        size += len(chunk)
    return hasher.hexdigest(), size

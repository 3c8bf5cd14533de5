"""Where the files that jobs make live: a folder, or any store that fsspec can reach (``SYNTHQ_ARTIFACTS_URL``).

A file is under its final name only when all of its bytes are there, and its name begins with the hash of its content: a step
that runs twice stores the same bytes under the same name. The row names a path below the root, so the root may move.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
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

from app.errors import ArtifactDamaged, ArtifactNotFound
from app.models import Artifact, new_id
from app.settings import get_settings

CHUNK_BYTES: Final = 1 << 20
NAME_CHARS: Final = 100
"""Longest file name that is kept; file systems take 255 bytes, and the hash goes before it."""
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
    name = clean_name(name)
    relative = place(job_id, sha256, name)
    put(path, relative)
    return Artifact(
        id=new_id("art"),
        job_id=job_id,
        step_id=step_id,
        kind=kind,
        name=name,
        path=relative,
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
    """The artifact's bytes, open for reading; the caller closes it.

    ``verify`` reads everything once before, and raises ArtifactDamaged unless size and sha256 are those of the row. Raises
    ArtifactNotFound when the bytes are gone. ``root_url`` is another store's artifact root.
    """
    fs, root = _root(root_url)
    full = f"{root}/{_below(artifact)}"
    try:
        if verify:
            with fs.open(full, "rb") as stream:
                _check(stream, artifact)
        return cast(BinaryIO, fs.open(full, "rb"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ArtifactNotFound(artifact.id) from error


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
    """A file below the artifact root, whoever put it there."""

    path: str
    """Below the root, as in an artifact's row."""
    bytes: int
    modified: float
    """UTC epoch seconds, by the clock of where it is stored; now, where that tells no time."""


def stored_files() -> Iterator[StoredFile]:
    """Every file two levels below the artifact root, half-written ones too."""
    fs, root = _root()
    if not fs.exists(root):
        return
    for folder in sorted(each["name"] for each in fs.ls(root, detail=True) if each["type"] == "directory"):
        for found in sorted(fs.ls(folder, detail=True), key=lambda each: str(each["name"])):
            if found["type"] == "file":
                *_, job, name = found["name"].split("/")
                yield StoredFile(path=f"{job}/{name}", bytes=int(found["size"]), modified=_modified(found))


def _modified(found: dict[str, Any]) -> float:
    stamp = found.get("mtime", found.get("LastModified", found.get("last_modified")))
    if isinstance(stamp, datetime):
        return stamp.timestamp()
    return float(stamp) if isinstance(stamp, int | float) else time.time()


def delete_file(stored: StoredFile) -> None:
    """Delete one file below the root, and its folder when nothing is left in it."""
    fs, root = _root()
    fs.rm_file(f"{root}/{stored.path}")
    folder = f"{root}/{stored.path.partition('/')[0]}"
    if "file" in _protocols(fs) and not fs.ls(folder):
        fs.rmdir(folder)


def digest(path: Path) -> tuple[str, int]:
    """sha256 (hex) and size in bytes of a local file."""
    with path.open("rb") as stream:
        return _digest(stream)


def clean_name(name: str) -> str:
    """A name that is safe as one file name everywhere: ASCII letters, digits, ``._-``, not hidden, not long."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")
    stem, dot, suffix = safe.rpartition(".")
    if dot and len(safe) > NAME_CHARS and len(suffix) <= 16:
        safe = f"{stem[: NAME_CHARS - len(suffix) - 1]}.{suffix}"
    return safe[:NAME_CHARS] or "file"


def _root(url: str | None = None) -> tuple[AbstractFileSystem, str]:
    fs, root = fsspec.core.url_to_fs(url or get_settings().artifacts)
    return fs, root.rstrip("/")


def _below(artifact: Artifact) -> str:
    parts = artifact.path.split("/")
    if len(parts) != 2 or any(part != clean_name(part) for part in parts):
        raise ArtifactNotFound(artifact.id)
    return artifact.path


def put(path: Path, relative: str) -> None:
    """Copy a finished local file to its place below the root; it is there whole or not at all."""
    fs, root = _root()
    final = f"{root}/{relative}"
    if _protocols(fs) & WHOLE_PUTS:
        fs.put_file(str(path), final)
        return
    folder, _, name = final.rpartition("/")
    fs.makedirs(folder, exist_ok=True)
    draft = f"{folder}/.{name}.{uuid4().hex}"
    try:
        with path.open("rb") as source, fs.open(draft, "wb") as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
            if "file" in _protocols(fs):
                target.flush()
                os.fsync(target.fileno())  # else a power cut may leave the final name with no bytes behind it
        fs.mv(draft, final)
    except BaseException:
        if fs.exists(draft):
            fs.rm(draft)
        raise


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

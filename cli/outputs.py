"""Files that come from the server: fetched whole, checked against their sha256, and put in place in one move."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EISDIR
from pathlib import Path
from typing import BinaryIO

from app.errors import ArtifactNotFound, SynthqError
from cli import show
from cli.client import Client, Json


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """A file to write. It gets the name ``target`` when the block ends, and is gone when the block raises."""
    draft = target.with_name(f".{target.name[:80]}.{secrets.token_hex(6)}")
    with _writing(target):
        if target.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _writing(target):
            file = draft.open("xb")
        with file:
            yield file
            with _writing(target):
                file.flush()
                os.fsync(file.fileno())
        with _writing(target):
            draft.replace(target)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Raises SynthqError in place of OSError."""
    try:
        yield
    except OSError as error:
        raise SynthqError(f"{target} cannot be written: {error.strerror or error}") from None


def save(pieces: Iterable[bytes], target: Path, check: Callable[[str], None] = lambda sha256: None) -> int:
    """Write bytes to a file, whole or not at all. ``check`` gets their sha256 and may raise. Gives the number of bytes."""
    hasher, count = hashlib.sha256(), 0
    with whole_file(target) as file:
        for piece in pieces:
            hasher.update(piece)
            count += len(piece)
            file.write(piece)
        check(hasher.hexdigest())
    return count


def download(client: Client, artifact: Json, target: Path) -> None:
    """Fetch an artifact's bytes. Raises SynthqError, and keeps nothing, when they do not have the artifact's sha256."""

    def check(sha256: str) -> None:
        if sha256 != artifact.get("sha256"):
            raise SynthqError(
                f"artifact {artifact.get('id')} came with sha256 {sha256}, not {artifact.get('sha256')}; {target} was not written"
            )

    with client.stream(f"/artifacts/{artifact['id']}/content") as pieces:
        save(pieces, target, check)


def has_bytes(target: Path, sha256: str) -> bool:
    """Is this file there already, with these bytes?"""
    try:
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:  # then writing it says what is wrong
        return False


def write_output(client: Client, job: Json, *, anywhere: bool) -> None:
    """Write a filter job's dataset to the ``output`` of its spec, and say so. Other jobs: nothing.

    ``anywhere``: the spec is this user's own, of this command. Otherwise a path is obeyed only inside the present folder, since
    another user of the server may have chosen it.
    """
    spec = job.get("spec") or {}
    output = (spec.get("filter") or {}).get("output") if job.get("kind") == "filter" else None
    if not output:
        return
    target = Path(output).expanduser() if anywhere else Path(output)
    if not anywhere and not _inside(target):
        show.say(
            f"{show.clean(output)} is outside this folder, so it was not written; `synthq artifacts {job['id']} --download DIR`"
        )
        return
    artifact = _dataset(client, job)
    if has_bytes(target, str(artifact.get("sha256"))):
        show.say(f"{target} is there already, with these bytes")
        return
    try:
        download(client, artifact, target)
    except SynthqError:
        show.say(f"the job has its data all the same: `synthq artifacts {job['id']} --download DIR`")
        raise
    lines = (job.get("summary") or {}).get("lines")
    count = f"{lines} lines, " if isinstance(lines, int) else ""
    show.say(f"✓ wrote {target} ({count}{show.size(artifact.get('bytes'))})")


def _inside(target: Path) -> bool:
    here = Path.cwd().resolve()
    return (here / target).resolve().is_relative_to(here)


def _dataset(client: Client, job: Json) -> Json:
    named = (job.get("summary") or {}).get("artifact")
    rows = client.rows(f"/jobs/{job['id']}/artifacts")
    found = [row for row in rows if row.get("id") == named] or [row for row in rows if row.get("kind") == "dataset"]
    if not found:
        raise ArtifactNotFound(f"the dataset of {job['id']}")
    return found[-1]

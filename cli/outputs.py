"""Files that come from the server: fetched whole, checked against their sha256, and put in place in one move."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EISDIR
from pathlib import Path, PurePosixPath
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


def download(client: Client, artifact: Json, target: Path) -> int:
    """Fetch an artifact's bytes, those of a folder into one; gives their number.

    Raises SynthqError, and keeps nothing, when they do not have the artifact's sha256.
    """
    if artifact.get("is_folder"):
        return _download_folder(client, artifact, target)
    with client.stream(f"/artifacts/{artifact['id']}/content") as pieces:
        return save(pieces, target, lambda sha256: _check(artifact, sha256, target))


def _download_folder(client: Client, artifact: Json, target: Path) -> int:
    draft = target.with_name(f".{target.name[:80]}.{secrets.token_hex(6)}")
    packed = draft.with_suffix(".tar")
    try:
        with client.stream(f"/artifacts/{artifact['id']}/content") as pieces:
            count = save(pieces, packed, lambda sha256: _check(artifact, sha256, target))
        with _writing(target):
            _unpack(packed, draft)
            draft.replace(target)
    finally:
        packed.unlink(missing_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
    return count


def _unpack(packed: Path, folder: Path) -> None:
    """The plain files of a tar, each below the folder. Raises SynthqError for anything else in it."""
    with tarfile.open(packed) as tar:
        for about in tar:
            path = PurePosixPath(about.name)
            if not about.isreg() or path.is_absolute() or ".." in path.parts:
                raise SynthqError(f"the server sent a folder with {show.clean(about.name)} in it, which is no file of its own")
            content = tar.extractfile(about)
            assert content is not None
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with (folder / path).open("xb") as file:
                shutil.copyfileobj(content, file)


def _check(artifact: Json, sha256: str, target: Path) -> None:
    if sha256 != artifact.get("sha256"):
        raise SynthqError(
            f"artifact {artifact.get('id')} came with sha256 {sha256}, not {artifact.get('sha256')}; {target} was not written"
        )


def already(artifact: Json, target: Path) -> str:
    """A sentence when the artifact is there already; empty when it is to be written."""
    if artifact.get("is_folder"):  # it got its name when it was whole
        return f"{target} is there already, and is left as it is" if target.is_dir() else ""
    try:
        with target.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == artifact.get("sha256")
    except OSError:  # then writing it says what is wrong
        return ""
    return f"{target} is there already, with these bytes" if same else ""


def write_output(client: Client, job: Json, *, anywhere: bool) -> None:
    """Write what a filter job made to where its spec says: its lines to ``output``, or every file into ``output_dir``. Say so.

    ``anywhere``: the spec is this user's own, of this command. Otherwise a path is obeyed only inside the present folder, since
    another user of the server may have chosen it.
    """
    table = ((job.get("spec") or {}).get("filter") or {}) if job.get("kind") == "filter" else {}
    output = table.get("output")
    named = output or table.get("output_dir")
    if not named:
        return
    target = Path(named)
    if not anywhere and not _inside(target):
        show.say(f"{show.clean(target)} is outside this folder, so it was not written; {_by_hand(job)}")
        return
    target = target.expanduser() if anywhere else target
    try:
        if output:
            _write(client, _dataset(client, job), target)
        else:
            for row, path in targets(_files(client, job), target):
                _write(client, row, path)
    except SynthqError:
        show.say(f"the job has its data all the same: {_by_hand(job)}")
        raise


def _by_hand(job: Json) -> str:
    return f"`synthq artifacts {job['id']} --output-dir DIR`"


def _write(client: Client, artifact: Json, target: Path) -> None:
    """Write one file, unless it is there, and say so."""
    if target.suffix == ".json" and artifact.get("kind") == "dataset":
        count = _as_list(client, artifact, target)
    elif there := already(artifact, target):
        show.say(there)
        return
    else:
        count = download(client, artifact, target)
    lines = (artifact.get("data") or {}).get("lines")
    told = f"{lines} lines, " if isinstance(lines, int) and artifact.get("kind") == "dataset" else ""
    show.say(f"✓ wrote {target} ({told}{show.size(count)})")


def _as_list(client: Client, artifact: Json, target: Path) -> int:
    """Fetch a file of lines and write it as one JSON list, a line for each; gives the number of bytes."""
    hasher, count, begun = hashlib.sha256(), 0, False
    with client.stream(f"/artifacts/{artifact['id']}/content") as pieces, whole_file(target) as file:
        for line in _lines(pieces, hasher.update):
            text = (b",\n" if begun else b"[\n") + line
            count, begun = count + file.write(text), True
        count += file.write(b"\n]\n" if begun else b"[]\n")
        _check(artifact, hasher.hexdigest(), target)
    return count


def _lines(pieces: Iterable[bytes], see: Callable[[bytes], object]) -> Iterator[bytes]:
    """The lines in bytes that come in pieces, without their ends; ``see`` gets every piece."""
    rest: list[bytes] = []
    for piece in pieces:
        see(piece)
        *whole, last = piece.split(b"\n")
        for line in whole:
            yield b"".join((*rest, line))
            rest = []
        rest.append(last)
    if any(rest):
        yield b"".join(rest)


def targets(rows: Sequence[Json], folder: Path) -> list[tuple[Json, Path]]:
    """Where each artifact goes in a folder. A name that comes twice gets the start of its hash in front."""
    names = [Path(show.clean(row.get("name") or row["id"])).name.lstrip(".") or str(row["id"]) for row in rows]
    return [
        (row, folder / (name if names.count(name) == 1 else f"{str(row.get('sha256'))[:8]}-{name}"))
        for row, name in zip(rows, names, strict=True)
    ]


def _inside(target: Path) -> bool:
    here = Path.cwd().resolve()
    return (here / target).resolve().is_relative_to(here)


def _dataset(client: Client, job: Json) -> Json:
    rows = [row for row in _files(client, job) if row.get("kind") == "dataset"]
    if not rows:
        raise ArtifactNotFound(f"the dataset of {job['id']}")
    return rows[0]


def _files(client: Client, job: Json) -> list[Json]:
    """The files of the job's last attempt, as its summary has them; all of the job's where it has none."""
    named = [file.get("artifact") for file in (job.get("summary") or {}).get("files") or []]
    rows = client.rows(f"/jobs/{job['id']}/artifacts")
    return sorted((row for row in rows if row.get("id") in named), key=lambda row: named.index(row["id"])) or rows

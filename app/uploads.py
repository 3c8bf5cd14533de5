"""Files of lines that come from a user's machine, in pieces: each becomes a dataset of a job of its own, of the kind ``upload``.

A file is known by its sha256: one that is here already is not sent again. What has come of the others lies in the server's home
until the last piece is there; then every line and every picture is looked at, and bad ones are told with their numbers.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlmodel import Session, col

from app import artifacts, db
from app.dataset import Options, Summary, ensure
from app.errors import ArtifactNotFound, Conflict, UploadNotFound, UploadTooLarge
from app.file_names import clean_name
from app.models import Artifact, Job, new_id
from app.settings import get_settings
from app.store import done, events
from app.training_refs import DATASET

PIECE_BYTES: Final = 2 * 1024 * 1024
"""Most bytes of a piece; the API reads no longer bodies than twice that."""
KEPT_S: Final = 24 * 3600.0
"""How long pieces wait for the next one."""
KIND: Final = "upload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file on its way."""

    id: str
    name: str
    bytes: int
    sha256: str
    submitted_by: str | None
    """Name of the API key; None on a server without keys."""

    @property
    def part(self) -> Path:
        """What has come of it."""
        return _folder() / f"{self.id}.part"

    @property
    def received(self) -> int:
        """How many bytes have come."""
        return self.part.stat().st_size


def _folder() -> Path:
    return get_settings().home / "uploads"


def begin(*, name: str, size: int, sha256: str, submitted_by: str | None) -> Upload:
    """Expect a file. Raises UploadTooLarge."""
    most = get_settings().upload_bytes
    if size > most:
        raise UploadTooLarge(name, size, most)
    upload = Upload(id=new_id("up"), name=clean_name(name), bytes=size, sha256=sha256, submitted_by=submitted_by)
    _folder().mkdir(parents=True, exist_ok=True)
    _forget_old()
    upload.part.touch()
    _about(upload.id).write_text(json.dumps(asdict(upload)), encoding="utf-8")
    return upload


def _forget_old() -> None:
    """Delete what nobody has gone on with."""
    for path in _folder().iterdir():
        with suppress(FileNotFoundError):  # another process may be at it too
            if time.time() - path.stat().st_mtime > KEPT_S:
                path.unlink()


def _about(id: str) -> Path:
    return _folder() / f"{id}.json"


def find(id: str, caller: str | None) -> Upload:
    """An upload that is on its way, by whoever began it. Raises UploadNotFound."""
    try:
        upload = Upload(**json.loads(_about(clean_name(id)).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UploadNotFound(id) from None
    if upload.submitted_by != caller or not upload.part.is_file():
        raise UploadNotFound(id)
    return upload


def add(upload: Upload, offset: int, piece: bytes) -> int:
    """Put a piece behind what has come; gives how much has come then. A piece that came before may come again.

    Raises Conflict for one that leaves a gap, or is more than the file has.
    """
    if offset > upload.received or offset + len(piece) > upload.bytes:
        raise Conflict(
            f"a piece of {len(piece)} bytes at {offset} does not fit: {upload.received} of {upload.bytes} bytes have come; go on "
            "from there"
        )
    with upload.part.open("r+b") as file:
        file.seek(offset)
        file.write(piece)
    return upload.received


def finish(upload: Upload) -> Artifact:
    """Look at the whole file, and store it with a job of its own.

    Raises Conflict when it is not the file that was told of, and BadDataset, having forgotten the file, for lines that cannot be
    learnt from.
    """
    if upload.received != upload.bytes:
        raise Conflict(f"{upload.received} of {upload.bytes} bytes have come; go on from there")
    try:
        sha256, _ = artifacts.digest(upload.part)
        if sha256 != upload.sha256:
            raise Conflict(f"{upload.name} came with sha256 {sha256}, and {upload.sha256} was told; send it again")
        return _store(upload, ensure(upload.part, Options(), name=upload.name))
    finally:
        upload.part.unlink(missing_ok=True)
        _about(upload.id).unlink(missing_ok=True)


def present(session: Session, sha256: str) -> Artifact | None:
    """A dataset with these bytes that is stored already, no half of one, the newest whose bytes are there."""
    query = select(Artifact).where(col(Artifact.kind) == DATASET, col(Artifact.sha256) == sha256)
    for row in session.scalars(query.order_by(col(Artifact.created_at).desc())):
        with suppress(ArtifactNotFound):
            if row.data.get("side") is None:
                artifacts.open_artifact(row).close()
                return row
    return None


def _store(upload: Upload, summary: Summary) -> Artifact:
    job_id, step_id = new_id("job"), new_id("stp")
    about = {"lines": summary.lines, "images": summary.images, "side": None}
    made = artifacts.store_file(upload.part, job_id=job_id, step_id=step_id, kind=DATASET, name=upload.name, data=about)
    with db.writing() as session:
        _add_job(session, upload, job_id, step_id, {"artifact": made.id, "sha256": upload.sha256, **summary.as_json()})
        row = artifacts.record(session, made)
        message = f"{upload.name} came with {summary.lines} lines and {summary.images} images"
        events.append(session, job_id, "job.uploaded", message, step_id=step_id)
        session.refresh(row)
        session.expunge(row)
    return row


def _add_job(session: Session, upload: Upload, job_id: str, step_id: str, summary: dict[str, object]) -> None:
    """A job that is done: what it was to do is done already, and only what came of it is left to be known."""
    spec = {"kind": KIND, "name": upload.name, "bytes": upload.bytes, "sha256": upload.sha256}
    job = Job(
        id=job_id,
        kind=KIND,
        name=upload.name[:80],
        spec=spec,
        spec_sha256=hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest(),
        source=upload.name,
        summary=summary,
        submitted_by=upload.submitted_by,
        created_at=db.clock(session),
    )
    done.add(session, job, step_id=step_id, work=KIND)

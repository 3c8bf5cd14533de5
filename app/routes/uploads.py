"""Uploads: files of lines that become datasets, sent in pieces."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field

from app import db, uploads
from app.auth import LOCAL, Caller
from app.models import Artifact
from app.problems import problems
from app.schemas import ArtifactOut, In, Out, Plain
from app.uploads import PIECE_BYTES, Upload

router = APIRouter(tags=["uploads"])


class UploadIn(In):
    """A file that is to be sent."""

    name: Annotated[Plain, Field(min_length=1, max_length=255)] = Field(description="its name, for people")
    bytes: int = Field(ge=1, strict=True)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class UploadOut(Out):
    """How much of a file has come."""

    id: str | None = Field(description="null when the file is here already")
    name: str
    bytes: int
    received: int = Field(description="where the next piece begins")
    piece_bytes: int = Field(description="most bytes of a piece")
    artifact: ArtifactOut | None = Field(description="the dataset, when the file is here already")


@router.post("/v1/uploads", status_code=201, response_model=UploadOut, responses=problems(413))
def begin_upload(body: UploadIn, response: Response, caller: Caller) -> Any:
    """Tell of a file that is to be sent. One that is here already, by its sha256, need not be: its `artifact` is told at once."""
    with db.reading() as session:
        row = uploads.present(session, body.sha256)
        if row is not None:
            response.status_code = 200
            return _known(body, row)
    upload = uploads.begin(name=body.name, size=body.bytes, sha256=body.sha256, submitted_by=_name(caller))
    return _out(upload, 0)


@router.post("/v1/uploads/{id}/pieces", response_model=UploadOut, responses=problems(404, 409, 413))
def add_piece(
    id: str,
    caller: Caller,
    offset: Annotated[int, Query(ge=0, description="where the piece begins in the file, in bytes")],
    piece: Annotated[bytes, Body(media_type="application/octet-stream", max_length=PIECE_BYTES)],
) -> Any:
    """Send a piece; the body is its bytes. `received` tells where the next one begins."""
    upload = uploads.find(id, _name(caller))
    return _out(upload, uploads.add(upload, offset, piece))


@router.post("/v1/uploads/{id}/finish", status_code=201, response_model=ArtifactOut, responses=problems(404, 409))
def finish_upload(id: str, caller: Caller) -> Any:
    """Have every line of the file looked at, and the file stored. Where lines cannot be learnt from, they are told instead."""
    return ArtifactOut.model_validate(uploads.finish(uploads.find(id, _name(caller))))


def _name(caller: str) -> str | None:
    return None if caller == LOCAL else caller


def _out(upload: Upload, received: int) -> UploadOut:
    return UploadOut(
        id=upload.id, name=upload.name, bytes=upload.bytes, received=received, piece_bytes=PIECE_BYTES, artifact=None
    )


def _known(body: UploadIn, row: Artifact) -> UploadOut:
    here = ArtifactOut.model_validate(row)
    return UploadOut(id=None, name=row.name, bytes=body.bytes, received=body.bytes, piece_bytes=PIECE_BYTES, artifact=here)

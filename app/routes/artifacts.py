"""Artifacts: files that jobs made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from app import db
from app.artifacts import CHUNK_BYTES, open_artifact
from app.problems import problems
from app.routes.frames import unchanged
from app.schemas import ArtifactList, ArtifactOut
from app.store import jobs, traces

router = APIRouter(tags=["artifacts"])


@router.get("/v1/jobs/{ref}/artifacts", response_model=ArtifactList, responses=problems(404, 409))
def list_artifacts(ref: str) -> Any:
    """What a job made, oldest first."""
    with db.reading() as session:
        rows = jobs.artifacts(session, jobs.find(session, ref))
        return ArtifactList(data=[ArtifactOut.model_validate(row) for row in rows])


@router.get("/v1/artifacts/{id}", response_model=ArtifactOut, responses=problems(404))
def get_artifact(id: str) -> Any:
    """An artifact's name, size, hash and lineage."""
    with db.reading() as session:
        return ArtifactOut.model_validate(traces.artifact(session, id))


@router.get(
    "/v1/artifacts/{id}/content",
    response_class=Response,
    responses={
        **problems(404),
        200: {"description": "the bytes", "content": {"application/octet-stream": {}, "application/x-tar": {}}},
        304: {"description": "the client has them"},
    },
)
def get_content(id: str, request: Request) -> Response:
    """An artifact's bytes, those of a folder as a tar; the ETag is their sha256."""
    with db.reading() as session:
        row = traces.artifact(session, id)
    headers = {"ETag": f'"{row.sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if unchanged(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    name, media = (f"{row.name}.tar", "application/x-tar") if row.is_folder else (row.name, "application/octet-stream")
    headers |= {"Content-Length": str(row.bytes), "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_chunks(open_artifact(row)), media_type=media, headers=headers)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk

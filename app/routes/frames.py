"""Frames: stored pictures, named by their content."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app import db
from app.problems import problems
from app.store import traces

router = APIRouter(tags=["frames"])


def unchanged(request: Request, etag: str) -> bool:
    """Whether the client has the bytes with this tag already."""
    asked = request.headers.get("if-none-match", "")
    return asked == "*" or etag in [tag.strip().removeprefix("W/") for tag in asked.split(",")]


@router.get(
    "/v1/frames/{sha256}",
    response_class=Response,
    responses={
        **problems(404),
        200: {"description": "the picture", "content": {"image/png": {}}},
        304: {"description": "the client has it"},
    },
)
def get_frame(sha256: str, request: Request) -> Response:
    """A frame's PNG bytes. The name is the content's, so it may be kept for ever."""
    with db.reading() as session:
        png = traces.frame(session, sha256).png
    headers = {"Cache-Control": "private, max-age=31536000, immutable", "ETag": f'"{sha256}"'}
    if unchanged(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(png, media_type="image/png", headers=headers)

"""The page about errors: where the ``type`` of a problem leads."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.errors_page import page

router = APIRouter(tags=["docs"])


@router.get(
    "/docs/errors",
    response_class=Response,
    responses={200: {"description": "the page, in Markdown", "content": {"text/markdown": {}}}},
)
def errors() -> Response:
    """Every error: its code, its meaning, its HTTP status, its exit code and an example."""
    return Response(page(), media_type="text/markdown")

"""What Prometheus scrapes."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from app import db
from app.metrics import exposition
from app.problems import problems

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={**problems(), 200: {"description": "Prometheus text", "content": {"text/plain": {}}}},
)
def metrics(request: Request) -> Response:
    """Jobs, queues, workers, outbox and lead, counted now; durations of this process's requests."""
    with db.reading() as session:
        text = exposition(session, request.app.state.http_metrics)
    return Response(text, media_type=CONTENT_TYPE_LATEST)

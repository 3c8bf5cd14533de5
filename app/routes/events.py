"""A job's events: as pages, or as a stream of server-sent events that ends with the job."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import anyio
from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app import db
from app.auth import Caller
from app.errors import BadFlag, JobNotFound, TooManyStreams
from app.models import ENDED
from app.problems import problems
from app.routes.jobs import out
from app.schemas import EventOut, EventPage, JobOut
from app.store import events, jobs
from app.store.paging import MOST_ROWS

router = APIRouter(tags=["events"])

POLL_S: Final = 0.25
PING_S: Final = 15.0
"""A comment this often keeps proxies from closing a quiet stream."""
MOST_STREAMS: Final = 32
"""Open streams of one caller."""
RETRY_MS: Final = 3000
"""When a client that lost its stream comes back."""
STREAM: Final = "text/event-stream"


class Streams:
    """The streams that are open, by caller."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self.closing = False
        """The server stops: every stream ends at its next look, and its client comes back to another server."""

    @property
    def open(self) -> int:
        """How many there are."""
        return self._open.total()

    @contextmanager
    def one_more(self, caller: str) -> Iterator[None]:
        """Hold a place. Raises TooManyStreams."""
        with self._lock:
            if self._open[caller] >= MOST_STREAMS:
                raise TooManyStreams(MOST_STREAMS)
            self._open[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[caller] -= 1


@router.get(
    "/v1/jobs/{ref}/events",
    response_model=EventPage,
    responses={
        **problems(404, 409, 429),
        200: {"description": "a page, or with `Accept: text/event-stream` a stream", "content": {STREAM: {}}},
    },
)
def list_events(
    ref: str,
    request: Request,
    caller: Caller,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="number of the last event that is known")] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 200,
    last_event_id: Annotated[str | None, Header(description="for streams: goes before `after`")] = None,
) -> Any:
    """What happened to the job, oldest first."""
    if STREAM not in request.headers.get("accept", ""):
        return read_page(ref, after, limit)[0]
    if last_event_id is not None:
        after = _seq(last_event_id)
    with db.reading() as session:
        job_id = jobs.find(session, ref).id
    return EventStream(job_id, after, caller=caller, streams=request.app.state.streams)


def _seq(last_event_id: str) -> int:
    if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 9:
        raise BadFlag(f"Last-Event-ID = {last_event_id[:80]!r} is no number of an event")
    return int(last_event_id)


def read_page(ref: str, after: int, limit: int) -> tuple[EventPage, JobOut | None]:
    """A page of events, and the job once it has ended and no event is left. Raises JobNotFound."""
    with db.reading() as session:
        job = jobs.find(session, ref)  # before the events: what led to the state that is seen is then seen too
        rows = events.page(session, job.id, after=after, limit=limit)
        last = rows[-1].seq if rows else after
        ended = job.state in ENDED and last >= job.event_seq
        page = EventPage(data=[EventOut.model_validate(row) for row in rows], next_after=last, ended=ended)
        return page, out(session, job) if ended else None


class EventStream(StreamingResponse):
    """A job's events as they come, then ``done`` with the job."""

    def __init__(self, job_id: str, after: int, *, caller: str, streams: Streams) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_messages(job_id, after, streams), media_type=STREAM, headers=headers)
        self._caller, self._streams = caller, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.one_more(self._caller):
            await super().__call__(scope, receive, send)


async def _messages(job_id: str, after: int, streams: Streams) -> AsyncIterator[str]:
    yield f"retry: {RETRY_MS}\n\n"
    quiet_since = time.monotonic()
    while not streams.closing:
        try:
            page, job = await run_in_threadpool(read_page, job_id, after, MOST_ROWS)
        except JobNotFound:
            return  # removed while it was watched
        for event in page.data:
            yield f"id: {event.seq}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n"
        if job is not None:
            yield f"event: done\ndata: {job.model_dump_json()}\n\n"
            return
        if page.data:
            after, quiet_since = page.next_after, time.monotonic()
        elif time.monotonic() - quiet_since >= PING_S:
            quiet_since = time.monotonic()
            yield ": ping\n\n"
        if len(page.data) < MOST_ROWS:
            await anyio.sleep(POLL_S)

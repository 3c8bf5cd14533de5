"""What happens to every HTTP request before any route: an id, a longest body, a clock, and an answer whatever goes wrong."""

from __future__ import annotations

import logging
import secrets
import time
from typing import Final

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BodyTooLarge
from app.metrics import HttpMetrics
from app.problems import respond, unexpected

log = logging.getLogger("synthq.api")

MOST_BODY_BYTES: Final = 4 * 1024 * 1024
"""Longest request body that is read."""


class Edge:
    """The outermost middleware of the API."""

    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["request_id"] = f"req_{secrets.token_hex(8)}"
        reply = _Reply(scope, send)
        try:
            await self._answer(scope, receive, reply)
        finally:
            self.metrics.observe(scope, reply.status, reply.after_s)

    async def _answer(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        try:
            body = await _read(scope, receive)
        except BodyTooLarge as error:
            response = respond(Request(scope), status=error.status, code=error.code, detail=str(error))
            await response(scope, receive, reply)
            return
        try:
            await self.app(scope, _replay(body, receive), reply)
        except Exception:
            log.exception("request %s: %s %s", scope["request_id"], scope["method"], scope["path"])
            if reply.status:
                raise  # half an answer is out: only closing the connection tells the client so
            await unexpected(Request(scope))(scope, receive, reply)


class _Reply:
    """Sends a response on, with the request's id among its headers; remembers its status and when it began."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.send = send
        self.id = scope["request_id"].encode()
        self.status = 0
        """0 until the response has begun."""
        self.after_s = 0.0
        self._came_at = time.perf_counter()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.after_s = message["status"], time.perf_counter() - self._came_at
            message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", self.id)]}
        await self.send(message)


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises BodyTooLarge, before reading it where its length is told."""
    headers = dict(scope["headers"])
    told = headers.get(b"content-length", b"")
    if told.isdigit() and int(told) > MOST_BODY_BYTES:
        raise BodyTooLarge(MOST_BODY_BYTES)
    body = bytearray()
    if not told and b"transfer-encoding" not in headers:
        return b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BODY_BYTES:
            raise BodyTooLarge(MOST_BODY_BYTES)
        if message["type"] != "http.request" or not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body that was read, then whatever comes after it."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed

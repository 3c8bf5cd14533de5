"""What happens to every request before any route: who may call, and an answer in JSON whatever goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import NotAllowed, SynthqError, Unavailable, did_you_mean
from workers.inference.server.wire import Gone, encode, problem, status_of, told

log = logging.getLogger("synthq.engine")

OPEN: Final = frozenset({"/health", "/metrics"})
"""Paths that want no key."""
WANTED: Final = (
    "this engine wants its key, and the request had none that fits; send `Authorization: Bearer KEY` (SYNTHQ_ENGINE_KEY)"
)
HEADERS: Final = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}


def as_json(status: int, value: object, headers: dict[str, str] | None = None) -> Response:
    """A response whose body is a value, with the headers that its status wants."""
    return Response(encode(value), status, {**HEADERS.get(status, {}), **(headers or {})}, media_type="application/json")


class Edge:
    """The outermost layer."""

    def __init__(
        self, app: ASGIApp, *, key: str, paths: Iterable[str], counted: Collection[str], refused: Callable[[int], None]
    ) -> None:
        """``key`` empty: this machine alone is answered. ``paths``: those there are, for who misspells one.

        ``refused`` is called with the status of each request to a path of ``counted`` that gets no answer to what it asks.
        """
        self._app, self._paths = app, tuple(paths)
        self._counted, self._refused = frozenset(counted), refused
        self._right = _digest(f"Bearer {key}".encode()) if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self  # has the router raise what it refuses
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, sending)
        except SynthqError as error:
            self._count(scope, 0 if isinstance(error, Gone) else status_of(error))
            await as_json(status_of(error), problem(error))(scope, receive, sending)
        except asyncio.CancelledError:  # the server stops and has waited as long as it does
            if begun:
                raise
            self._count(scope, 503)
            await as_json(503, problem(Unavailable("the engine stops, and this was not done yet; ask again later")))(
                scope, receive, sending
            )
        except HTTPException as error:
            await self._no_route(scope, error)(scope, receive, sending)
        except Exception as error:
            log.exception("%s %s", scope["method"], scope["path"][:200])
            self._count(scope, 500)
            if begun:
                raise  # half an answer is out: only closing the connection tells the caller so
            await as_json(500, problem(error))(scope, receive, sending)

    def _check(self, scope: Scope) -> None:
        """Let a request with the key through; where there is no key, one of this machine. Raises NotAllowed, LoopbackOnly."""
        if scope["path"] in OPEN:
            return
        if self._right is None:
            from app.auth import only_this_machine  # brings the store's libraries; an engine with a key does without them

            only_this_machine(Request(scope), "set SYNTHQ_ENGINE_KEY")
            return
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(_digest(sent), self._right):
            raise NotAllowed(WANTED)

    def _count(self, scope: Scope, status: int) -> None:
        """Count a request without an answer; with status 0 nobody waits for one."""
        if status and scope["path"] in self._counted:
            self._refused(status)

    def _no_route(self, scope: Scope, error: HTTPException) -> Response:
        """What the router refuses, in our words."""
        path, headers = scope["path"][:200], dict(error.headers or {})
        said = str(error.detail)
        if error.status_code == 404:
            said = f"no path {path!r}{did_you_mean(path, self._paths)}"
        elif error.status_code == 405:
            said = f"{path} does not take {scope['method'][:20]} (it takes {headers['Allow']})"
        return as_json(error.status_code, told(error.status_code, said), headers)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()

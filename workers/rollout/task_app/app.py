"""The HTTP side of the task app. It checks keys, reads bytes and sends bytes; processes of the pool do the rest.

Errors are ``{"detail": {"error": {"code", "message"}}}``, as the contract has them.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from app.auth import only_this_machine
from app.errors import BodyTooLarge, InvalidInput, NotAllowed, SynthqError, did_you_mean
from app.routes import known
from app.settings import get_settings
from app.specs.seeds import MAX_SEED
from workers.rollout.task_app import schemas, tasks, wire
from workers.rollout.task_app.pool import Pool

log = logging.getLogger("synthq.task_app")

MOST_BODY_BYTES: Final = 4 * 1024 * 1024
"""Longest body that is read."""
MOST_SEEDS: Final = 100
"""Most tasks that one request describes."""
GONE: Final = 499
"""The status of an answer that nobody waits for."""
WANTED: Final = (
    "the task app wants its key, and the request had none that fits; send `X-API-Key: KEY` or `Authorization: Bearer KEY`"
)
NO_KEYS: Final = "set SYNTHQ_TASK_APP_KEYS or ENVIRONMENT_API_KEY"

_key = APIKeyHeader(name="X-API-Key", auto_error=False, description="A key of the task app.")
_keys = APIKeyHeader(
    name="X-API-Keys", scheme_name="APIKeysHeader", auto_error=False, description="A comma list; one that fits will do."
)
_bearer = HTTPBearer(auto_error=False, description="A key of the task app.")


# -- who may call ----------------------------------------------------------------------------------------------------------


def _sent(
    key: Annotated[str | None, Depends(_key)],
    keys: Annotated[str | None, Depends(_keys)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> list[str]:
    """Every key that a request was sent with."""
    listed = [key or "", *(keys or "").split(","), bearer.credentials if bearer else ""]
    return [text.strip() for text in listed if text.strip()]


Sent = Annotated[list[str], Depends(_sent)]


def _fits(sent: list[str]) -> bool:
    """Whether one of the keys is right. All are compared with all: the time taken must not tell which."""
    accepted = [_digest(key) for key in get_settings().accepted_by_task_app]
    return sum(hmac.compare_digest(_digest(key), right) for key in sent for right in accepted) > 0


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def allowed(request: Request, sent: Sent) -> None:
    """Let a request with a right key through; where there is no key, one of this machine. Raises NotAllowed, LoopbackOnly."""
    if not get_settings().accepted_by_task_app:
        only_this_machine(request, NO_KEYS)
    elif not _fits(sent):
        raise NotAllowed(WANTED)


# -- routes ----------------------------------------------------------------------------------------------------------------


def create_app() -> FastAPI:
    """The whole task app."""
    app = FastAPI(
        title="synthq task app",
        version=version("synthq"),
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    checks = [Depends(known.only_known_parameters)]
    guarded = [Depends(allowed), *checks]
    app.add_api_route("/", root, methods=["GET"], response_model=schemas.Root, dependencies=checks)
    app.add_api_route("/", root, methods=["HEAD"], include_in_schema=False)
    for path, name in (("/health", "health"), ("/api/health", "api_health")):
        app.add_api_route(
            path,
            health,
            name=name,
            response_model=schemas.Health,
            responses=schemas.errors(401),
            openapi_extra={"security": [{}]},  # beside those of the keys: none will do
            dependencies=checks,
        )
    app.add_api_route("/info", info, response_model=schemas.Info, responses=schemas.errors(401, 403, 422), dependencies=guarded)
    app.add_api_route("/task_info", task_info, responses=schemas.TASKS, dependencies=guarded)
    app.add_api_route(
        "/rollout",
        rollout,
        methods=["POST"],
        responses=schemas.ROLLOUT,
        openapi_extra={"requestBody": schemas.rollout_body()},
        dependencies=guarded,
    )
    app.add_api_route(
        "/done",
        done,
        methods=["POST"],
        response_model=schemas.Done,
        responses=schemas.errors(401, 403, 422),
        dependencies=guarded,
    )
    app.add_exception_handler(SynthqError, _deliberate)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.openapi()
    app.state.pool = Pool(get_settings().task_app_processes)
    yield
    await app.state.pool.close()


async def root() -> Any:
    """That it is here."""
    return {"status": "ok", "service": tasks.SERVICE}


async def health(sent: Sent) -> Any:
    """That it is well. Nobody needs a key for this; one that is sent is tried."""
    required = bool(get_settings().accepted_by_task_app)
    if required and sent and not _fits(sent):
        raise NotAllowed(WANTED)
    return {"healthy": True, "auth": {"required": required}}


async def info() -> Any:
    """What it has."""
    return tasks.info()


Seeds = Annotated[list[Annotated[int, Query(ge=0, le=MAX_SEED)]], Query(max_length=MOST_SEEDS)]


async def task_info(request: Request, seed: Seeds = [], seeds: Seeds = []) -> Response:  # noqa: B006 - FastAPI copies them
    """Without a seed the set of tasks; with one its task; with several, by either name, a list."""
    asked = [*seed, *seeds]
    if not asked:
        return JSONResponse(tasks.taskset())
    answer = await _while_wanted(request, _pool(request).ask(wire.TASKS, wire.encode(asked)))
    if len(asked) == 1 and answer.status_code == 200:
        return Response(bytes(answer.body)[1:-1], media_type="application/json")
    return answer


async def rollout(request: Request) -> Response:
    """Play one episode."""
    body = await _body(request)
    return await _while_wanted(request, _pool(request).ask(wire.ROLLOUT, body))


async def done(request: Request) -> Any:
    """A sign for those who coordinate; it changes nothing."""
    await _body(request)
    return {"ok": True, "service": tasks.SERVICE}


def _pool(request: Request) -> Pool:
    pool: Pool = request.app.state.pool
    return pool


async def _body(request: Request) -> bytes:
    """The whole body. Raises BodyTooLarge, before reading it where its length is told."""
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told[:20]) > MOST_BODY_BYTES:
        raise BodyTooLarge(MOST_BODY_BYTES)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY_BYTES:
            raise BodyTooLarge(MOST_BODY_BYTES)
    return bytes(body)


async def _while_wanted(request: Request, work: Awaitable[wire.Packet]) -> Response:
    """The answer as it came from a player; nothing is played on for a caller who is gone."""
    working, left = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([working, left], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return Response(status_code=GONE)
        packet = working.result()
        return Response(packet.body, status_code=packet.code, media_type="application/json")
    finally:
        for task in (working, left):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# -- errors ----------------------------------------------------------------------------------------------------------------


def _told(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return Response(wire.encode(wire.problem(code, message)), status_code=status, headers=headers, media_type="application/json")


def _deliberate(request: Request, error: Exception) -> Response:
    assert isinstance(error, SynthqError)
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(error.status)
    return _told(error.status, error.code, str(error), headers)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    said = f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}, not {str(first.get('input'))[:60]!r}"
    return _told(InvalidInput.status, "invalid_request", said)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 404:
        return _told(404, "no_such_path", f"no path {path!r}{did_you_mean(path, known.paths(request))}")
    if error.status_code == 405:
        methods = ", ".join(known.methods(request))
        return _told(
            405, "method_not_allowed", f"{path} does not take {request.method[:20]} (it takes {methods})", {"Allow": methods}
        )
    return _told(error.status_code, "http_error", str(error.detail))


def _unexpected(request: Request, error: Exception) -> Response:
    return _told(500, "internal_error", "the task app met an error that it did not expect; its log tells more")

"""Builds the FastAPI app, and runs it: ``python -m app.main``.

The API writes rows and answers questions about rows. It sends nothing to the broker but a nudge, from a thread of its own, so a
broker that is slow, frozen or gone slows no request down.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from app import db, migrate
from app.auth import authenticate, check_address
from app.edge import Edge
from app.errors import SynthqError
from app.logs import set_up_logging
from app.metrics import HttpMetrics
from app.problems import add_handlers
from app.routes import (
    artifacts,
    compare,
    course,
    docs,
    estimates,
    events,
    frames,
    health,
    jobs,
    keys,
    metrics,
    models,
    traces,
    uploads,
    workers,
)
from app.routes.known import only_known_parameters
from app.schemas import Problem
from app.settings import get_settings

STOP_S = 5
"""How long requests that are being answered may keep a stopping server."""


def create_app() -> FastAPI:
    """The whole API. It touches the database only when the first request comes."""
    app = FastAPI(
        title="synthq",
        version=version("synthq"),
        lifespan=_lifespan,
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
    )
    app.state.streams = events.Streams()
    app.state.http_metrics = HttpMetrics()
    for area in (health, docs):
        app.include_router(area.router, dependencies=[Depends(only_known_parameters)])
    for area in (jobs, estimates, course, compare, events, traces, frames, artifacts, uploads, models, workers, keys, metrics):
        app.include_router(area.router, dependencies=[Depends(authenticate), Depends(only_known_parameters)])
    add_handlers(app)
    app.add_middleware(Edge, metrics=app.state.http_metrics)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.openapi()  # built here rather than in somebody's first request
    yield
    db.dispose()


def _operation_id(route: APIRoute) -> str:
    return route.name


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        problem = Problem.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas |= problem.pop("$defs", {})
        schemas["Problem"] = problem
        app.openapi_schema = document
    return app.openapi_schema


class Server(uvicorn.Server):
    """Tells its address on stdout once it listens; ends event streams when it is told to stop."""

    def __init__(self, config: uvicorn.Config, streams: events.Streams) -> None:
        super().__init__(config)
        self._streams = streams

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._streams.closing = True
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for server in getattr(self, "servers", []):
            host, port = server.sockets[0].getsockname()[:2]
            sys.stdout.write(f"http://{f'[{host}]' if ':' in host else host}:{port}\n")
            sys.stdout.flush()


def run() -> None:
    """Serve the API until SIGINT or SIGTERM. Raises BadFlag for an open address without a key."""
    settings = get_settings()
    set_up_logging()
    migrate.upgrade()
    check_address()
    app = create_app()
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=STOP_S,
    )
    Server(config, app.state.streams).run()


def main() -> int:
    """``python -m app.main``."""
    try:
        run()
    except SynthqError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

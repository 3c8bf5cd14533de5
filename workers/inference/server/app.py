"""The routes of the engine's server. They read bytes and send bytes; ``service`` does the rest."""

from __future__ import annotations

from importlib.metadata import version

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from app.errors import BodyTooLarge, InvalidInput
from workers.inference.server.bodies import BatchBody, LoadBody, UnloadBody
from workers.inference.server.edge import Edge, as_json
from workers.inference.server.resident import Resident
from workers.inference.server.wire import MOST_BODY_BYTES, Gone, checked, parse
from workers.transport.generate import BATCH, CHAT


def create_app(resident: Resident, *, key: str) -> Edge:
    """The whole server of one model; ``key`` empty: this machine alone is answered."""
    routes = Routes(resident).every()
    router = Router(routes, redirect_slashes=False, lifespan=resident.lifespan)
    paths = [route.path for route in routes]
    return Edge(router, key=key, paths=paths, counted=(CHAT, BATCH), refused=resident.refused)


class Routes:
    """What is answered on each path."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident

    def every(self) -> list[Route]:
        """The routes."""
        return [
            Route(CHAT, self.chat, methods=["POST"]),
            Route(BATCH, self.batch, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/load_lora_adapter", self.load_adapter, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self.unload_adapter, methods=["POST"]),
            Route("/health", self.health),
            Route("/load", self.load),
            Route("/metrics", self.metrics),
            Route("/version", self.version),
        ]

    async def chat(self, request: Request) -> Response:
        """One reply."""
        service = self._resident.service
        body = parse(await _body(request))
        return Response(await service.one(body, _gone(request)), media_type="application/json")

    async def batch(self, request: Request) -> Response:
        """Many replies, each in a line of its own as soon as it is done."""
        service = self._resident.service
        requests = checked(BatchBody, parse(await _body(request))).requests
        if len(requests) > service.most_in_batch:
            raise InvalidInput(f"requests: {len(requests)} in one body; the most is {service.most_in_batch}")
        return StreamingResponse(service.many(requests), media_type="application/x-ndjson")

    async def models(self, request: Request) -> Response:
        """What is served: the base and its adapters."""
        return as_json(200, {"object": "list", "data": self._resident.service.models()})

    async def load_adapter(self, request: Request) -> Response:
        """Serve one more adapter."""
        service, body = self._resident.service, checked(LoadBody, parse(await _body(request)))
        return PlainTextResponse(await service.load(body.lora_name, body.lora_path))

    async def unload_adapter(self, request: Request) -> Response:
        """Serve one adapter less."""
        service, body = self._resident.service, checked(UnloadBody, parse(await _body(request)))
        return PlainTextResponse(await service.unload(body.lora_name))

    async def health(self, request: Request) -> Response:
        """200: replies can be had; 503: the model is being loaded; 500: the engine has died."""
        return as_json(*self._resident.health())

    async def load(self, request: Request) -> Response:
        """How busy it is."""
        return as_json(200, self._resident.service.load_figures())

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(self._resident.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def version(self, request: Request) -> Response:
        """Whose engine this is."""
        return as_json(200, {"version": version("synthq"), "engine": "transformers"})


async def _body(request: Request) -> bytes:
    """The whole body. Raises BodyTooLarge, before reading it where its length is told."""
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told[:20]) > MOST_BODY_BYTES:
        raise BodyTooLarge(MOST_BODY_BYTES)
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BODY_BYTES:
                raise BodyTooLarge(MOST_BODY_BYTES)
    except ClientDisconnect:
        raise Gone from None
    return bytes(body)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

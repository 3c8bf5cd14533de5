"""The model in this process, from the first byte of it that is read to the end. Meanwhile the server says how it is."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import model_folder
from app.errors import SynthqError, Unavailable
from workers.inference.server.figures import Figures
from workers.inference.server.options import Options
from workers.inference.server.service import Service

if TYPE_CHECKING:
    from workers.inference.server.build import Built

log = logging.getLogger("synthq.engine")


class ModelLoading(Unavailable):
    """The model is not there yet."""


class Resident:
    """One model, its engine and what serves it."""

    def __init__(self, options: Options, *, ready: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """``ready`` is called in the event loop when replies can be had; ``failed`` when they never will be."""
        self._options, self._ready, self._failed = options, ready, failed
        self._figures = Figures()
        self._service: Service | None = None

    @property
    def service(self) -> Service:
        """What serves. Raises ModelLoading while there is nothing to serve."""
        if self._service is None:
            raise ModelLoading(f"the model {self._options.model!r} is being loaded; GET /health tells when it is there")
        return self._service

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Load when the server starts, stop the engine when it ends."""
        loop = asyncio.get_running_loop()
        # a thread that the process does not wait for: loading cannot be broken off
        threading.Thread(target=self._load, args=(loop,), name="load", daemon=True).start()
        yield
        if self._service is not None:
            await asyncio.to_thread(self._service.core.stop)

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            if self._options.model.startswith("/"):
                model_folder.read(Path(self._options.model))  # what is no model is told before the seconds of the next line
            from workers.inference.server.build import build  # torch and its kin

            built = build(self._options)
        except Exception as error:  # it ends the process, which the main thread does
            if not isinstance(error, SynthqError):
                log.exception("the model %s cannot be served", self._options.model)
            loop.call_soon_threadsafe(self._failed, error)
            return
        loop.call_soon_threadsafe(self._serve, built)

    def _serve(self, built: Built) -> None:
        self._service = Service(built, self._figures)
        self._ready()

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and body of ``GET /health``."""
        if self._service is None:
            return 503, {"status": "loading"}
        if (why := self._service.why_dead()) is not None:
            return 500, {"status": "dead", "error": why}
        return 200, {"status": "ok"}

    def refused(self, status: int) -> None:
        """Count one request that gets no reply."""
        self._figures.refused(status)

    def exposition(self) -> bytes:
        """The text of ``/metrics``."""
        return self._figures.exposition(self._service.engine_figures() if self._service is not None else {})

"""The engine as the routes see it: bodies in, answers out.

A request that comes by itself is read, pictures and all, in the event loop, which takes some milliseconds; many in one body are
read in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.errors import InvalidInput, NotFound, SynthqError
from workers.inference.core.request import Generated
from workers.inference.server.ask import Ask
from workers.inference.server.figures import Figures
from workers.inference.server.mailbox import Mailbox
from workers.inference.server.wire import Gone, encode, problem, status_of

if TYPE_CHECKING:
    from workers.inference.core import Ticket
    from workers.inference.server.build import Built

log = logging.getLogger("synthq.engine")

Result = Generated | Exception
LEAST_MOST: Final = 256
"""Requests that one body may always hold: as many as one play step has episodes under way."""
READ_AT_ONCE: Final = 64
"""Requests of one body that are read, in another thread, before any of them is submitted: the engine begins with a full batch."""


class Service:
    """Serves one model. Made in the event loop that it serves."""

    def __init__(self, built: Built, figures: Figures) -> None:
        self.core, self.capacity = built.core, built.capacity
        self.most_in_batch = max(LEAST_MOST, 4 * built.capacity)
        self._inputs, self._reader, self._teller, self._figures = built.inputs, built.reader, built.teller, figures
        self._since = int(time.time())
        self._mailbox: Mailbox[Result] = Mailbox(asyncio.get_running_loop())
        self._adapters = asyncio.Lock()

    # -- replies -------------------------------------------------------------------------------------------------------

    async def one(self, body: Any, gone: Awaitable[None]) -> bytes:
        """The answer to one request. Raises what is wrong with it, and Gone when ``gone`` comes first."""
        began = time.perf_counter()
        answered: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        leaving = asyncio.ensure_future(gone)
        ticket: Ticket | None = None
        try:
            ask = self._reader.read(body)
            ticket = self._submit(ask, lambda result: None if answered.done() else answered.set_result(result))
            await asyncio.wait((answered, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise Gone
            return self._answer(ask, answered.result(), began)
        finally:
            leaving.cancel()
            if ticket is not None and not answered.done():
                self._cancel(ticket)

    async def many(self, bodies: list[Any]) -> AsyncIterator[bytes]:
        """A line for each request as soon as it is done, lines that are there at once in one piece."""
        self._figures.batch(len(bodies))
        began = time.perf_counter()
        asks: dict[int, Ask] = {}
        waiting: dict[int, Ticket] = {}
        done: list[tuple[int, Result]] = []
        some = asyncio.Event()

        def receiver(index: int) -> Callable[[Result], None]:
            def receive(result: Result) -> None:
                done.append((index, result))
                some.set()

            return receive

        def lines() -> bytes:
            told = [self._line(index, asks.pop(index, None), result, began) for index, result in done]
            for index, _ in done:
                waiting.pop(index, None)
            done.clear()
            some.clear()
            return b"".join(told)

        try:
            for first in range(0, len(bodies), READ_AT_ONCE):
                some_read = await asyncio.to_thread(self._read, bodies[first : first + READ_AT_ONCE])
                for index, ask in enumerate(some_read, first):
                    receive = receiver(index)
                    try:
                        if isinstance(ask, Exception):
                            raise ask
                        asks[index], waiting[index] = ask, self._submit(ask, receive)
                    except Exception as error:  # noqa: BLE001 - one request must not spoil the others; the line tells it
                        receive(error)
                if done:
                    yield lines()
            while waiting or done:
                await some.wait()
                yield lines()
        finally:
            for ticket in waiting.values():
                self._cancel(ticket)

    def _read(self, bodies: list[Any]) -> list[Ask | Exception]:
        """Requests, or what is wrong with them."""

        def read(body: Any) -> Ask | Exception:
            try:
                return self._reader.read(body)
            except Exception as error:  # noqa: BLE001 - as above
                return error

        return [read(body) for body in bodies]

    def _submit(self, ask: Ask, receive: Callable[[Result], None]) -> Ticket:
        return self.core.submit(ask.prompt, ask.sampling, ask.model, lambda result: self._mailbox.post(receive, result))

    def _cancel(self, ticket: Ticket) -> None:
        self.core.cancel(ticket)
        self._figures.cancelled()

    def _answer(self, ask: Ask | None, result: Result, began: float) -> bytes:
        """The body of an answer. Raises what there is in place of a reply; ``ask`` is None only then."""
        if isinstance(result, Exception):
            raise result
        assert ask is not None
        replied = time.perf_counter()
        body = encode(self._teller.tell(ask, result))
        now = time.perf_counter()
        self._figures.served(ask, result, answer_s=now - replied, whole_s=now - began)
        return body

    def _line(self, index: int, ask: Ask | None, result: Result, began: float) -> bytes:
        try:
            status, body = 200, self._answer(ask, result, began)
        except Exception as error:  # as above
            status, body = status_of(error), encode(problem(error))
            self._figures.refused(status)
            if not isinstance(error, SynthqError):
                log.error("request %d of a batch", index, exc_info=error)
        return b'{"index":%d,"status":%d,"body":%b}\n' % (index, status, body)

    # -- adapters ------------------------------------------------------------------------------------------------------

    async def load(self, name: str, path: str) -> str:
        """Serve an adapter under a new name; the sentence that says so. Raises InvalidInput, NotFound, Conflict: no room."""
        async with self._adapters:
            if any(model["id"] == name for model in self.core.models()):
                raise InvalidInput(f"{name!r} is served already, and the weights behind a name never change; take a new name")
            if not Path(path).is_dir():
                raise NotFound(f"there is no folder {path!r} here")
            await asyncio.to_thread(self.core.load_adapter, name, path)
        log.info("loaded %s from %s", name, path)
        return f"Success: LoRA adapter '{name}' added successfully."

    async def unload(self, name: str) -> str:
        """Serve an adapter no more; the sentence that says so. Raises NotFound, Conflict when requests use it."""
        async with self._adapters:
            await asyncio.to_thread(self.core.unload_adapter, name)
        log.info("unloaded %s", name)
        return f"Success: LoRA adapter '{name}' removed successfully."

    # -- how it is -----------------------------------------------------------------------------------------------------

    def models(self) -> list[dict[str, Any]]:
        """The base and its adapters, as OpenAI lists models, each with the sha256 that answers tell as their version."""
        return [
            {
                "id": model["id"],
                "object": "model",
                "created": self._since,
                "owned_by": "synthq",
                "root": model["path"],
                "parent": model["parent"],
                "max_model_len": self.core.max_model_len,
                "sha256": model["sha256"],
            }
            for model in self.core.models()
        ]

    def why_dead(self) -> str | None:
        """Why the engine will never reply again; None while it does."""
        return self.core.fault

    def engine_figures(self) -> dict[str, Any]:
        """What the engine and the reader of prompts count, beside what is counted here."""
        return {**self.core.figures(), "inputs": self._inputs.figures()}

    def load_figures(self) -> dict[str, int]:
        """How busy it is."""
        figures = self.core.figures()
        return {"running": figures["running"], "waiting": figures["waiting"], "capacity": self.capacity}

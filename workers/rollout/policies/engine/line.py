"""HTTP to engines: one pooled client, and many requests in one where the engine takes that.

Requests that are made within a moment go to synthq's own engine as one; each is answered as soon as it is done.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from workers.transport.generate import BATCH, CHAT

GATHER_S: Final = 0.001
"""How long a request waits for others to go with it."""
MOST_TOGETHER: Final = 64
"""Most requests that go as one."""
MOST_TOGETHER_BYTES: Final = 32 * 1024 * 1024
"""Most bytes that go as one, of several; a larger request goes by itself."""
CONNECT_S: Final = 5.0
KEEP_S: Final = 3.0
"""How long an idle connection is kept; servers close theirs after 5 s, and one that closes just then loses a request."""
MOST_LINE_BYTES: Final = 64 * 1024 * 1024
JSON: Final = {"Content-Type": "application/json"}
ALONE: Final = frozenset({400, 413})
"""Statuses of a body with several requests that say nothing of each: the whole is too large, or one of them spoils it."""


class Lost(Exception):
    """The line broke, or was never there, so that no answer comes. Stays inside this package."""

    def __init__(self, why: str, *, sent: bool = True) -> None:
        super().__init__(why)
        self.sent = sent
        """The engine may have had the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """What came back for one request."""

    status: int
    value: Any
    """What its JSON says; None when it is not JSON."""
    text: str
    retry_after_s: float | None
    latency_ms: float


@dataclass(slots=True)
class _Waiting:
    body: bytes
    """Its JSON."""
    answer: asyncio.Future[Got]
    since: float

    def got(self, status: int, value: Any, text: str, retry_after_s: float | None = None) -> None:
        if not self.answer.done():
            ms = (time.monotonic() - self.since) * 1e3
            self.answer.set_result(Got(status=status, value=value, text=text, retry_after_s=retry_after_s, latency_ms=ms))

    def lost(self, why: Lost) -> None:
        if not self.answer.done():
            self.answer.set_exception(why)


class Line:
    """The connections of one event loop to whatever engines there are."""

    def __init__(self, key: str) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_S)
        self._http = httpx.AsyncClient(
            headers={"User-Agent": "synthq"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            limits=limits,
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            trust_env=False,  # engines are inside, and a proxy is for the world outside
        )
        self._gathered: dict[str, list[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, url: str, body: Mapping[str, Any], *, together: bool) -> asyncio.Future[Got]:
        """Send a request to the engine at ``url``; ``together``: with others, if it takes many as one.

        The answer is a future: its result, or Lost. Cancelled, the request is taken back unless others went with it. Raises
        ValueError for a body with a number that JSON has not.
        """
        loop = asyncio.get_running_loop()
        written = json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
        waiting = _Waiting(written, loop.create_future(), time.monotonic())
        if not together:
            self._start(self._one(url, waiting), [waiting])
            return waiting.answer
        if sum(len(each.body) for each in self._gathered.get(url, ())) + len(written) > MOST_TOGETHER_BYTES:
            self._send(url)
        gathered = self._gathered.setdefault(url, [])
        gathered.append(waiting)
        if len(gathered) == 1:
            loop.call_later(GATHER_S, self._send, url)
        elif len(gathered) == MOST_TOGETHER:
            self._send(url)
        return waiting.answer

    async def close(self) -> None:
        """Close the connections. What is still asked for is taken back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def _send(self, url: str) -> None:
        gathered = [each for each in self._gathered.pop(url, ()) if not each.answer.done()]
        if gathered:
            self._start(self._many(url, gathered), gathered)

    def _start(self, work: Any, asked: list[_Waiting]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def given_up(answer: asyncio.Future[Got]) -> None:
            if answer.cancelled() and all(each.answer.done() for each in asked):
                task.cancel()

        for each in asked:
            each.answer.add_done_callback(given_up)

    async def _one(self, url: str, waiting: _Waiting) -> None:
        try:
            response = await self._http.post(url + CHAT, content=waiting.body, headers=JSON)
            waiting.got(response.status_code, _read(response.content), response.text, _retry_after_s(response))
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody is left waiting for an answer that will not come
            waiting.lost(_lost(error))

    async def _many(self, url: str, asked: list[_Waiting]) -> None:
        why = Lost("the answer ended before everything in it was told")
        try:
            whole = b'{"requests":[' + b",".join(each.body for each in asked) + b"]}"
            async with self._http.stream("POST", url + BATCH, content=whole, headers=JSON) as response:
                if response.status_code in ALONE and len(asked) > 1:
                    self._apart(url, asked)
                    return
                if response.status_code != 200:
                    content = await response.aread()
                    for each in asked:
                        each.got(response.status_code, _read(content), response.text, _retry_after_s(response))
                async for line in _lines(response):
                    told = _read(line)
                    if not isinstance(told, dict) or told.get("index") not in range(len(asked)):
                        raise httpx.DecodingError("a line of the answer is not of its form")
                    asked[told["index"]].got(told.get("status", 200), told.get("body"), line.decode("utf-8", "replace"))
        except Exception as error:  # noqa: BLE001 - as above
            why = _lost(error)
        for each in asked:
            each.lost(why)

    def _apart(self, url: str, asked: list[_Waiting]) -> None:
        """Ask each by itself, so that each hears what is said of it."""
        for each in asked:
            if not each.answer.done():
                self._start(self._one(url, each), [each])


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """The lines of a body, as they come. Only line feeds end one: JSON's texts may hold what else Unicode calls a line's end."""
    if response.is_stream_consumed:
        return
    left = b""
    async for piece in response.aiter_bytes():
        *whole, left = (left + piece).split(b"\n")
        for line in whole:
            if line:
                yield line
        if len(left) > MOST_LINE_BYTES:
            raise httpx.DecodingError(f"a line of the answer is longer than {MOST_LINE_BYTES} bytes")
    if left:
        yield left


def _read(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return None


def _lost(error: Exception) -> Lost:
    sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return Lost(str(error) or type(error).__name__, sent=sent)

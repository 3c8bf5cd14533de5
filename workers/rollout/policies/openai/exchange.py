"""One question to an endpoint, asked until it is answered: what is tried again, how long, and what it may cost.

One deadline covers every attempt and every wait. A request that was answered with an HTTP error costs nothing; of one whose line
broke nobody knows, so what was set aside for it stays so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from app.errors import BudgetSpent, EngineFailed, EngineRefused
from app.store.spending import Hold, JobMeter, Tokens
from workers.rollout.policies.openai import answer, waits
from workers.rollout.policies.openai.body import Body, Dialect
from workers.rollout.policies.openai.endpoint import Answered, Broken, Endpoint, NotSent
from workers.rollout.policies.openai.refusal import Refusal

UNREADABLE_TRIES: Final = 3
"""Answers without a choice that are taken before the turn gets none."""
PURSE_S: Final = 0.25
"""Pause before another look into a purse that only the requests under way keep closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a question."""

    value: dict[str, Any] | None
    """The answer's JSON; None when there is none of use, and ``problem`` says why."""
    problem: str
    attempts: int
    latency_ms: float
    """Of the attempt that was answered."""
    request_id: str | None
    used: Tokens
    estimated: bool
    """The answer did not say all of what it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Again:
    """An attempt that did not bring an answer, and may be followed by another."""

    why: str
    wait_s: float | None = None
    """Wait that the server asks for."""
    at_once: bool = False
    last: Answer | None = None
    """What the turn gets if there is no time for another attempt."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One question."""

    endpoint: Endpoint
    dialect: Dialect
    meter: JobMeter | None
    model: str
    body: Body
    most: Tokens
    deadline_s: float
    draw: Callable[[int], float]
    """0 to 1, by the number of the attempt: spreads the pauses, the same way whenever the turn is played."""
    learned: list[str] = field(default_factory=list)
    """What this endpoint turned out to take otherwise."""
    _attempts: int = 0
    _unreadable: int = 0
    _last: str = ""
    _until: float = 0.0

    async def answer(self) -> Answer:
        """Ask until there is an answer. Raises EngineFailed, EngineRefused or BudgetSpent."""
        self._until = time.monotonic() + self.deadline_s
        try:
            async with asyncio.timeout(self.deadline_s) as limit:
                return await self._until_answered()
        except TimeoutError:
            if not limit.expired():
                raise
            raise EngineFailed(self._too_late()) from None

    async def _until_answered(self) -> Answer:
        while True:
            self._attempts += 1
            found = await self._once()
            if isinstance(found, Answer):
                return found
            self._last = found.why
            if found.at_once:
                continue
            pause_s = waits.pause_s(self._attempts, self.draw(self._attempts), found.wait_s)
            left_s = self._until - time.monotonic()
            if pause_s < left_s:
                await asyncio.sleep(pause_s)
            elif found.last is not None:
                return found.last
            else:
                raise EngineFailed(self._no_time_for(pause_s, left_s, told=found.wait_s is not None))

    async def _once(self) -> Answer | _Again:
        hold = await self._hold()
        began = time.monotonic()
        try:
            got = await self.endpoint.post(self.dialect.spell(self.body), timeout_s=max(0.001, self._until - began))
        except (NotSent, EngineRefused) as error:
            self._release(hold)
            if isinstance(error, EngineRefused):
                raise
            return _Again(why=str(error))
        except Broken as error:
            return _Again(why=str(error))
        latency_ms = (time.monotonic() - began) * 1e3
        refusal = self._refusal(got)
        if refusal is None:
            return self._answered(got, hold, latency_ms)
        self._release(hold)
        return self._refused(refusal, got, latency_ms)

    def _refusal(self, got: Answered) -> Refusal | None:
        """What the server refuses, also where it says so under a status of success."""
        words = self.endpoint.words
        if not 200 <= got.status < 300:
            return Refusal.of(got.status, got.value, got.text, words)
        error = got.value.get("error") if isinstance(got.value, dict) and "choices" not in got.value else None
        if error is None:
            return None
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 300 <= code < 600 else 502
        return Refusal.of(status, got.value, got.text, words)

    def _answered(self, got: Answered, hold: Hold | None, latency_ms: float) -> Answer | _Again:
        used, estimated = answer.usage(got.value, self.most)
        if self.meter and hold:
            self.meter.settle(hold, used)
        problem = answer.fault(got.value)
        found = self._made(got, problem, latency_ms, used, estimated)
        if problem is None:
            return found
        self._unreadable += 1
        return found if self._unreadable >= UNREADABLE_TRIES else _Again(why=problem, last=found)

    def _refused(self, refusal: Refusal, got: Answered, latency_ms: float) -> Answer | _Again:
        lesson = self.dialect.learn(refusal, self.body)
        if lesson is not None:
            self.learned.append(lesson)
            return _Again(why=str(refusal), at_once=True)
        if refusal.filtered:
            problem = f"the endpoint's content filter refuses the prompt: {refusal.message}"
            return self._made(got, problem, latency_ms, Tokens(input=0, output=0), False)
        if refusal.passes:
            return _Again(why=str(refusal), wait_s=waits.told_s(got.headers, now=time.time()))
        who = f"{self.endpoint.host} refuses {self.model}"
        if 300 <= refusal.status < 400:
            where = got.headers.get("location", "elsewhere")
            raise EngineRefused(f"{who}: it sends the request on to {where} (HTTP {refusal.status}), and no key follows there")
        raise (EngineRefused if refusal.blocks else EngineFailed)(f"{who}: {refusal}")

    def _made(self, got: Answered, problem: str | None, latency_ms: float, used: Tokens, estimated: bool) -> Answer:
        return Answer(
            value=got.value if problem is None else None,
            problem=problem or "",
            attempts=self._attempts,
            latency_ms=latency_ms,
            request_id=got.headers.get("x-request-id") or got.headers.get("request-id"),
            used=used,
            estimated=estimated,
        )

    async def _hold(self) -> Hold | None:
        """Set aside the most that the request can take. What others have set aside and do not use may make room for it."""
        while self.meter is not None:
            try:
                return self.meter.hold(self.most)
            except BudgetSpent as spent:
                if not spent.for_now or self._until - time.monotonic() < 2 * PURSE_S:
                    raise
            await asyncio.sleep(PURSE_S)
        return None

    def _release(self, hold: Hold | None) -> None:
        if self.meter and hold:
            self.meter.release(hold)

    def _too_late(self) -> str:
        return f"no answer of {self.endpoint.host} to {self.model} within deadline_s = {self.deadline_s:g}{self._tried()}"

    def _no_time_for(self, pause_s: float, left_s: float, *, told: bool) -> str:
        if not told:
            return self._too_late()
        return (
            f"{self.endpoint.host} asks to wait {pause_s:.1f} s before {self.model} is asked again, and {max(0.0, left_s):.1f} s "
            f"of deadline_s = {self.deadline_s:g} are left{self._tried()}; "
            "raise policy_config.deadline_s or lower eval.concurrency or eval.episodes_in_flight"
        )

    def _tried(self) -> str:
        if not self._last:
            return ""
        return f" ({self._attempts} attempt{'s' * (self._attempts != 1)}, the last: {self._last})"

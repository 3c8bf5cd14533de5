"""Who is asked for the models of a job: the least loaded endpoint that serves one, until it does not, and then another.

A turn that an endpoint could not answer is asked again elsewhere in the same words with the same seed, so it is the same turn.
Nothing of it is stored before it is answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from app import db, endpoints
from app.endpoints import publish
from app.errors import EngineFailed, EngineRefused, SynthqError
from app.models import Endpoint
from app.settings import get_settings
from workers.rollout.policies.engine.line import Got, Line, Lost
from workers.rollout.policies.engine.refused import is_of_the_spec, words
from workers.rollout.policies.openai.answer import fault
from workers.rollout.policies.openai.refusal import Refusal
from workers.rollout.policies.openai.waits import backoff_s
from workers.runner import Drain, StepContext

FRESH_S: Final = 0.5
"""How long a look at the endpoints in the store serves."""
LOOK_S: Final = 2.0
"""How often one who waits for an answer looks whether its endpoint still lives."""
PAUSE_S: Final = 3.0
"""How long a step rests that nobody serves."""
AVOID_S: Final = 0.25
"""How long an endpoint that failed is not asked, at first; twice as long each further time."""
LONGEST_AVOID_S: Final = 8.0
MOST_FAILURES: Final = 5
"""Times that a turn's request may fail while it is with an engine before it is held to be the reason."""
FULL: Final = frozenset({429, 503})
"""Statuses of an engine that has no room at present."""
MISSING: Final = 404
SAME_KEY: Final = "SYNTHQ_ENGINE_KEY must be the same where rollout workers and inference workers run"
TOGETHER: Final = frozenset({"transformers"})
"""Engines that take many requests as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A model as a job plays with it."""

    label: str
    base: str
    adapter: str
    """Name of the adapter that is asked for; empty for the base alone."""
    sha256: str
    """Of what is asked for, as far as it is known before it answers."""
    engine: str
    """The engine that is to serve it, or ``auto`` for any."""
    options: Mapping[str, Any]
    """How it is to be served: an endpoint that offers less is not asked."""

    @property
    def served(self) -> str:
        """The name under which it is asked for."""
        return self.adapter or self.base


@dataclass(slots=True, kw_only=True)
class Stay:
    """An episode's place at an endpoint."""

    use: Use
    endpoint: Endpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An answer, and how it was had."""

    value: dict[str, Any]
    endpoint: str
    """Id of the one that answered."""
    attempts: int
    latency_ms: float
    """From the question that was answered to its answer."""
    sha256: str
    """Of what the endpoint says to have under the name; empty where it does not know."""


@dataclass(slots=True, kw_only=True)
class _Question:
    """One request on its way to an answer."""

    use: Use
    until: float
    """By the monotonic clock."""
    deadline_s: float
    attempts: int = 0
    failures: int = 0
    turned: Literal["missing", "full", "away"] | None = None
    """Why the last endpoint did not take it: it did not know the model, had no room, or was not there; None when it took it."""
    last: str = ""

    def told(self) -> str:
        """What went wrong before, as the end of a sentence."""
        return f" ({self.attempts} attempt{'s' * (self.attempts != 1)}, the last: {self.last})" if self.last else ""

    def failed(self, why: str) -> None:
        """An engine had the request and failed. Raises EngineFailed once the request itself is held to be the reason."""
        self.failures, self.turned, self.last = self.failures + 1, None, why
        if self.failures == MOST_FAILURES:
            raise EngineFailed(
                f"a request for {self.use.served} failed {self.failures} times while an engine had it{self.told()}"
            )

    def away(self, why: str) -> None:
        """An endpoint was not there: its engine has ended, and its worker or its last heartbeat is about to tell."""
        self.turned, self.last = "away", why

    def missing(self, why: str) -> None:
        """An endpoint did not have the model, though it said so: it has just lost it, or its worker is about to notice."""
        self.turned, self.last = "missing", why

    def full(self, why: str) -> None:
        """An endpoint had no room."""
        self.turned, self.last = "full", why

    def too_late(self, who: str) -> SynthqError:
        """Why the time is up."""
        if self.turned == "missing":
            return EngineRefused(f"no endpoint that is to serve {self.use.served} knows it{self.told()}")
        if self.turned == "away":  # the time ran out in the middle of another knock at its door
            return Drain(f"no endpoint serves {self.use.served} any more{self.told()}", pause_s=PAUSE_S)
        return EngineFailed(f"no answer of {who} for {self.use.served} within deadline_s = {self.deadline_s:g}{self.told()}")


class Engines:
    """The engines as one step sees them, in its event loop."""

    def __init__(self, context: StepContext) -> None:
        self._context = context
        self._line = Line(get_settings().engine_key)
        self._uses: dict[str, Use] = {}
        self._ready: dict[str, tuple[float, list[Endpoint]]] = {}
        self._here: Counter[str] = Counter()
        """Episodes of this step at each endpoint."""
        self._failures: Counter[str] = Counter()
        self._avoided: dict[str, float] = {}
        """Until when each endpoint that failed is not asked."""
        self._holds = False

    def use(self, label: str) -> Use:
        """What a label means, for the whole of this step.

        Raises EngineRefused for one that nobody looked up, and Drain for a line of which no version is live.
        """
        if label not in self._uses:
            self._uses[label] = self._looked_up(label)
        return self._uses[label]

    def _looked_up(self, label: str) -> Use:
        with db.reading() as session:
            found = endpoints.use_of(session, self._context.job_id, label)
        if found is None:
            raise EngineRefused(f"nothing is known of {label}: it was not looked up when the job was submitted; submit it again")
        adapter = self._taken(label, found.line) if found.line else found.adapter
        return Use(label=label, base=found.base, adapter=adapter, sha256=found.sha256, engine=found.engine, options=found.options)

    def _taken(self, label: str, line: str) -> str:
        """The name of the version that this step plays with, which stays loaded until the step lets go of it."""
        with db.writing() as session:
            name = publish.take(session, line, self._context.step_id, self._context.claim.fence)
        if name is None:
            raise Drain(f"no version of {label} is live", pause_s=PAUSE_S)
        self._holds = True
        return name

    def expect(self, label: str) -> None:
        """Raise Drain when nobody serves a model at present: the step is better off waiting in its queue."""
        use = self.use(label)
        if not self._look(use):
            raise Drain(f"no endpoint serves {use.served}", pause_s=PAUSE_S)

    async def ask(self, stay: Stay, body: Mapping[str, Any], *, deadline_s: float) -> Served:
        """Ask until there is an answer.

        Raises EngineFailed when there is none in time or this request is refused, EngineRefused for what every turn would be
        answered as well, Drain when nobody serves the model any more.
        """
        question = _Question(use=stay.use, until=time.monotonic() + deadline_s, deadline_s=deadline_s)
        while True:
            endpoint = await self._place(stay, question)
            question.attempts += 1
            try:
                got = await self._answer(endpoint, question, body)
            except Lost as lost:
                said = f"{endpoint.url} gave no answer: {lost}"
                question.failed(said) if lost.sent else question.away(said)
                self._fail(stay)
                continue
            problem = fault(got.value) if got.status == 200 else None
            if got.status == 200 and problem is None:
                self._failures.pop(endpoint.id, None)
                return Served(
                    value=got.value,
                    endpoint=endpoint.id,
                    attempts=question.attempts,
                    latency_ms=got.latency_ms,
                    sha256=endpoint.adapters.get(stay.use.adapter, {}).get("sha256", "") if stay.use.adapter else endpoint.sha256,
                )
            refusal = Refusal.of(got.status, got.value, got.text, str)
            said = f"{endpoint.url} answered {problem or refusal}"
            if got.status in FULL:
                question.full(said)
                self._avoid(stay, backoff_s(question.attempts, 0.5) if got.retry_after_s is None else got.retry_after_s)
            elif got.status == MISSING:
                question.missing(said)
                self._fail(stay)
            elif got.status == 200 or refusal.passes:
                question.failed(said)
                self._fail(stay)
            else:
                hint = f"; {SAME_KEY}" if got.status in (401, 403) else ""
                blocks = refusal.blocks or is_of_the_spec(refusal)
                why = words(refusal, body, stay.use.options)
                raise (EngineRefused if blocks else EngineFailed)(f"{endpoint.url} refuses {stay.use.served}: {why}{hint}")

    async def _answer(self, endpoint: Endpoint, question: _Question, body: Mapping[str, Any]) -> Got:
        """What an endpoint answers. Raises Lost, also for one that the store gives up meanwhile, and EngineFailed too late."""
        answer = self._line.ask(endpoint.url, body, together=endpoint.engine in TOGETHER)
        try:
            while (left_s := question.until - time.monotonic()) > 0:
                if (await asyncio.wait({answer}, timeout=min(LOOK_S, left_s)))[0]:
                    return answer.result()
                if all(each.id != endpoint.id for each in self._look(question.use)):
                    raise Lost("it serves the model no more")
            raise question.too_late(endpoint.url)
        finally:
            answer.cancel()

    async def _place(self, stay: Stay, question: _Question) -> Endpoint:
        """Where a stay asks next: where it is, if that is still ready, else at the least loaded endpoint.

        Waits while there is none. Raises Drain when that takes too long.
        """
        if stay.endpoint is not None:
            here = next((each for each in self._look(stay.use) if each.id == stay.endpoint.id), None)
            if here is None:
                self.leave(stay)
            stay.endpoint = here  # as the store has it now
        while stay.endpoint is None:
            now = time.monotonic()
            ready = self._look(stay.use)
            usable = [each for each in ready if self._avoided.get(each.id, 0.0) <= now]
            if usable:
                stay.endpoint = min(usable, key=self._load)
                self._here[stay.endpoint.id] += 1
            elif now < question.until:
                await asyncio.sleep(min(AVOID_S, question.until - now))
            elif ready and question.turned in ("missing", "full"):
                raise question.too_late("an engine")
            else:
                raise Drain(f"no endpoint serves {stay.use.served} any more{question.told()}", pause_s=PAUSE_S)
        return stay.endpoint

    def _load(self, endpoint: Endpoint) -> tuple[float, int]:
        here = self._here[endpoint.id]
        return max(here, endpoint.in_flight) / max(1, endpoint.capacity), here

    def leave(self, stay: Stay) -> None:
        """Give up a stay's place."""
        if stay.endpoint is not None:
            self._here[stay.endpoint.id] -= 1
            stay.endpoint = None

    def _fail(self, stay: Stay) -> None:
        """Note that an endpoint failed, and leave it."""
        assert stay.endpoint is not None
        failed = stay.endpoint.id
        pause_s = min(LONGEST_AVOID_S, AVOID_S * 2 ** self._failures[failed])
        if self._avoided.get(failed, 0.0) <= time.monotonic():  # of many that it fails at once, one counts
            self._failures[failed] += 1
        self._avoid(stay, pause_s)

    def _avoid(self, stay: Stay, pause_s: float) -> None:
        """Leave an endpoint, and do not come back for a while."""
        assert stay.endpoint is not None
        avoided = stay.endpoint.id
        if self._avoided.get(avoided, 0.0) <= time.monotonic():
            self._avoided[avoided] = time.monotonic() + pause_s
        self._ready.clear()
        self.leave(stay)

    def _look(self, use: Use) -> list[Endpoint]:
        """The endpoints that serve a model, as the store has it or had it a moment ago."""
        seen_at, found = self._ready.get(use.label, (0.0, []))
        if time.monotonic() - seen_at > (FRESH_S if found else AVOID_S / 2):
            with db.reading() as session:
                found = endpoints.ready(session, use.base, use.adapter, engine=use.engine, options=use.options)
                session.expunge_all()
            self._ready[use.label] = (time.monotonic(), found)
        return found

    async def close(self) -> None:
        """Close the connections, and let go of the versions that were taken."""
        await self._line.close()
        if self._holds:
            with db.writing() as session:
                publish.let_go(session, self._context.step_id, self._context.claim.fence)

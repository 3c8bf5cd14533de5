"""What the engine's thread does, step after step: begin new prompts, compute a token of every reply, tell those that end.

Every step does both, so neither arrivals nor long replies wait for the other. What goes wrong ends the requests that were part
of it. Short of memory, it does less at a time, and begins again later with what it put back.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Condition
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor

from app.errors import EngineFault
from workers.inference.core.forward import Forward
from workers.inference.core.sampling import Drawn, Sampler, Top
from workers.inference.core.schedule import admitted, groups
from workers.inference.core.ticket import Result, State, Ticket

PREFILL_TOKENS: Final = 4096
"""Tokens of prompts that a step begins with; one longer prompt has a step to itself."""
TOGETHER: Final = {"cpu": 1536}
"""How many of them go through the model together: what stays in a CPU's caches. Elsewhere all of them do."""
LEAST_TOKENS: Final = 256
"""What that may shrink to when memory is short."""

T = TypeVar("T")

log = logging.getLogger("synthq.engine")


class Part(NamedTuple):
    """Requests and the states of their last tokens [N, W]."""

    tickets: list[Ticket]
    states: Tensor


class Short(Exception):
    """There was not enough memory."""


class Steps:
    """The requests that run: the ``i``-th of ``running`` has row ``i``."""

    def __init__(
        self,
        forward: Forward,
        waiting: deque[Ticket],
        end: Callable[[Ticket, Result], None],
        tokenizer: Any,
        *,
        most: int,
        lock: Condition,
    ) -> None:
        self._forward, self._waiting, self._end, self._tokenizer = forward, waiting, end, tokenizer
        self._most = self._rows = most
        self._prefill_tokens = PREFILL_TOKENS
        self._together = TOGETHER.get(forward.device.type, PREFILL_TOKENS)
        self._lock = lock
        self.running: list[Ticket] = []
        self._sampled: list[Ticket] = []
        self._sampler: Sampler | None = None
        self._counts: Counter[str] = Counter()

    def figures(self) -> dict[str, int]:
        """Counts since the start."""
        names = (
            "prompt_tokens",
            "generated_tokens",
            "prefix_hits",
            "prefix_tokens",
            "steps",
            "batch_sum",
            "prefills",
            "put_back",
        )
        return {name: self._counts[name] for name in names}

    # -- a step ---------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Begin what there is room for, and compute one token of everything."""
        parts = self._decode()
        new = self._begin(parts)
        if not parts:
            return
        for part in self._joined(parts):
            self._sample(*part)
        self._keep_prefixes(new)
        self.close_ranks()
        self._counts["steps"] += 1
        self._counts["batch_sum"] += sum(len(part.tickets) for part in parts)

    def close_ranks(self) -> None:
        """Have those that run on occupy the first rows again."""
        running = self.running
        stay = [row for row, ticket in enumerate(running) if ticket.state is State.RUNNING]
        if len(stay) == len(running):
            return
        holes = [row for row in range(len(stay)) if running[row].state is not State.RUNNING]
        movers = [row for row in stay if row >= len(stay)]
        if movers and not self._moved(movers, holes):
            behind = [running[row] for row in stay if row > holes[0]]
            del running[holes[0] :]
            self._rows = max(1, len(running))
            self._put_back([ticket for ticket in behind if ticket.state is State.RUNNING])
            return
        for mover, hole in zip(movers, holes, strict=True):
            running[hole] = running[mover]
        self._rows = min(self._most, self._rows + len(running) - len(stay))
        del running[len(stay) :]

    def _moved(self, movers: list[int], holes: list[int]) -> bool:
        """Whether rows could be copied onto others."""
        tickets = [self.running[row] for row in movers]

        def move() -> bool:
            self._forward.rows.move(movers, holes, max(len(ticket.ids) for ticket in tickets))
            return True

        try:
            return self._attempt(tickets, move) is not None
        except Short:
            return False

    def _attempt(self, tickets: Sequence[Ticket], compute: Callable[[], T]) -> T | None:
        """What ``compute`` gives; None when it failed, which ended the requests. Raises Short, of which nothing holds memory."""
        try:
            return compute()
        except torch.AcceleratorError:
            raise  # the device is lost to this process: nothing more can be computed in it
        except Exception as error:
            if is_short(error):
                short = f"{type(error).__name__}: {error}"
            else:
                log.exception("a step of %d requests failed", len(tickets))
                for ticket in tickets:
                    self._end(ticket, _fault(error))
                return None
        log.warning("short of memory with %d requests: %s", len(tickets), short)
        self._forward.forget()
        raise Short(short)

    # -- new prompts ----------------------------------------------------------------------------------------------------

    def _begin(self, parts: list[Part]) -> list[Ticket]:
        """Compute new prompts, as many as there are rows and tokens for."""
        room = self._rows - len(self.running)
        if room <= 0 or not self._waiting:
            return []
        with self._lock:
            first = [self._waiting[i] for i in range(min(room, len(self._waiting)))]
            lengths = [len(ticket.ids) - self._forward.cached(ticket) for ticket in first]
            count = admitted(lengths, rows=room, most_tokens=self._prefill_tokens)
            new = [self._waiting.popleft() for _ in range(count)]
            for ticket in new:
                ticket.admitted()
        for places in groups(lengths[:count], most_tokens=self._together):
            self._prefill([new[place] for place in places], parts)
        return new

    def _prefill(self, group: list[Ticket], parts: list[Part]) -> None:
        first = len(self.running)
        try:
            states = self._attempt(group, lambda: self._forward.prefill(group, first))
        except Short as short:
            self._prefill_less(group, parts, short)
            return
        if states is None:
            return
        self.running += group
        parts.append(Part(group, states))
        self._counts["prefills"] += 1
        for ticket in group:
            self._counts["prompt_tokens"] += ticket.prompt_tokens
            self._counts["prefix_tokens"] += ticket.prefix_tokens
            self._counts["prefix_hits"] += ticket.prefix_tokens > 0

    def _prefill_less(self, group: list[Ticket], parts: list[Part], short: Short) -> None:
        if len(group) > 1:
            self._together = max(LEAST_TOKENS, self._together // 2)
            half = len(group) // 2
            self._prefill(group[:half], parts)
            self._prefill(group[half:], parts)
        elif self.running:
            self._put_back(group)
            self._rows = len(self.running)
        else:
            self._end(group[0], _no_room(short))

    def _keep_prefixes(self, new: Sequence[Ticket]) -> None:
        fresh = {ticket for ticket in new if ticket.chain}
        rows = [(row, ticket.chain) for row, ticket in enumerate(self.running) if ticket in fresh] if fresh else []
        if rows:
            with self._forward.timed("prefill"):
                self._forward.prefixes.keep(rows)

    # -- replies under way ----------------------------------------------------------------------------------------------

    def _decode(self) -> list[Part]:
        """Compute the last token of all that run."""
        if not self.running:
            return []
        tickets = list(self.running)
        try:
            states = self._attempt(tickets, lambda: self._forward.decode(tickets))
        except Short as short:
            return self._decode_less(short)
        if states is None:
            self.close_ranks()
            return []
        return [Part(tickets, states)]

    def _decode_less(self, short: Short) -> list[Part]:
        """Put half of what runs back, to be computed again from its tokens later, and go on with the rest."""
        count = len(self.running) // 2
        if not count:
            self._end(self.running[0], _no_room(short))
            self.running.clear()
            self._shrink(0)
            return []
        self._put_back(self.running[count:])
        del self.running[count:]
        self._rows = count
        self._shrink(count)
        return self._decode()

    def _shrink(self, rows: int) -> None:
        """Give memory of rows back, as far as the copies that this takes can be made."""
        with suppress(Short):
            self._attempt((), lambda: self._forward.rows.shrink(rows))

    def _put_back(self, tickets: list[Ticket]) -> None:
        self._counts["put_back"] += len(tickets)
        for ticket in tickets:
            ticket.state = State.WAITING
        with self._lock:
            self._waiting.extendleft(reversed(tickets))

    # -- tokens ---------------------------------------------------------------------------------------------------------

    def _joined(self, parts: list[Part]) -> list[Part]:
        """All parts as one, where there is memory for that."""
        tickets = [ticket for part in parts for ticket in part.tickets]
        try:
            states = (
                parts[0].states if len(parts) == 1 else self._attempt(tickets, lambda: torch.cat([each.states for each in parts]))
            )
        except Short:
            return parts
        return [] if states is None else [Part(tickets, states)]

    def _sample(self, tickets: list[Ticket], states: Tensor) -> None:
        """Draw a token for each, and tell those whose reply ends with it."""
        drawn: list[Drawn] = []

        def draw() -> Tensor:
            with self._forward.timed("sample"):
                drawn.append(self._sampler_of(tickets).draw(self._forward.scores(states), [ticket.replied for ticket in tickets]))
            return states

        try:
            if self._attempt(tickets, draw) is None:
                return
        except Short as short:
            if len(tickets) == 1:
                self._end(tickets[0], _no_room(short))
                return
            half = len(tickets) // 2
            self._sample(tickets[:half], states[:half])
            self._sample(tickets[half:], states[half:])
            return
        self._take(tickets, drawn[0])

    def _sampler_of(self, tickets: list[Ticket]) -> Sampler:
        if self._sampler is None or tickets != self._sampled:
            samplings, seeds = [ticket.sampling for ticket in tickets], [ticket.seed for ticket in tickets]
            self._sampler = Sampler(samplings, seeds, self._forward.vocabulary, self._forward.device)
            self._sampled = tickets
        return self._sampler

    def _take(self, tickets: list[Ticket], drawn: Drawn) -> None:
        self._counts["generated_tokens"] += len(tickets)
        tops: Sequence[Top | None] = drawn.top or [None] * len(tickets)
        for ticket, token, logprob, top in zip(tickets, drawn.ids, drawn.logprobs, tops, strict=True):
            try:
                if logprob != logprob:
                    raise ValueError("the model's scores are no numbers; its weights, or its dtype, cannot be right")
                if ticket.take(token, logprob, top):
                    self._end(ticket, ticket.generated(self._tokenizer))
            except Exception as error:
                log.exception("a reply cannot go on")
                self._end(ticket, _fault(error))


def is_short(error: Exception) -> bool:
    """Whether an error tells that memory, of the computer or of its GPU, is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        said in str(error) for said in ("allocate memory", "not enough memory", "ALLOC_FAILED")
    )


def _fault(error: Exception) -> EngineFault:
    return EngineFault(f"the reply could not be computed ({type(error).__name__}: {error})")


def _no_room(short: Short) -> EngineFault:
    return EngineFault(f"there is not enough memory for this request, even alone ({short}); shorten it, or lower max_model_len")

"""One request: what it asks, and its reply as it grows. No torch here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidInput
from workers.inference.core.prefix import Chain
from workers.inference.core.request import Generated, Sampling
from workers.inference.core.text import StopTexts
from workers.model.rope import positions
from workers.model.types import Picture, Prompt

if TYPE_CHECKING:
    from workers.inference.core.served import Served

Result = Generated | Exception
MOST_TOP: Final = 100
"""Likeliest tokens that a request may ask for at each place."""


class State(StrEnum):
    """Where a request is."""

    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"
    """``done`` was called, or is about to be."""


class Ticket:
    """What ``Core.submit`` gives. The engine's thread alone changes it."""

    def __init__(
        self, prompt: Prompt, sampling: Sampling, served: Served, done: Callable[[Result], None], *, image_token: int, merge: int
    ) -> None:
        """Raises InvalidInput when the image tokens in the prompt are not those of its pictures."""
        self.sampling, self.served, self.done = sampling, served, done
        self.state = State.WAITING
        self.ids = list(prompt.ids)
        """Tokens of the prompt and of the reply so far."""
        self.prompt_tokens = len(self.ids)
        tokens = np.asarray(prompt.ids, np.int64)
        self._positions, self.delta = positions(tokens, [picture.grid for picture in prompt.pictures], image_token, merge)
        self.image_places = np.flatnonzero(tokens == image_token)
        """Where the prompt has image tokens. One that the reply has is text."""
        self.pictures = _spans(prompt.pictures, self.image_places, merge)
        """First token, one past the last, picture."""
        self.tokens = tokens
        self.chain: Chain = ()
        """Hashes of the prompt's blocks; empty when no prefixes are kept."""
        self.seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self.limit = sampling.max_tokens
        self.stops: frozenset[int] = frozenset()
        self.stop_texts: StopTexts | None = None
        self.prefix_tokens = 0
        """Tokens of the prompt that were copied from the prefix store."""
        self.logprobs: list[float] = []
        self.tops: list[tuple[tuple[int, float], ...]] = []
        self.finish: str = ""
        self._submitted = time.perf_counter()
        self._admitted = self._first = 0.0

    @property
    def replied(self) -> int:
        """Tokens of the reply so far; also the index of the next."""
        return len(self.ids) - self.prompt_tokens

    def positions(self, start: int) -> NDArray[np.int64]:
        """[3, tokens] for the tokens so far from ``start`` on."""
        of_prompt = self._positions[:, start:]
        if not self.replied:
            return of_prompt
        later = np.arange(max(start, self.prompt_tokens), len(self.ids)) + self.delta
        return np.concatenate((of_prompt, np.broadcast_to(later, (3, len(later)))), axis=1)

    def admitted(self) -> None:
        """The engine begins with it, or begins again."""
        self.state = State.RUNNING
        self._admitted = self._admitted or time.perf_counter()

    def take(self, token: int, logprob: float, top: Sequence[tuple[int, float]] | None) -> bool:
        """Add a token to the reply; whether it ends with it."""
        if not self.logprobs:
            self._first = time.perf_counter()
        self.ids.append(token)
        self.logprobs.append(logprob)
        if top is not None and self.sampling.top_logprobs:
            self.tops.append(tuple(top[: self.sampling.top_logprobs]))
        if token in self.stops or (self.stop_texts is not None and self.stop_texts.take(token)):
            self.finish = "stop"
        elif len(self.logprobs) >= self.limit:
            self.finish = "length"
        return bool(self.finish)

    def generated(self, tokenizer: Any) -> Generated:
        """The reply, which has ended. ``tokenizer`` is the one of the ``tokenizers`` library."""
        reply = self.ids[self.prompt_tokens :]
        return Generated(
            ids=tuple(reply),
            logprobs=tuple(self.logprobs),
            text=self._text(reply, tokenizer),
            finish="stop" if self.finish == "stop" else "length",
            version=self.served.sha256,
            top=tuple(self.tops),
            prefix_tokens=self.prefix_tokens,
            timings_ms=self._timings(),
        )

    def _text(self, reply: list[int], tokenizer: Any) -> str:
        if reply[-1] in self.stops:
            reply = reply[:-1]
        elif self.finish == "stop" and self.stop_texts is not None:
            return self.stop_texts.text
        text: str = tokenizer.decode(reply, skip_special_tokens=self.sampling.skip_special_tokens)
        return text

    def _timings(self) -> Mapping[str, float]:
        now = time.perf_counter()
        times = {"queue": self._admitted - self._submitted, "prefill": self._first - self._admitted, "decode": now - self._first}
        return {name: 1000 * seconds for name, seconds in times.items()}


def _spans(pictures: Sequence[Picture], places: NDArray[np.int64], merge: int) -> tuple[tuple[int, int, Picture], ...]:
    spans, done = [], 0
    for picture in pictures:
        size = picture.tokens(merge)
        first = int(places[done])
        spans.append((first, first + size, picture))
        done += size
    return tuple(spans)


def check(prompt: Prompt, sampling: Sampling, *, vocabulary: int, max_model_len: int) -> None:
    """Raises InvalidInput when a request cannot be right."""
    count = len(prompt.ids)
    if not count:
        raise InvalidInput("the prompt has no tokens")
    if count >= max_model_len:
        raise InvalidInput(
            f"the prompt has {count} tokens, which leaves no room for a reply in {max_model_len}, the most that the engine holds"
        )
    if min(prompt.ids) < 0 or max(prompt.ids) >= vocabulary:
        wrong = next(token for token in prompt.ids if not 0 <= token < vocabulary)
        raise InvalidInput(f"the prompt has the token {wrong}, and the model has 0 to {vocabulary - 1}")
    for name, right, range in (
        ("max_tokens", sampling.max_tokens >= 1, "1 or more"),
        ("temperature", 0 <= sampling.temperature <= 1e6, "0 or more"),
        ("top_p", 0 < sampling.top_p <= 1, "above 0, up to 1"),
        ("top_k", sampling.top_k >= 0, "0 or more"),
        ("top_logprobs", 0 <= sampling.top_logprobs <= MOST_TOP, f"0 to {MOST_TOP}"),
    ):
        if not right:
            raise InvalidInput(f"{name} is {getattr(sampling, name)}; it must be {range}")
    for token, bias in sampling.logit_bias.items():
        if not 0 <= token < vocabulary:
            raise InvalidInput(f"logit_bias has the token {token}, and the model has 0 to {vocabulary - 1}")
        if not abs(bias) < 1e6:
            raise InvalidInput(f"logit_bias of token {token} is {bias}; it must be a number between -1000000 and 1000000")
    if any(not text for text in sampling.stop):
        raise InvalidInput("stop has an empty text, which would end every reply before it begins")

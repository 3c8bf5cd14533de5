"""What the engine is asked, and what it gives back. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a reply is drawn."""

    max_tokens: int
    temperature: float = 1.0
    """0, and what is below 0.00001, takes the likeliest token every time; log-probabilities are those of 1 then."""
    top_p: float = 1.0
    """Share of the probability that is drawn from; reported log-probabilities are of the whole."""
    top_k: int = 0
    """Tokens that are drawn from, the likeliest first; 0: all."""
    seed: int | None = None
    """Keys every draw together with the token's index; None: another draw every time."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply; left out of its text."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end the reply, beside the model's own."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to logits by token id, before the temperature."""
    top_logprobs: int = 0
    """Likeliest tokens to report at each place."""
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    """Whether control tokens are left out of the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A reply."""

    ids: tuple[int, ...]
    """The sampled tokens, the one that ended the reply included."""
    logprobs: tuple[float, ...]
    """One natural-log probability a token."""
    text: str
    finish: Literal["stop", "length"]
    version: str
    """sha256 of the adapter that served it; of the base when there was none."""
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    """At each place the likeliest tokens and their log-probabilities, if asked for."""
    prefix_tokens: int = 0
    """Tokens of the prompt that were not computed again."""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    """``queue``, ``prefill`` and ``decode``."""

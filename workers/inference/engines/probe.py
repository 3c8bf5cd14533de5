"""Whether an engine that says it is ready can do what synthq needs: tell ids and log-probabilities, and see."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from PIL import Image

from app.errors import EngineFailed, InvalidInput
from workers.inference.engines.admin import Admin
from workers.transport.generate import sampled

PROBE_S: Final = 300.0
"""Longest wait for the first answer: engines compile and warm up in it."""
SIDE: Final = 64
TOKENS: Final = 2
LIKELIEST: Final = 5
"""Tokens to compare at each place: a model that is sure of the first tells pictures apart in the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What an engine showed."""

    first_s: float
    """Seconds to its first answer, what is warmed up by it included."""
    again_s: float
    """Seconds to its second."""
    image_tokens: int
    """Tokens that a picture of 64 x 64 pixels adds to a prompt, those around it included."""


def probe(admin: Admin, model: str, *, timeout_s: float = PROBE_S) -> Probed:
    """Ask a model for replies, with a picture and without.

    Raises EngineFailed when token ids or log-probabilities do not come back, or when the picture changes nothing; otherwise as
    ``Admin`` does.
    """
    began = time.monotonic()
    black_ids, black = _reply(admin, model, 0, timeout_s)
    answered = time.monotonic()
    white_ids, white = _reply(admin, model, 255, timeout_s)
    ended = time.monotonic()
    bare_ids, _ = _reply(admin, model, None, timeout_s)
    image_tokens = len(black_ids) - len(bare_ids)
    if image_tokens <= 0 or black_ids != white_ids:
        raise EngineFailed(f"the engine at {admin.url} gives a picture no tokens in the prompt of {model}; synthq's models see")
    if black == white:
        raise EngineFailed(f"the engine at {admin.url} does not see: {model} answers to a black and to a white picture alike")
    return Probed(first_s=answered - began, again_s=ended - answered, image_tokens=image_tokens)


def _reply(admin: Admin, model: str, shade: int | None, timeout_s: float) -> tuple[tuple[int, ...], list[float]]:
    """Prompt ids, and the log-probabilities of the likeliest tokens at each place of a short reply."""
    answer = admin.complete(body(model, shade), timeout_s=timeout_s)
    try:
        prompt, _, _ = sampled(answer)
        places = answer["choices"][0]["logprobs"]["content"]
        return prompt, [float(each["logprob"]) for place in places for each in place["top_logprobs"]]
    except (InvalidInput, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise EngineFailed(f"the engine at {admin.url} gave no usable reply for {model}: {error}") from None


def body(model: str, shade: int | None) -> Mapping[str, Any]:
    """The probe's request, with a picture of one grey shade or with none."""
    content: list[dict[str, Any]] = [{"type": "text", "text": "look"}]
    if shade is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": _picture(shade)}})
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": TOKENS,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": LIKELIEST,
        "return_token_ids": True,
        "skip_special_tokens": False,
        "stream": False,
    }


@lru_cache
def _picture(shade: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (shade, shade, shade)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

"""What an engine's answer says, and nothing beyond it: a reply with the very tokens that were sampled, and what served it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from app.errors import EngineRefused, InvalidInput
from app.records import Reply
from workers.rollout import prompts
from workers.rollout.actions import UNREADABLE
from workers.rollout.play import TIMINGS
from workers.rollout.policies.wire import storable, unstorable
from workers.transport.chat import read_reply
from workers.transport.generate import sampled

VERSION_CHARS: Final = 12
VLLM: Final = {"queue_time_ms": "queue", "time_to_first_token_ms": "prefill", "generation_time_ms": "decode"}
"""The parts of a request's time that vLLM tells, each beside what it is called here; the first token counts as prefill there."""
PICTURES: Final = frozenset({"<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"})
"""Tokens that stand for pictures or around them. In a reply there is no picture, so one of them makes it no reply."""


def version(served: str, sha256: str) -> str:
    """How weights go on record: the name under which they were served, and what was behind it."""
    return f"{served}@{sha256[:VERSION_CHARS]}" if sha256 else served


def read(value: Mapping[str, Any], *, served: str, due: str, told: str = "") -> tuple[Reply, dict[str, Any]]:
    """The reply of an answer without ``fault``, and what else is told of it.

    ``served`` is the name that was asked for, ``due`` the sha256 that must be behind it, or empty; ``told`` the sha256 that its
    endpoint tells, which counts where the answer tells none. Raises EngineRefused for an answer of something else, and for one
    without tokens.
    """
    _check(value, served, due)
    try:
        prompt_ids, output_ids, logprobs = sampled(value)
    except (InvalidInput, KeyError, TypeError, AttributeError, ValueError) as problem:
        raise EngineRefused(f"the engine's answer for {served} is of no use: {problem}") from None
    choice = value["choices"][0]
    text = choice["message"].get("content") or ""
    reason = choice.get("finish_reason")
    notes: dict[str, Any] = {"finish_reason": reason if isinstance(reason, str) else None, **_figures(value)}
    if unreadable := _unreadable(text, [entry.get("token") for entry in choice["logprobs"]["content"]]):
        notes[UNREADABLE] = unreadable
    said = prompts.reply_from_openai(read_reply(storable(text)))
    finish: Literal["stop", "length"] = "length" if reason == "length" else "stop"
    reply = Reply(
        text=said.text,
        tool_calls=said.tool_calls,
        finish=finish,
        policy_version=version(served, _synthq(value).get("version") or due or told),
        prompt_ids=prompt_ids,
        output_ids=output_ids,
        logprobs=logprobs,
    )
    return reply, notes


def _check(value: Mapping[str, Any], served: str, sha256: str) -> None:
    """Raise when something else answered than was asked."""
    if value.get("model") != served:
        raise EngineRefused(f"the engine answered with the model {value.get('model')!r}, and {served!r} was asked for")
    found = _synthq(value).get("version")
    if sha256 and found and found != sha256:
        raise EngineRefused(f"the engine served {served} with weights of sha256 {found}, and {sha256} were to play")


def _synthq(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What synthq's own engine tells beside the answer."""
    told = value.get("synthq")
    return told if isinstance(told, dict) else {}


def _figures(value: Mapping[str, Any]) -> dict[str, Any]:
    """What a reply took."""
    usage, told, theirs = value.get("usage"), _synthq(value), value.get("metrics")
    tokens = usage if isinstance(usage, dict) else {}
    counted = {"input_tokens": tokens.get("prompt_tokens"), "output_tokens": tokens.get("completion_tokens")}
    more = {"prefix_tokens": told.get("prefix_tokens"), "image_tokens": told.get("image_tokens")}
    timings = told.get("timings_ms")
    if not isinstance(timings, dict):
        metrics = theirs if isinstance(theirs, dict) else {}
        timings = {ours: metrics[key] for key, ours in VLLM.items() if metrics.get(key) is not None}
    return {
        "usage": {**counted, **{name: count for name, count in more.items() if count is not None}},
        TIMINGS: {name: float(ms) for name, ms in timings.items()},
    }


def _unreadable(text: str, tokens: Sequence[Any]) -> str | None:
    """Why nobody may read a meaning into a reply; None when it may be read. Spelled out in letters such a token is but a text."""
    shown = next((token for token in tokens if token in PICTURES), None)
    if shown is not None:
        return f"the reply holds {shown}, a token that stands for a picture"
    if bad := unstorable(text):
        return f"the reply holds {bad}, which no database keeps"
    return None

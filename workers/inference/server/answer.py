"""A reply as the body of an answer: vLLM's keys of a chat completion, and what this engine adds under ``synthq``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

from workers.inference.core.request import Generated
from workers.inference.server.ask import Ask
from workers.transport.chat import read_reply

FLOOR: Final = -9999.0
"""What is told for a log-probability that JSON has no number for."""


class Decoder(Protocol):
    """What is needed of a tokenizer here."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of tokens."""


class Teller:
    """Writes answers with one model's tokenizer."""

    def __init__(self, tokenizer: Decoder, *, merge: int) -> None:
        self._tokenizer, self._merge = tokenizer, merge
        self._tokens: dict[int, dict[str, Any]] = {}

    def tell(self, ask: Ask, reply: Generated) -> dict[str, Any]:
        """The body of the answer to a request."""
        message, finish = self._message(ask, reply)
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": self._logprobs(reply)} if ask.logprobs else None,
            "finish_reason": finish,
            "stop_reason": self._stop_reason(ask, reply),
            "token_ids": reply.ids if ask.token_ids else None,
        }
        prompt, new = len(ask.prompt.ids), len(reply.ids)
        return {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": ask.model,
            "choices": [choice],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": new,
                "total_tokens": prompt + new,
                "prompt_tokens_details": {"cached_tokens": reply.prefix_tokens},
            },
            "prompt_token_ids": ask.prompt.ids if ask.token_ids else None,
            "synthq": {
                "version": reply.version,
                "timings_ms": {"processor": round(ask.processor_ms, 3), **{k: round(v, 3) for k, v in reply.timings_ms.items()}},
                "prefix_tokens": reply.prefix_tokens,
                "image_tokens": sum(picture.tokens(self._merge) for picture in ask.prompt.pictures),
            },
        }

    def _message(self, ask: Ask, reply: Generated) -> tuple[dict[str, Any], str]:
        """The assistant's message, and why it ended."""
        if not ask.calls:
            return {"role": "assistant", "content": reply.text}, reply.finish
        message = read_reply(reply.text)
        called = "tool_calls" in message and reply.finish == "stop"
        for call in message.get("tool_calls", ()):
            call["id"] = f"call_{secrets.token_hex(8)}"  # unique through a conversation, which ``call_0`` is not
        return {**message, "content": message["content"] or None} if called else message, "tool_calls" if called else reply.finish

    def _stop_reason(self, ask: Ask, reply: Generated) -> int | str | None:
        """The token or the text of the request that ended the reply; None when the model ended it, or its length."""
        if reply.finish != "stop" or not reply.ids:
            return None
        if reply.ids[-1] in ask.sampling.stop_ids:
            return reply.ids[-1]
        if not ask.sampling.stop:
            return None
        said = self._tokenizer.decode(reply.ids, skip_special_tokens=ask.sampling.skip_special_tokens)
        found = [(at + len(text), at, text) for text in ask.sampling.stop if (at := said.find(text)) >= 0]
        return min(found)[2] if found else None

    def _logprobs(self, reply: Generated) -> list[dict[str, Any]]:
        top = reply.top or ((),) * len(reply.ids)
        return [
            {**self._told(id, logprob), "top_logprobs": [self._told(*one) for one in likeliest]}
            for id, logprob, likeliest in zip(reply.ids, reply.logprobs, top, strict=True)
        ]

    def _told(self, id: int, logprob: float) -> dict[str, Any]:
        token = self._tokens.get(id)
        if token is None:
            text = self._tokenizer.decode([id], skip_special_tokens=False)
            token = self._tokens[id] = {"token": text, "bytes": list(text.encode("utf-8", "replace"))}
        return {"token": token["token"], "logprob": max(logprob, FLOOR), "bytes": token["bytes"]}

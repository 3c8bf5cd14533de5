"""The wire between who plays and what serves a model: OpenAI's chat completions, as vLLM and synthq's own engine speak them.

What was sampled crosses it as token ids and log-probabilities, beside the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from app.dataset.tokens import CONTROL
from app.errors import InvalidInput

CHAT: Final = "/v1/chat/completions"
"""One reply."""
BATCH: Final = "/v1/batch"
"""synthq's own engine takes many requests at once here, and answers each in a line of its own as soon as it is done."""
WORD_JOINER: Final = "\u2060"


def salt(served: str) -> str:
    """The ``cache_salt`` of requests for a served name: of letters and digits, for vLLM refuses one that holds a path."""
    return hashlib.sha256(served.encode()).hexdigest()[:32]


def neutral(text: str) -> str:
    """A text in which nothing can be read as a control token: a mark of no width parts ``<`` from ``|`` where one stands."""
    return CONTROL.sub(lambda found: f"<{WORD_JOINER}{found[0][1:]}", text)


def neutral_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message in OpenAI's format, all its texts made ``neutral``."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": neutral(content)}
    if isinstance(content, list):
        parts = [{**part, "text": neutral(part["text"])} if isinstance(part.get("text"), str) else part for part in content]
        return {**message, "content": parts}
    return dict(message)


def sampled(answer: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """Prompt ids, output ids and their log-probabilities of an answer. Raises InvalidInput when one is missing."""
    choice = answer["choices"][0]
    prompt, output = answer.get("prompt_token_ids"), choice.get("token_ids")
    if not _ids(prompt) or not _ids(output):
        raise InvalidInput("the answer has no token ids; the engine must honour return_token_ids")
    content = (choice.get("logprobs") or {}).get("content")
    if not isinstance(content, list) or len(content) != len(output):
        have = len(content) if isinstance(content, list) else "no"
        raise InvalidInput(f"the answer has {have} log-probabilities for {len(output)} tokens")
    return tuple(prompt), tuple(output), tuple(float(entry["logprob"]) for entry in content)


def _ids(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int for item in value)

"""Which refusals of one request every other request of the job would meet as well, beside those that a status alone tells."""

from __future__ import annotations

from typing import Final

from workers.rollout.policies.openai.refusal import Refusal

OF_THE_SPEC: Final = frozenset(
    {"max_tokens", "max_completion_tokens", "temperature", "top_p", "tools", "tool_choice", "logprobs", "top_logprobs"}
    | {"return_token_ids", "skip_special_tokens", "stop", "cache_salt"}
)
"""Parts of a body that are the same in every turn."""
TOO_LONG: Final = frozenset({"input_tokens", "input_text"})
"""What vLLM names where a prompt is longer than the model reads."""
ROOM: Final = ("max-model-len", "maximum context length", "limit-mm-per-prompt", "limit-images")
"""Words of refusals that tell how much the engine was started for."""


def is_of_the_spec(refusal: Refusal) -> bool:
    """Whether a request is refused for what the spec says, or for the length that the model was started with."""
    named = refusal.param in OF_THE_SPEC | TOO_LONG or any(words in refusal.message for words in ROOM)
    return refusal.status in (400, 422) and named

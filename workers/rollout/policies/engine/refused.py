"""What refusals of requests say, and which of them every other request of the job would meet as well."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

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

NO_FURTHER: Final = re.compile(r"contains at least \d+ input tokens")
"""How vLLM tells the length of a prompt that it read only up to its limit: the number is the limit's, not the prompt's."""


def words(refusal: Refusal, body: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """A refusal of a request as a sentence, without numbers that say nothing of the request."""
    if not NO_FURTHER.search(refusal.message):
        return str(refusal)
    asked = f"policy_config.max_tokens = {body.get('max_tokens')}"
    room = f"vllm.max_model_len = {options.get('max_model_len')}"
    return f"HTTP {refusal.status}: the prompt leaves no room for {asked} within {room}; raise this or lower that"


def is_of_the_spec(refusal: Refusal) -> bool:
    """Whether a request is refused for what the spec says, or for the length that the model was started with."""
    named = refusal.param in OF_THE_SPEC | TOO_LONG or any(words in refusal.message for words in ROOM)
    return refusal.status in (400, 422) and named

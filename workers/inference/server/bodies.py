"""What a body of a chat completion may hold, key by key: OpenAI's keys, and those of vLLM's that this engine has.

A key that would change the answer and is not known here is refused; one that changes nothing is left out. Messages are checked
in ``messages``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from app.specs.base import Clash, Table, listed

MOST_MESSAGES: Final = 4096
MOST_TOP: Final = 20
"""Most of the likeliest tokens that are told at each place."""

IGNORED: Final = frozenset(
    {
        "cache_salt",
        "include_reasoning",
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "session_id",
        "store",
        "stream_options",
        "user",
        "verbosity",
    }
)
"""Keys that change no reply of this engine. A ``cache_salt`` is not needed: what is kept of a prompt is kept for one set of
weights alone."""

SETTLED: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "add_generation_prompt": ((True,), "a reply always begins a message of its own"),
    "add_special_tokens": ((False,), "the chat template has every control token"),
    "continue_final_message": ((False,), "a reply always begins a message of its own"),
    "echo": ((False,), "an answer holds the reply alone"),
    "frequency_penalty": ((0,), "no penalties are applied"),
    "include_stop_str_in_output": ((False,), "a text of stop is left out of the reply's text; token_ids have it"),
    "length_penalty": ((1,), "there is no beam search"),
    "min_p": ((0,), "tokens are drawn by temperature, top_p and top_k"),
    "min_tokens": ((0,), "a reply ends when the model ends it; ignore_eos goes on"),
    "modalities": ((["text"],), "replies are text"),
    "n": ((1,), "one request has one reply; send several, with a seed each"),
    "presence_penalty": ((0,), "no penalties are applied"),
    "priority": ((0,), "requests are served in the order in which they came"),
    "prompt_logprobs": ((0,), "log-probabilities are told of the reply alone"),
    "reasoning_effort": (("none",), "nothing is thought before a reply"),
    "repetition_penalty": ((1,), "no penalties are applied"),
    "response_format": (({"type": "text"},), "replies are text, and no form is forced on them"),
    "return_tokens_as_token_ids": ((False,), "return_token_ids tells the ids"),
    "spaces_between_special_tokens": ((True, False), "the tokenizer puts none"),
    "stream": ((False,), "an answer comes whole; POST /v1/batch sends many, each as soon as it is done"),
    "use_beam_search": ((False,), "there is no beam search"),
}
"""Keys that are known and change nothing here: the values that they may have beside null, and what always holds."""

_ID: Final = re.compile(r"0|[1-9][0-9]{0,9}")

Most = Annotated[int, Field(ge=1, le=2**31 - 1)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class ChatBody(Table):
    """The keys that say what is asked for; ``None`` is a key that was not given."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """The name of the base or of an adapter, as ``GET /v1/models`` lists them."""
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_MESSAGES)]
    """The conversation, in OpenAI's format."""
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    """Functions that the model is told of."""
    tool_choice: Literal["none", "auto", "required"] | None = None
    """Whether calls are read out of the reply; ``none``: its text comes as it is; no value: ``auto``. No call is ever forced."""
    max_tokens: Most | None = None
    """Most tokens of the reply; no value: what the model's length leaves."""
    max_completion_tokens: Most | None = None
    """Another name of ``max_tokens``."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """0 takes the likeliest token every time; no value: 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the probability that is drawn from; no value: all."""
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    """Tokens that are drawn from, the likeliest first; no value, 0 or -1: all."""
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    """Keys the draws: the same body with the same seed has the same reply. No value: another one every time."""
    stop: Annotated[list[StopText], BeforeValidator(listed), Field(max_length=16)] | None = None
    """Texts that end the reply."""
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] | None = None
    """Tokens that end the reply."""
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    """Added to logits, by token id."""
    logprobs: bool | None = None
    """Whether log-probabilities are told."""
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    """Likeliest tokens to tell at each place."""
    return_token_ids: bool | None = None
    """Whether the ids of the prompt and of the reply are told."""
    skip_special_tokens: bool | None = None
    """Whether control tokens are left out of the reply's text; no value: they are."""
    ignore_eos: bool | None = None
    """Whether to go on where the model ends the reply."""

    def checks(self) -> Iterator[Clash]:
        if self.top_logprobs and not self.logprobs:
            yield Clash("top_logprobs", f"{self.top_logprobs} needs logprobs = true")
        if self.tool_choice == "required" and not self.tools:
            yield Clash("tool_choice", "'required' needs tools, and there are none")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            yield Clash(
                "max_tokens",
                f"{self.max_tokens} and max_completion_tokens = {self.max_completion_tokens} name one thing; keep one of the two",
            )
        for id in self.logit_bias or {}:
            if not _ID.fullmatch(id):
                yield Clash("logit_bias", f'its keys are token ids, such as "151645", not {id[:40]!r}')
                return


class BatchBody(Table):
    """The body of ``POST /v1/batch``."""

    requests: Annotated[list[Any], Field(min_length=1)]
    """Bodies of chat completions. Each is checked by itself."""


class LoadBody(Table):
    """The body of ``POST /v1/load_lora_adapter``."""

    lora_name: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """The name to serve it under."""
    lora_path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """The folder that holds it."""
    load_inplace: Literal[False] = False
    """Must be false: the weights behind a name never change."""


class UnloadBody(Table):
    """The body of ``POST /v1/unload_lora_adapter``."""

    lora_name: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """The name that it is served under."""
    lora_int_id: int | None = None
    """Not used; a key of vLLM's."""

"""One body as what the engine can be asked: a prompt, how to draw, and what of the answer is to be told."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.errors import InvalidInput, Problem
from app.specs.draft import shown
from workers.inference.core.request import Sampling
from workers.inference.server import messages
from workers.inference.server.bodies import IGNORED, SETTLED, ChatBody
from workers.inference.server.wire import TOO_DEEP, BadBody, checked
from workers.model.types import Prompt

if TYPE_CHECKING:
    from workers.model.inputs import Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request that can be served."""

    model: str
    prompt: Prompt
    sampling: Sampling
    calls: bool
    """Whether calls are read out of the reply."""
    logprobs: bool
    token_ids: bool
    processor_ms: float
    """What it took to make the prompt: template, tokens, pictures."""


class Reader:
    """Reads bodies for one model."""

    def __init__(self, inputs: Inputs, *, vocabulary: int, max_model_len: int, limit_images: int) -> None:
        self._inputs = inputs
        self._vocabulary, self._max_model_len, self._limit_images = vocabulary, max_model_len, limit_images

    def read(self, value: Any) -> Ask:
        """The request in a body of a chat completion. Raises InvalidInput with what is wrong in it."""
        began = time.perf_counter()
        if not isinstance(value, dict):
            raise InvalidInput(f"a request must be a JSON object, not {str(value)[:80]!r}")
        body = checked(ChatBody, _settled(value))
        messages.check(body.messages, body.tools, limit_images=self._limit_images)
        try:
            prompt = self._inputs.prompt(body.messages, body.tools)
        except RecursionError:
            raise InvalidInput(TOO_DEEP) from None
        sampling = self._sampling(body, len(prompt.ids))
        return Ask(
            model=body.model,
            prompt=prompt,
            sampling=sampling,
            calls=bool(body.tools) and body.tool_choice != "none",
            logprobs=bool(body.logprobs),
            token_ids=bool(body.return_token_ids),
            processor_ms=(time.perf_counter() - began) * 1000,
        )

    def _sampling(self, body: ChatBody, prompt_tokens: int) -> Sampling:
        return Sampling(
            max_tokens=self._room(body, prompt_tokens),
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=max(body.top_k or 0, 0),
            seed=body.seed,
            stop=tuple(body.stop or ()),
            stop_ids=tuple(self._known("stop_token_ids", id) for id in body.stop_token_ids or ()),
            logit_bias={self._known("logit_bias", int(id)): bias for id, bias in (body.logit_bias or {}).items()},
            top_logprobs=body.top_logprobs or 0,
            ignore_eos=bool(body.ignore_eos),
            skip_special_tokens=body.skip_special_tokens is not False,
        )

    def _room(self, body: ChatBody, prompt_tokens: int) -> int:
        """Most tokens of the reply. Raises BadBody when prompt and reply together are longer than the model may read."""
        most = body.max_completion_tokens or body.max_tokens
        left = self._max_model_len - prompt_tokens
        if left < 1:
            said = (
                f"the prompt has {prompt_tokens} tokens; prompt and reply have room for {self._max_model_len} (--max-model-len)"
            )
            raise BadBody([Problem(key="messages", message=said)])
        if most is not None and most > left:
            key = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
            said = (
                f"{most} and the prompt's {prompt_tokens} are {most + prompt_tokens} tokens, and prompt and reply have room for "
                f"{self._max_model_len} (--max-model-len); {left} are left for the reply"
            )
            raise BadBody([Problem(key=key, message=said)])
        return left if most is None else most

    def _known(self, key: str, id: int) -> int:
        if id >= self._vocabulary:
            said = f"there is no token {id}; this model's ids are 0 to {self._vocabulary - 1}"
            raise BadBody([Problem(key=key, message=said)])
        return id


def _settled(value: Mapping[str, Any]) -> dict[str, Any]:
    """A body without the keys that change nothing. Raises BadBody for one whose value would change something."""
    kept: dict[str, Any] = {}
    for key, item in value.items():
        if key in IGNORED:
            continue
        if key not in SETTLED:
            kept[key] = item
            continue
        allowed, holds = SETTLED[key]
        if item is not None and not any(item == one and isinstance(item, bool) == isinstance(one, bool) for one in allowed):
            raise BadBody([Problem(key=key, message=f"{shown(item)} cannot be had: {holds}")])
    return kept

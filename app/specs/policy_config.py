"""What a policy is shown, how it may answer, and how a model among them is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from app.specs.base import HTTP_URL, VARIABLE, Clash, Table
from app.specs.vision import disagreement

PROVIDERS = {
    "openai": "https://api.openai.com/v1",
    "groq": "https://api.groq.com/openai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
}
"""Endpoints that are known by name; any other is told by its address."""

REQUEST_KEYS = (
    "top_p",
    "max_tokens",
    "tool_choice",
    "deadline_s",
    "detail",
    "reasoning_effort",
    "thinking_mode",
    "thinking_budget",
)
"""Keys of `policy_config` that say how a model is asked."""
MODEL_KEYS = (*REQUEST_KEYS, "provider", "inference_url", "api_key_env")
"""Keys of `policy_config` that only a policy with a model reads."""

SERVED_KEYS = ("top_p", "max_tokens", "deadline_s")
"""Those of them that a model reads which synthq serves itself."""


class PolicyConfig(Table):
    """What a policy is shown and how it may answer."""

    use_vision: bool = True
    """The frame is part of the prompt."""
    image_only_mode: bool = False
    """The prompt's user message is the frame alone: no description, no history. Needs `use_vision`."""
    rules: Literal["none", "short", "full", "bare"] = "short"
    """How much of the environment's rules the system message tells: `none` only how to reply; `bare`: there is no system message,
    for a model that was trained so."""
    history: Annotated[int, Field(ge=0, le=64)] = 3
    """How many of the last turns are told as text; 0 in `image_only_mode`."""
    max_actions: Annotated[int, Field(ge=1, le=8)] = 8
    """How many actions one reply may hold."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the probability that a model samples from."""
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = 512
    """Most tokens in one reply of a model."""
    use_tools: bool | None = None
    """Must agree with `eval.reply_format`: true goes with `tool_call`, false with `text`."""
    tool_choice: Literal["auto", "required"] = "auto"
    """Whether a model must call the tool."""
    provider: Literal["openai", "groq", "openrouter"] | None = None
    """Who serves a model: its address, and the variable with the key (`OPENAI_API_KEY` and so on)."""
    inference_url: Annotated[str, StringConstraints(pattern=HTTP_URL, max_length=1000)] | None = None
    """Where a model is served, by the OpenAI-compatible base address `http://HOST:PORT/v1`; in place of `provider`."""
    api_key_env: Annotated[str, StringConstraints(pattern=VARIABLE, max_length=200)] | None = None
    """Name of the variable that holds the endpoint's key where the workers run; no value: the provider's, or no key at all for
    an `inference_url`. The key itself is never stored."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """Seconds for one reply in all: every attempt, every wait between them."""
    detail: Literal["auto", "low", "high"] = "auto"
    """How closely an endpoint should look at the picture."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    """How much a reasoning model should think; sent only when given."""
    thinking_mode: Literal["think", "no_think"] | None = None
    """Switches the thinking of a Qwen-like model on or off in its chat template; sent only when given."""
    thinking_budget: Annotated[int, Field(ge=0, le=131_072)] | None = None
    """Most tokens of thinking, for servers that know it; sent only when given."""
    supports_vision: bool | None = None
    """What is said of the model; must agree with `use_vision`."""
    max_images_per_message: Annotated[int, Field(ge=0, le=16)] | None = None
    """Most pictures in one message of the prompt, which has one with `use_vision` and none without."""

    @model_validator(mode="before")
    @classmethod
    def _no_history_in_image_only_mode(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("image_only_mode") is True and "history" not in value:
            return {**value, "history": 0}
        return value

    def checks(self) -> Iterator[Clash]:
        pictures = {"use_vision": self.use_vision, "supports_vision": self.supports_vision}
        yield from disagreement({**pictures, "max_images_per_message": self.max_images_per_message})
        if self.image_only_mode and not self.use_vision:
            yield Clash("image_only_mode", "true needs use_vision = true: without the picture nothing is left to show")
        if self.image_only_mode and self.history > 0:
            yield Clash("history", f"{self.history} turns of text cannot be told in image_only_mode; write history = 0")
        if self.provider is not None and self.inference_url is not None:
            yield Clash("inference_url", f'provider = "{self.provider}" has an address of its own; keep one of the two')

    @property
    def endpoint(self) -> str | None:
        """The base address where a model is asked; None when neither key says it."""
        return self.inference_url or (PROVIDERS[self.provider] if self.provider else None)

    @property
    def key_variable(self) -> str | None:
        """Name of the variable with the endpoint's key; None when it takes none."""
        return self.api_key_env or (f"{self.provider.upper()}_API_KEY" if self.provider else None)

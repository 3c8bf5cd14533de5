"""What an endpoint is asked: the body of a request, which of its keys are taken there, and the most tokens that it can cost."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from app.store.spending import Tokens
from workers.rollout.policies import wire
from workers.rollout.policies.base import Request
from workers.rollout.policies.openai.refusal import Refusal

Body = dict[str, Any]

NEW_NAME: Final = {"max_tokens": "max_completion_tokens"}
"""Keys that newer models know under another name."""
DROPPABLE: Final = ("temperature", "top_p", "seed", "parallel_tool_calls", "tool_choice")
"""Keys that a request can do without, should the endpoint say that it does not take them."""
_NOT_TAKEN: Final = re.compile(
    r"unsupported|not support|n't support|not permitted|not allowed|unknown|unrecogni[sz]ed|unexpected|extra inputs|extra fields",
    re.IGNORECASE,
)

TEMPLATE_TOKENS: Final = 1024
"""Most tokens that a chat template adds around messages and tools."""
IMAGE_TOKENS: Final = 4096
"""Most tokens that endpoints are known to take for a picture beyond its own patches: fixed counts, and tiles of a picture that
they make larger first."""
TILED_TOKENS: Final = {"gpt-4o-mini": 2_833 + 4 * 5_667}
"""Models that count more: a square picture becomes at most four tiles."""
PATCH_PX: Final = 14
"""Side of the smallest patch that a vision model reads as one token."""


def messages(request: Request, *, upscale_to: int | None, detail: str) -> list[dict[str, Any]]:
    """The prompt in OpenAI's format, its pictures inline, to be looked at so closely."""
    made = wire.messages(request, upscale_to=upscale_to)
    for part in wire.pictures(made):
        part["image_url"]["detail"] = detail
    return made


def most_tokens(body: Mapping[str, Any], *, most_output: int, picture_px: int) -> Tokens:
    """An upper bound of what a request can take.

    A token of text is at least one byte of it, so the bytes of the whole body without its pictures bound the text, and
    ``TEMPLATE_TOKENS`` what the server puts around it. A picture counts one token for every patch of 14 pixels, and
    ``IMAGE_TOKENS`` or the model's own figure beyond that.
    """
    bare = {**body, "messages": [_without_pictures(message) for message in body["messages"]]}
    text = len(json.dumps(bare, ensure_ascii=False).encode())
    fixed = next((count for name, count in TILED_TOKENS.items() if name in body["model"]), IMAGE_TOKENS)
    picture = fixed + (-(-picture_px // PATCH_PX)) ** 2
    return Tokens(input=text + TEMPLATE_TOKENS + picture * len(wire.pictures(body["messages"])), output=most_output)


def _without_pictures(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, list):
        content = [part for part in content if part["type"] != "image_url"]
    return {**message, "content": content}


class Dialect:
    """Which keys of a request an endpoint takes, learned from what it refuses."""

    def __init__(self) -> None:
        self._dropped: set[str] = set()
        self._renamed: set[str] = set()

    def spell(self, body: Body) -> Body:
        """The body as this endpoint takes it."""
        return {NEW_NAME[key] if key in self._renamed else key: value for key, value in body.items() if key not in self._dropped}

    def learn(self, refusal: Refusal, body: Body) -> str | None:
        """What to do otherwise from now on, as a sentence; None when the refusal names no key that can be done without."""
        for key in (*NEW_NAME, *DROPPABLE):
            if key not in body or key in self._dropped | self._renamed or not _names(refusal, key):
                continue
            if key in NEW_NAME:
                self._renamed.add(key)
                return f"sent {NEW_NAME[key]} in place of {key}: {refusal.message}"
            self._dropped.add(key)
            return f"left out {key} = {json.dumps(body[key])}: {refusal.message}"
        return None


def _names(refusal: Refusal, key: str) -> bool:
    """Whether a refusal says of a key that it is not taken."""
    if refusal.status not in (400, 422) or not _NOT_TAKEN.search(f"{refusal.code} {refusal.message}"):
        return False
    if refusal.param:
        return refusal.param == key
    return re.search(rf"(?<!\w){key}(?!\w)", refusal.message) is not None

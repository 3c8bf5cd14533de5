"""A prompt as models are sent it, and a text as a database keeps it: what all policies that ask a model share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from workers.rollout import prompts
from workers.rollout.policies.base import Request
from workers.transport import pixels

_UNSTORABLE: Final = re.compile(r"[\x00\ud800-\udfff]")


def shown_png(request: Request, sha256: str, upscale_to: int | None) -> bytes:
    """The PNG that a model is sent for a stored frame: the same bytes that a line of training data has."""
    assert request.frames is not None, "play gives the bytes of every frame that a prompt names"
    return pixels.enlarged(request.frames(sha256), upscale_to, tiles=getattr(request.env, "tiles", 1))


def messages(request: Request, *, upscale_to: int | None) -> list[dict[str, Any]]:
    """The prompt in OpenAI's format, its pictures inline."""
    return prompts.to_openai(request.messages, lambda sha256: shown_png(request, sha256, upscale_to))


def pictures(wire: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parts of messages in OpenAI's format that are pictures."""
    contents = (message["content"] for message in wire if isinstance(message["content"], list))
    return [part for content in contents for part in content if part["type"] == "image_url"]


def storable(text: str) -> str:
    """A text with what no database keeps, NUL and halves of surrogate pairs, written out as ``\\u0000`` and ``\\ud800``."""
    return _UNSTORABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def unstorable(*texts: str) -> str | None:
    """What texts have that is no text for a database; None when all of it can be kept."""
    found = _UNSTORABLE.search("".join(texts))
    if found is None:
        return None
    return "a NUL character" if found[0] == "\0" else "half a surrogate pair"

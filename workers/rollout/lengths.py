"""How many tokens a line may come to, estimated from above and without a tokenizer. Pure.

docs/traces.md argues for it: a byte-level tokenizer never makes more tokens than bytes; words come in larger pieces; and a
picture comes to what Qwen3-VL's processor makes of its size.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

PATCH_PX: Final = 32
"""Side of the square that becomes one token: a patch of 16 pixels, two merged in each direction."""
LEAST_AREA: Final = 65_536
MOST_AREA: Final = 16_777_216
"""Pixels that Qwen3-VL's processor enlarges a picture to, and shrinks it to."""
AROUND_PICTURE: Final = 2
"""Where a picture begins and ends."""
AROUND_MESSAGE: Final = 5
"""Begin, role, line end; end, line end."""
AROUND_CALL: Final = 32
AROUND_TOOLS: Final = 256
"""What chat templates write around one call and around all tools; Qwen's own writes most, some 60 and 390 bytes."""

_WORD = re.compile(r" ?[A-Za-z]{2,}")
Wire = Mapping[str, Any]
"""A message in OpenAI's format."""


def text(words: str) -> int:
    """Most tokens of a text: one for two letters of an English word, the blank before it counted in; one for any other byte."""
    return len(words.encode()) - sum(len(word) // 2 for word in _WORD.findall(words))


_lasting_text = lru_cache(maxsize=64)(text)
"""The same, remembered: for what every line of a job repeats."""


def picture(width: int, height: int) -> int:
    """Tokens of a picture of so many pixels, with the two around it."""
    high, wide = (max(PATCH_PX, round(side / PATCH_PX) * PATCH_PX) for side in (height, width))
    if high * wide > MOST_AREA:
        shrink = math.sqrt(height * width / MOST_AREA)
        high, wide = (max(PATCH_PX, math.floor(side / shrink / PATCH_PX) * PATCH_PX) for side in (height, width))
    elif high * wide < LEAST_AREA:
        grow = math.sqrt(LEAST_AREA / (height * width))
        high, wide = (math.ceil(side * grow / PATCH_PX) * PATCH_PX for side in (height, width))
    return high * wide // PATCH_PX**2 + AROUND_PICTURE


def line(messages: Iterable[Wire], tools: str | None, pictures: Iterable[tuple[int, int]]) -> int:
    """Most tokens of a line. ``tools`` is their JSON text; ``pictures`` are widths and heights in pixels."""
    about = 0 if tools is None else AROUND_TOOLS + _lasting_json(tools)
    return about + sum(map(_message, messages)) + sum(picture(*size) for size in pictures)


def _message(message: Wire) -> int:
    content = message["content"]
    parts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
    count = _lasting_text if message["role"] == "system" else text
    calls = (call["function"] for call in message.get("tool_calls", ()))
    return AROUND_MESSAGE + sum(map(count, parts)) + sum(_call(call["name"], call["arguments"]) for call in calls)


def _call(name: str, arguments: str) -> int:
    return AROUND_CALL + text(name) + _json(arguments)


def _json(written: str) -> int:
    """JSON, as it is written or with blanks between, as some templates write it anew."""
    try:
        return max(text(written), text(json.dumps(json.loads(written), ensure_ascii=False)))
    except (ValueError, RecursionError):  # a model wrote it, so it may be anything
        return text(written)


_lasting_json = lru_cache(maxsize=64)(_json)

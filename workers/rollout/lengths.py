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

_WORD = re.compile(r" ?[A-Za-z]{2,}")
_CALL = '\n<tool_call>\n{"name": "", "arguments": }\n</tool_call>'
_TOOLS = """

# Tools

These functions can be called:
<tools>

</tools>

To call one, reply with:
<tool_call>
{"name": <name>, "arguments": <JSON object>}
</tool_call>"""
"""What the chat template writes around calls and tools."""

Wire = Mapping[str, Any]
"""A message in OpenAI's format."""


def text(words: str) -> int:
    """Most tokens of a text: one for two letters of an English word, the blank before it counted in; one for any other byte."""
    return len(words.encode()) - sum(len(word) // 2 for word in _WORD.findall(words))


@lru_cache(maxsize=64)
def lasting_text(words: str) -> int:
    """The same, remembered: for what every line of a job repeats."""
    return text(words)


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
    about = 0 if tools is None else lasting_text(_TOOLS) + lasting_text(tools)
    return about + sum(map(_message, messages)) + sum(picture(*size) for size in pictures)


def _message(message: Wire) -> int:
    content = message["content"]
    parts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
    count = lasting_text if message["role"] == "system" else text
    calls = (call["function"] for call in message.get("tool_calls", ()))
    return AROUND_MESSAGE + sum(map(count, parts)) + sum(_call(call["name"], call["arguments"]) for call in calls)


def _call(name: str, arguments: str) -> int:
    try:
        spaced = json.dumps(json.loads(arguments), ensure_ascii=False)  # some templates write the blanks between
    except ValueError:
        spaced = arguments
    return lasting_text(_CALL) + text(name) + max(text(arguments), text(spaced))

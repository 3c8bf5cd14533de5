"""Words in a text that a tokenizer may take for something else: control tokens, places of pictures, marks of a call."""

from __future__ import annotations

import re
from typing import Final

CONTROL: Final = re.compile(r"<\|[^|<>\s]{1,64}\|>")
"""A control token of the Qwen family and its like: ``<|im_end|>``, ``<|image_pad|>``. No text may hold one: it would end a
message, or stand for a picture that is not there."""

FOREIGN: Final = re.compile(
    r"</?(?:s|unk|pad|bos|eos|image|video|audio|start_of_turn|end_of_turn|tools?|tool_call|tool_response)>"
    r"|\[/?INST\]|<</?SYS>>|<start_of_image>|\[IMG(?:_END|_BREAK)?\]"
)
"""What other templates and processors act on, and what this one writes around tools and calls."""


def find(text: str) -> str | None:
    """The first of them in a text, or None."""
    found = [match for match in (CONTROL.search(text), FOREIGN.search(text)) if match]
    return min(found, key=lambda match: match.start())[0] if found else None

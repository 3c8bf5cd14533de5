"""The estimate of tokens: from above, and not by too much."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.rollout import lengths, prompts
from workers.transport import chat

PIECES = re.compile(r" ?[^\W\d_]+| ?\d| ?[^\s\w]+|_+|\s+")
"""How tokenizers of Qwen's kind cut a text before they look at their vocabulary. No token goes over a cut."""
TOOLS = json.dumps(prompts.tools(("noop", "do", "move_left"), 8))


@pytest.mark.parametrize(
    ("side", "tokens"), [(16, 64), (64, 64), (126, 64), (144, 64), (252, 64), (256, 64), (288, 81), (576, 324), (8192, 16_384)]
)
def test_a_square_picture_has_as_many_tokens_as_qwen3_vl_makes_of_it(side: int, tokens: int) -> None:
    assert lengths.picture(side, side) == tokens + lengths.AROUND_PICTURE


def test_an_oblong_picture_keeps_its_form() -> None:
    assert lengths.picture(640, 320) == lengths.picture(320, 640) == 20 * 10 + 2
    assert lengths.picture(64, 16) == (512 // 32) * (128 // 32) + 2


@given(st.text())
def test_no_text_is_estimated_below_its_pieces_or_above_its_bytes(text: str) -> None:
    assert len(PIECES.findall(text)) <= lengths.text(text) <= len(text.encode())


def test_english_is_estimated_at_less_than_its_bytes() -> None:
    words = "You see grass, a tree and a cow. Reply with one call of interact_many."
    assert lengths.text(words) < 0.62 * len(words)
    assert lengths.text("") == 0
    assert lengths.text("42,17") == 5
    assert lengths.text("木") == 3


def test_a_line_is_never_estimated_below_the_pieces_of_what_a_template_makes_of_it() -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "interact_many", "arguments": '{"actions":["do","noop"]}'}}
    messages = [
        {"role": "system", "content": "Reply with one call."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "health 9"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            ],
        },
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    shown = chat.render(messages, json.loads(TOOLS))
    control = re.compile(r"<\|[a-z_]+\|>|</?tool_call>|</?tools>")
    pieces = len(control.findall(shown)) + len(PIECES.findall(control.sub("", shown))) + 64 - 1  # the one picture's tokens
    assert pieces <= lengths.line(messages, TOOLS, [(64, 64)]) <= 3 * pieces


@pytest.mark.parametrize("arguments", ["", "{actions: [do", "[" * 100_000, '{"a": "\\ud800"}'])
def test_arguments_that_a_model_wrote_may_be_anything(arguments: str) -> None:
    call = {"function": {"name": "interact_many", "arguments": arguments}}
    assert lengths.line([{"role": "assistant", "content": "", "tool_calls": [call]}], None, []) >= len(arguments) // 2

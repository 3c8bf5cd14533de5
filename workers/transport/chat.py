"""Messages as the one text that a model reads, and a model's text as the message that it was: the Qwen family's chat form.

``chat_template.jinja`` beside this file says what the text looks like; it is written for jinja2 as transformers runs it, so the
same file serves as the ``chat_template`` of a tokenizer. What a policy emitted as the arguments of a call goes in and out byte
for byte. A text that is not wholly a call is no call: it stays in the content, and the parser says what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.dataset import tokens
from app.errors import InvalidInput

Wire = Mapping[str, Any]
"""A message or a tool in OpenAI's format."""

TEMPLATE: Final = Path(__file__).with_name("chat_template.jinja")
IMAGE: Final = "<|vision_start|><|image_pad|><|vision_end|>"
"""What stands for one picture. A processor makes as many ``<|image_pad|>`` of the one as the picture has tokens."""
END: Final = "<|im_end|>"
"""Ends every message, and with it a reply."""

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_SPACE = " \t\r\n"


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is. jinja2's own filter would write ``<`` and its like for a web page."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(sentence: str) -> NoReturn:
    raise TemplateError(sentence)


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def render(messages: Sequence[Wire], tools: Sequence[Wire] | None = None, add_generation_prompt: bool = False) -> str:
    """Messages in OpenAI's format as the text that a model reads; ``add_generation_prompt`` opens the reply that it gives next.

    Raises InvalidInput for a message of another shape, and for a text that holds a control token: it would be read as one.
    """
    for where, text in _texts({"messages": messages, "tools": tools or ()}):
        if found := tokens.CONTROL.search(text):
            raise InvalidInput(f"{where} holds the control token {found[0]!r}, which would be read as one; take it out")
    try:
        return _template().render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)
    except (TemplateError, TypeError) as error:
        raise InvalidInput(f"these messages are not in OpenAI's chat format: {error}") from error


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in messages and tools, and where it stands. Ids are not rendered, and where a picture comes from is no text."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in ("id", "tool_call_id", "image_url"):
                yield from _texts(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, Sequence):
        for i, item in enumerate(value):
            yield from _texts(item, f"{where}[{i}]")


def prompt_and_reply(messages: Sequence[Wire], tools: Sequence[Wire] | None = None) -> tuple[str, str]:
    """The text before a conversation's last message, which is the assistant's, and the text of it: prompt + reply == ``render``.

    The prompt is what a policy is given; the reply is what it is to learn, its end included. Raises InvalidInput when the last
    message is not the assistant's, and as ``render`` does.
    """
    if not messages or messages[-1].get("role") != "assistant":
        last = repr(messages[-1].get("role")) if messages else "none"
        raise InvalidInput(f"the last message must be of the role 'assistant', not {last}")
    whole = render(messages, tools)
    prompt = render(messages[:-1], tools, add_generation_prompt=True)
    assert whole.startswith(prompt), "the template looks ahead"
    return prompt, whole[len(prompt) :]


def read_reply(text: str) -> dict[str, Any]:
    """A model's reply as an assistant message in OpenAI's format: the inverse of ``render`` for such a message.

    A call is ``<tool_call>``, one JSON object with a text ``name`` and an object ``arguments`` and nothing else, then
    ``</tool_call>``, with any white space between. Calls are named ``call_0`` and so on. Everything else is content.
    """
    said = text.removesuffix("\n").removesuffix(END) if text.endswith((END, f"{END}\n")) else text
    pieces: list[str] = []
    calls: list[dict[str, Any]] = []
    kept = looked = 0
    while (start := said.find(_OPEN, looked)) >= 0:
        call = _call_at(said, start)
        if call is None:
            looked = start + len(_OPEN)
            continue
        name, arguments, looked = call
        pieces.append(said[kept:start])
        calls.append({"id": f"call_{len(calls)}", "type": "function", "function": {"name": name, "arguments": arguments}})
        kept = looked
    pieces.append(said[kept:])
    message: dict[str, Any] = {"role": "assistant", "content": _content(pieces)}
    return {**message, "tool_calls": calls} if calls else message


def _content(pieces: Sequence[str]) -> str:
    """What is said beside the calls, without the line ends that part them."""
    if len(pieces) == 1:
        return pieces[0]
    return pieces[0].removesuffix("\n") + "".join(piece for piece in pieces[1:] if piece.strip(_SPACE))


def _call_at(text: str, start: int) -> tuple[str, str, int] | None:
    """Name, argument text and end of the call that starts here; None when it is not one."""
    try:
        at, name, arguments = _skip(text, start + len(_OPEN)), None, None
        at = _past(text, at, "{")
        while True:
            key, at = _DECODER.raw_decode(text, at)
            first = _past(text, at, ":")
            value, at = _DECODER.raw_decode(text, _skip(text, first))
            at = _skip(text, at)
            if key == "name" and name is None and isinstance(value, str):
                value.encode()  # half a surrogate pair is no text
                name = value
            elif key == "arguments" and arguments is None and isinstance(value, dict):
                arguments = text[first:at].removeprefix(" ")  # white space around an object belongs to its text
            else:
                return None
            if text[at : at + 1] != ",":
                break
            at = _skip(text, at + 1)
        at = _past(text, _past(text, at, "}"), _CLOSE)
    except (ValueError, RecursionError):
        return None
    return (name, arguments, at) if name is not None and arguments is not None else None


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _SPACE:
        at += 1
    return at


def _past(text: str, at: int, mark: str) -> int:
    """The place behind white space and a mark. Raises ValueError where something else stands."""
    at = _skip(text, at)
    if not text.startswith(mark, at):
        raise ValueError(f"no {mark} at {at}")
    return at + len(mark)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)

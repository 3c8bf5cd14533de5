"""The messages of a tracing v3 database, read: prompts as parts, replies as text and tool calls. Nothing is repaired.

What is stored there differs by age and writer: plain text, JSON of ``{role, text, content}``, an assistant message with
``tool_calls``, or a bare list of tool calls. Pure: no database here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.errors import BadFrame
from app.pngs import measure
from app.records import Frame, ImagePart, Message, Part, Reply, TextPart, ToolCall

ROLES: Final = {
    "system": "system",
    "policy_system_prompt": "system",
    "user": "user",
    "policy_user_prompt": "user",
    "assistant": "reply",
    "tool_use": "reply",
    "policy_tool_call": "reply",
}
"""What each type of message is to a turn, old spellings and new."""
TOOL_ROLES: Final = frozenset({"tool_use", "policy_tool_call"})
"""Types that hold tool calls and nothing else."""


class Unusable(Exception):
    """A session that cannot be carried over; the text says what it is, to be counted under."""


@dataclass(slots=True, kw_only=True)
class Prompt:
    """A prompt's message and the pictures in it."""

    message: Message
    frames: list[Frame] = field(default_factory=list)


def storable(text: str) -> str:
    """The text, if a database can hold it. Raises Unusable."""
    if "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)):
        raise Unusable("session with characters that no text may hold (NUL or half a pair)")
    return text


def decoded(content: str) -> Any:
    """The JSON value in a stored content, or None where it is plain text."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def user(content: str) -> Prompt:
    """A user message: its parts in their order, its pictures by hash. Raises Unusable."""
    return _message(content)


def system(content: str) -> str:
    """The text of a system message. Raises Unusable when there is a picture in it."""
    parts = _message(content).message.parts
    if any(isinstance(part, ImagePart) for part in parts):
        raise Unusable("session with a picture in a system message")
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def _message(content: str) -> Prompt:
    value = decoded(content)
    inner = value
    if isinstance(value, dict):
        inner = value.get("content") if value.get("content") is not None else value.get("text")
        inner = json.dumps(value, ensure_ascii=False) if inner is None else inner
    frames: list[Frame] = []
    parts = tuple(_parts(content if inner is None else inner, frames))
    return Prompt(message=Message(role="user", parts=parts), frames=frames)


def _parts(content: Any, frames: list[Frame]) -> Iterator[Part]:
    if isinstance(content, str):
        yield TextPart(text=storable(content))
        return
    if not isinstance(content, list):
        raise Unusable("session with a message whose content is neither text nor a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, dict) and kind in ("image_url", "image"):
            frame = _picture(part)
            frames.append(frame)
            yield ImagePart(sha256=frame.sha256)
        elif isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str)):
            yield TextPart(text=storable(part if isinstance(part, str) else part["text"]))
        else:
            raise Unusable(f"session with a message part of the type {str(kind)[:40]!r}")


def _picture(part: dict[str, Any]) -> Frame:
    url = part.get("image_url", part.get("image"))
    url = url.get("url") if isinstance(url, dict) else url
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise Unusable("session with a picture that is not inline base64")
    try:
        png = base64.b64decode(data, validate=True)
        width, height = measure(png)
    except (binascii.Error, BadFrame):
        raise Unusable("session with a picture that is no whole 8-bit RGB PNG") from None
    return Frame.of(png, width=width, height=height)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a stored reply holds."""

    reply: Reply
    broken: str = ""
    """Why its tool calls cannot be read; empty when they can."""
    reencoded: bool = False
    """A call's arguments were stored as an object: their text is written anew, its values are the same."""


def reply(kind: str, content: str) -> Said:
    """A stored reply. Its text is kept word for word where its tool calls cannot be read. Raises Unusable."""
    value = decoded(content)
    listed = value if isinstance(value, list) else value.get("tool_calls") if isinstance(value, dict) else None
    text = _reply_text(value, content, calls_only=isinstance(value, list))
    try:
        calls, reencoded = _calls(listed)
    except _Broken as broken:
        return Said(reply=Reply(text=storable(content)), broken=str(broken))
    if kind in TOOL_ROLES and not calls:
        return Said(reply=Reply(text=storable(content)), broken="the stored tool call is no JSON list of calls")
    return Said(reply=Reply(text=text, tool_calls=calls), reencoded=reencoded)


def merged(said: Sequence[Said]) -> tuple[Said, int]:
    """The replies of one turn as one: the first text and the first calls. Gives also how many said something else."""
    text = next((each.reply.text for each in said if each.reply.text and not each.broken), "")
    calls = next((each for each in said if each.reply.tool_calls), None)
    broken = next((each for each in said if each.broken), None)
    if calls is None and broken is not None:
        whole = Said(reply=Reply(text=text or broken.reply.text), broken=broken.broken)
    else:
        whole = Said(
            reply=Reply(text=text, tool_calls=calls.reply.tool_calls if calls else ()),
            reencoded=calls.reencoded if calls else False,
        )
    others = sum(
        (each.reply.tool_calls not in ((), whole.reply.tool_calls)) or (each.reply.text not in ("", whole.reply.text))
        for each in said
    )
    return whole, others


class _Broken(Exception):
    """Tool calls that cannot be read; the text says why. Stays inside this file."""


def _reply_text(value: Any, content: str, *, calls_only: bool) -> str:
    if calls_only:
        return ""
    if not isinstance(value, dict):
        return storable(content)
    inner = value.get("content") if value.get("content") is not None else value.get("text")
    if inner is None:
        return "" if "tool_calls" in value else storable(content)
    if isinstance(inner, str):
        return storable(inner)
    if isinstance(inner, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in inner):
        return storable("".join(part["text"] for part in inner))
    return storable(json.dumps(inner, ensure_ascii=False))


def _calls(listed: Any) -> tuple[tuple[ToolCall, ...], bool]:
    if listed is None:
        return (), False
    if not isinstance(listed, list):
        raise _Broken("the stored tool calls are no list")
    calls, reencoded = [], False
    for each in listed:
        body = each.get("function", each) if isinstance(each, dict) else None
        if not isinstance(body, dict):
            raise _Broken("a stored tool call is no object")
        name, arguments = body.get("name", body.get("tool_name")), body.get("arguments", body.get("arguments_json"))
        if not isinstance(name, str) or not isinstance(arguments, str | dict | list):
            raise _Broken("a stored tool call lacks its name or its arguments")
        if not isinstance(arguments, str):
            arguments, reencoded = json.dumps(arguments, ensure_ascii=False), True
        calls.append(ToolCall(name=storable(name), arguments=storable(arguments)))
    return tuple(calls), reencoded

"""Are these messages and tools in OpenAI's format, with pictures that can be had? Sentences name what is wrong and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from app.errors import Problem, did_you_mean
from app.specs.draft import shown
from workers.inference.server.wire import BadBody

ROLES: Final = ("system", "user", "assistant", "tool")
PARTS: Final = ("text", "image_url")
MOST_TOLD: Final = 20

_READ: Final = {"role", "content", "tool_calls"}
_UNREAD: Final = {"annotations", "name", "reasoning", "reasoning_content", "refusal", "tool_call_id"}
"""Keys that no template here writes."""


def check(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None, *, limit_images: int) -> None:
    """Raises BadBody with the problems of messages and tools."""
    found = [fault for i, message in enumerate(messages) for fault in _message(f"messages.{i}", message)]
    found += [fault for i, tool in enumerate(tools or ()) for fault in _tool(f"tools.{i}", tool)]
    if not found and (count := pictures(messages)) > limit_images:
        most = f"at most {limit_images} picture{'s' * (limit_images != 1)}" if limit_images else "no pictures"
        found = [("messages", f"{count} picture{'s' * (count != 1)}; this engine takes {most} in one prompt (--limit-images)")]
    if found:
        raise BadBody(Problem(key=key, message=said) for key, said in found[:MOST_TOLD])


def pictures(messages: Sequence[dict[str, Any]]) -> int:
    """How many pictures messages hold."""
    contents = (message.get("content") for message in messages)
    return sum(part["type"] == "image_url" for content in contents if isinstance(content, list) for part in content)


Fault = tuple[str, str]
"""Where something is wrong, and what."""


def _message(key: str, message: dict[str, Any]) -> Iterator[Fault]:
    role = message.get("role")
    if role not in ROLES:
        near = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        yield f"{key}.role", f"must be one of {', '.join(ROLES)}, not {shown(role)}{near}"
        return
    for name in message.keys() - _READ - _UNREAD:
        if message[name]:
            yield f"{key}.{name[:80]}", f"no message has such a key here (known: {', '.join(sorted(_READ | _UNREAD))})"
    yield from _content(f"{key}.content", role, message.get("content"))
    calls = message.get("tool_calls")
    if calls is None or calls == []:
        return
    if role != "assistant":
        yield f"{key}.tool_calls", f"a message of the role {role!r} makes no calls; only one of 'assistant' does"
    elif not isinstance(calls, list):
        yield f"{key}.tool_calls", f"must be a list, not {shown(calls)}"
    else:
        for i, call in enumerate(calls):
            yield from _call(f"{key}.tool_calls.{i}", call)


def _content(key: str, role: str, content: Any) -> Iterator[Fault]:
    if isinstance(content, str) or (content is None and role == "assistant"):
        return
    if not isinstance(content, list):
        yield key, f"must be text or a list of parts, not {shown(content)}"
        return
    for i, part in enumerate(content):
        yield from _part(f"{key}.{i}", role, part)


def _part(key: str, role: str, part: Any) -> Iterator[Fault]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in PARTS:
        near = did_you_mean(kind, PARTS) if isinstance(kind, str) else ""
        given = shown(kind if isinstance(part, dict) else part)
        yield key, f"a part is an object whose type is one of {', '.join(PARTS)}, not {given}{near}"
    elif kind == "text":
        if not isinstance(part.get("text"), str):
            yield f"{key}.text", f"must be text, not {shown(part.get('text'))}"
    elif role != "user":
        yield key, f"a message of the role {role!r} holds no pictures; only one of 'user' does"
    else:
        yield from _picture(f"{key}.image_url", part.get("image_url"))


def _picture(key: str, value: Any) -> Iterator[Fault]:
    url = value.get("url") if isinstance(value, dict) else None
    if not isinstance(url, str):
        yield key, 'must be an object with a url that is text, such as {"url": "data:image/png;base64,..."}'


def _call(key: str, call: Any) -> Iterator[Fault]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        yield (
            key,
            'must be an object such as {"id": "call_0", "type": "function", "function": {"name": "act", "arguments": "{}"}}',
        )
    elif not isinstance(function.get("arguments"), str | dict):
        yield f"{key}.function.arguments", f"must be the text of a JSON object, not {shown(function.get('arguments'))}"


def _tool(key: str, tool: Any) -> Iterator[Fault]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or tool.get("type", "function") != "function":
        yield key, 'must be an object such as {"type": "function", "function": {"name": "act", "parameters": {...}}}'

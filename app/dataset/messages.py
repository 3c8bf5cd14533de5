"""The messages of a line: roles, content, images, replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.dataset import calls, images
from app.dataset.look import Look
from app.dataset.source import kind, shown
from app.dataset.summary import count
from app.errors import did_you_mean

ROLES: Final = ("system", "user", "assistant", "tool")
MESSAGE_KEYS: Final = {
    "system": ("role", "content", "name"),
    "user": ("role", "content", "name"),
    "assistant": ("role", "content", "name", "tool_calls", "weight", "refusal"),
    "tool": ("role", "content", "tool_call_id"),
}
DEPRECATED: Final = {"functions": "tools", "function_call": "tool_calls"}
DETAILS: Final = ("auto", "low", "high")


def conversation(look: Look, messages: Any, *, one_call: bool) -> None:
    """Look at all messages; ``one_call``: a message makes one call at the most."""
    if not isinstance(messages, list) or not messages:
        look.bad("messages", f"is {shown(messages)}; it must be a list of messages")
        return
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if isinstance(message, dict):
            _message(look, message, where, one_call=one_call)
        else:
            look.bad(where, f"is {kind(message)}; a message is {{'role': ..., 'content': ...}}")
    replies = [each for each in messages if isinstance(each, dict) and each.get("role") == "assistant"]
    learnt = [each for each in replies if each.get("weight") != 0]
    look.counts.replies += len(learnt)
    if not learnt:
        why = (
            "every message of the role 'assistant' has the weight 0" if replies else "there is no message of the role 'assistant'"
        )
        look.bad("messages", f"{why}, so there is nothing to learn from; a line needs a reply")
    elif look.strict and messages[-1] is not replies[-1]:
        last = messages[-1].get("role") if isinstance(messages[-1], dict) else messages[-1]
        look.bad(
            f"messages[{len(messages) - 1}]", f"is of the role {shown(last)}; the last message must be the assistant's reply"
        )


def _message(look: Look, message: dict[str, Any], where: str, *, one_call: bool) -> None:
    look.counts.messages += 1
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        near = did_you_mean(role[:60], ROLES) if isinstance(role, str) else ""
        look.bad(f"{where}.role", f"is {shown(role)}, which is no role{near} (known: {', '.join(ROLES)})")
        return
    look.counts.roles[role] += 1
    _message_keys(look, message, role, where)
    called = message.get("tool_calls") if role == "assistant" else None
    spoken = called is not None or (role == "assistant" and message.get("refusal") is not None)
    said = _content(look, message.get("content"), role, f"{where}.content", optional=spoken)
    if called is not None:
        calls.made(look, called, f"{where}.tool_calls", one_call=one_call)
    if role == "assistant":
        _reply(look, message, where, empty=not said and not spoken)
    elif role == "tool":
        calls.answered(look, message.get("tool_call_id"), f"{where}.tool_call_id")


def _message_keys(look: Look, message: Mapping[str, Any], role: str, where: str) -> None:
    for key, value in message.items():
        if key in DEPRECATED and value is not None:
            look.bad(f"{where}.{key}", f"is deprecated by OpenAI and not read here; use {DEPRECATED[key]!r}")
        elif key not in MESSAGE_KEYS[role] and value is not None:  # a table of all lines has null where a message lacks a key
            known = MESSAGE_KEYS[role]
            near = did_you_mean(key[:60], known)
            look.bad(f"{where}.{key[:60]}", f"is no key of a message of the role {role!r}{near} (known: {', '.join(known)})")
    name = message.get("name")
    if name is not None and not isinstance(name, str):
        look.bad(f"{where}.name", f"is {shown(name)}; it must be a text")
    elif name is not None:
        look.text(name, role, f"{where}.name")


def _reply(look: Look, message: Mapping[str, Any], where: str, *, empty: bool) -> None:
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool | float) or weight not in (0, 1)):
        look.bad(f"{where}.weight", f"is {shown(weight)}; it must be 0 or 1")
    refusal = message.get("refusal")
    if refusal is not None and not isinstance(refusal, str):
        look.bad(f"{where}.refusal", f"is {shown(refusal)}; it must be a text")
    elif refusal is not None and look.strict:
        look.bad(f"{where}.refusal", "is not a part of the chat form that models are trained in here; say it in 'content'")
    if empty and look.strict and weight != 0 and isinstance(message.get("content"), str | list):
        look.bad(f"{where}.content", "is empty and the message calls no tool; a reply says or does something")


def _content(look: Look, content: Any, role: str, where: str, *, optional: bool) -> bool:
    """Look at a message's content; was anything said or shown?"""
    if isinstance(content, str):
        look.text(content, role, where)
        if look.strict and role == "user" and not content.strip():
            look.bad(where, "is empty; a user's message says or shows something")
        return bool(content.strip())
    if isinstance(content, list) and (content or optional):
        before = look.images
        said = [_part(look, part, role, f"{where}[{i}]") for i, part in enumerate(content)]
        most, images_here = look.options.max_images, look.images - before
        if most is not None and images_here > most:
            look.bad(where, f"holds {images_here} images; max_images_per_message is {most}")
        return any(said)
    if content is not None or not optional:
        wanted = "a text, or a list of parts of the types text and image_url" if role == "user" else "a text"
        look.bad(where, f"is {shown(content)}; it must be {wanted}")
    return False


def _part(look: Look, part: Any, role: str, where: str) -> bool:
    type_ = part.get("type") if isinstance(part, dict) else None
    if type_ == "text":
        if not isinstance(part.get("text"), str):
            look.bad(f"{where}.text", f"is {shown(part.get('text'))}; it must be a text")
            return False
        look.text(part["text"], role, f"{where}.text")
        _part_keys(look, part, ("type", "text"), where)
        return bool(part["text"].strip())
    if type_ == "image_url":
        _image(look, part, role, where)
        return True
    right = "{'type': 'text', 'text': ...}"
    if role == "user":
        right += " or {'type': 'image_url', 'image_url': {'url': ...}}"
    look.bad(where, f"is {shown(part)}; a part is {right}")
    return False


def _part_keys(look: Look, part: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key, value in part.items():
        if key not in known and value is not None:
            look.bad(
                f"{where}.{key[:60]}",
                f"is no key that belongs here{did_you_mean(key[:60], known)} (known: {', '.join(known)})",
            )


def _image(look: Look, part: Mapping[str, Any], role: str, where: str) -> None:
    look.images += 1
    look.counts.images += 1
    _part_keys(look, part, ("type", "image_url"), where)
    if role != "user":
        look.bad(where, f"is an image in a message of the role {role!r}; images may be in messages of the role 'user'")
    where, image = f"{where}.image_url", part.get("image_url")
    if not isinstance(image, dict):
        look.bad(where, f"is {shown(image)}; it must be {{'url': 'data:image/png;base64,...'}}")
        return
    _part_keys(look, image, ("url", "detail"), where)
    if image.get("detail") is not None and image["detail"] not in DETAILS:
        look.bad(f"{where}.detail", f"is {shown(image['detail'])}; it must be one of {', '.join(DETAILS)}")
    try:
        picture = images.look(image.get("url"), strict=look.strict)
    except images.Unfit as unfit:
        look.bad(f"{where}.url", str(unfit))
        return
    if picture.linked:
        look.counts.links += 1
        return
    look.counts.image_bytes += len(picture.data)
    count(look.counts.image_sizes, f"{picture.format} {picture.width}x{picture.height}")

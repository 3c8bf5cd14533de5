"""One line of training data for people: who says what, the pictures' sizes, the calls, and the pictures as PNG files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from app.dataset import images
from app.dataset import source as lines
from app.errors import InvalidInput

TEXT_CHARS = 2000
"""Characters of one text that are shown."""


def find(path: Path, number: int) -> bytes | None:
    """A line by its 1-based number. Raises InvalidInput when the file has fewer."""
    count = 0
    for count, content in enumerate(lines.lines_of(path), 1):
        if count == number:
            return content
    raise InvalidInput(f"{path} has {count} lines, so no line {number}")


def told(line: Any) -> Iterator[str]:
    """A line as text. What is not in the form of a chat is shown as JSON."""
    if not isinstance(line, dict):
        yield lines.shown(line, TEXT_CHARS)
        return
    for i, message in enumerate(line["messages"] if isinstance(line.get("messages"), list) else ()):
        role = message.get("role") if isinstance(message, dict) else None
        weight = f", weight {message['weight']}" if isinstance(message, dict) and message.get("weight") is not None else ""
        yield f"[{i}] {role if isinstance(role, str) else 'no role'}{weight}"
        yield from (f"    {text}" for text in _message(message))
    for tool in line.get("tools") or ():
        yield f"tool  {lines.shown(tool, TEXT_CHARS)}"
    for key, value in line.items():
        if key not in ("messages", "tools"):
            yield f"{key}  {lines.shown(value, TEXT_CHARS)}"


def _message(message: Any) -> Iterator[str]:
    if not isinstance(message, dict):
        yield lines.shown(message, TEXT_CHARS)
        return
    content = message.get("content")
    for part in [content] if isinstance(content, str) and content else content if isinstance(content, list) else ():
        if isinstance(part, str):
            yield from _text(part)
        elif isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            yield from _text(part["text"])
        elif isinstance(part, dict) and part.get("type") == "image_url":
            yield f"<image: {_image(part)}>"
        else:
            yield lines.shown(part, TEXT_CHARS)
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            yield f"calls {function.get('name')}({function['arguments']})"
        else:
            yield f"calls {lines.shown(call, TEXT_CHARS)}"
    if message.get("tool_call_id") is not None:
        yield f"answers {lines.shown(message['tool_call_id'])}"


def _text(text: str) -> list[str]:
    cut = f" ... ({len(text) - TEXT_CHARS:,} characters more)" if len(text) > TEXT_CHARS else ""
    return (text[:TEXT_CHARS] + cut).split("\n")


def _image(part: dict[str, Any]) -> str:
    url = part["image_url"].get("url") if isinstance(part.get("image_url"), dict) else part.get("image_url")
    try:
        picture = images.look(url, strict=False)
    except images.Unfit as unfit:
        return f"the URL {unfit}"
    if picture.linked:
        return str(url)
    return f"{picture.format} {picture.width} x {picture.height}, {len(picture.data):,} bytes"


def save_images(line: Any, folder: Path, stem: str) -> Iterator[Path]:
    """Write every picture of a line as PNG into a folder, which is made; one that cannot be read is left to ``told`` to tell.

    A PNG is written byte for byte, the others are turned into one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(_pictures(line), 1):
        target = folder / f"{stem}-image-{number}.png"
        target.write_bytes(picture.data if picture.format == "PNG" else _as_png(picture.data))
        yield target


def _pictures(line: Any) -> Iterator[images.Picture]:
    messages = line.get("messages") if isinstance(line, dict) else None
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            image = part.get("image_url") if isinstance(part, dict) else None
            try:
                picture = images.look(image.get("url") if isinstance(image, dict) else image, strict=False)
            except images.Unfit:
                continue
            if not picture.linked:
                yield picture


def _as_png(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image, io.BytesIO() as out:
        image.save(out, "PNG")
        return out.getvalue()


def as_json(line: Any, saved: list[Path]) -> str:
    """A line as JSON, without the bytes of its pictures."""
    return json.dumps({"line": _without_bytes(line), "images": [str(path) for path in saved]}, indent=2, ensure_ascii=False)


def _without_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_bytes(item) for item in value]
    if isinstance(value, str) and value[:5].lower() == "data:" and len(value) > 100:
        return f"{value[:40]}... ({len(value):,} characters)"
    return value

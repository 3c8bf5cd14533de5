"""Lines of a JSONL file, one after another in bounded memory, and the strict reading of one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from app import strict_json

LONGEST_LINE: Final = 256 * 1024 * 1024
"""Bytes of the longest line that is read: ten images of 10 MB each take 134 MB as base64."""
_PIECE: Final = 1024 * 1024
_NOT_JSON = "is not JSON"


class Unreadable(Exception):
    """A line cannot be read; the text says why. Stays inside this package."""


class NotLines(Unreadable):
    """The file is something else altogether, so its other lines are not worth reading."""


def lines_of(source: Path | Iterable[bytes]) -> Iterator[bytes | None]:
    """The lines of a file, or of anything that gives lines, with their ends. None stands for one that is too long to read."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield from _bounded(file)
    else:
        yield from (line if len(line) <= LONGEST_LINE else None for line in source)


def _bounded(file: BinaryIO) -> Iterator[bytes | None]:
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) <= LONGEST_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_PIECE)
        yield None


def read(line: bytes | None, number: int) -> Any:
    """The value of one line. Raises Unreadable with a sentence for anything but one JSON value in UTF-8."""
    if line is None:
        raise Unreadable(f"the line is longer than {LONGEST_LINE} bytes, the most that is read; a line is one example")
    if not line.strip():
        raise Unreadable("the line is empty; take it out, every line is one JSON object")
    if number == 1:
        _beginning(line)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"byte {error.start + 1} of the line, {line[error.start]:#04x}, is not UTF-8; save the file as UTF-8"
        ) from None
    try:
        return strict_json.read(text)
    except json.JSONDecodeError as error:
        raise Unreadable(f"the line {_NOT_JSON}: {mistake(error)}{_hint(error, line)}") from None
    except strict_json.NotStrict as error:
        raise Unreadable(f"the line {error}") from None
    except ValueError as error:  # a number with thousands of digits
        raise Unreadable(f"the line cannot be read: {error}") from None


def _beginning(line: bytes) -> None:
    """Files that are something else altogether, told by their first bytes."""
    if line.startswith(b"\xef\xbb\xbf"):
        raise Unreadable("the file begins with a byte order mark; save it as UTF-8 without one")
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise NotLines("the file is UTF-16; save it as UTF-8")
    if line.startswith(b"\x1f\x8b"):
        raise NotLines("the file is packed with gzip; unpack it first")
    if line.startswith(b"PK\x03\x04"):
        raise NotLines("the file is a zip archive; unpack it first")
    if line.startswith(b"PAR1"):
        raise NotLines("the file is Parquet; write it as JSON, one object a line")
    if line.lstrip().startswith(b"["):
        raise NotLines("the file is one JSON list; write one JSON object a line, which a filter does with output = FILE.jsonl")
    if line.strip() == b"{":
        raise Unreadable(
            f"the line holds {line.strip().decode()!r} alone: one value over many lines; write one JSON object a line"
        )


def mistake(error: json.JSONDecodeError) -> str:
    """What is wrong with a JSON text and where: ``expecting value at character 16, near 'True}'``."""
    near = error.doc[error.pos : error.pos + 20].rstrip("\r\n")
    what = f"{error.msg[:1].lower()}{error.msg[1:]}".removesuffix(" at")
    return f"{what} at character {error.pos + 1}, near {near!r}" if near else f"{what} at its end"


def _hint(error: json.JSONDecodeError, line: bytes) -> str:
    if error.msg == "Extra data" and error.doc.startswith("{", error.pos):
        return "; two lines may have run together"
    open_end = error.msg.startswith("Unterminated") or not error.doc[error.pos :].strip()
    return "; the file may have been cut here" if open_end and not line.endswith(b"\n") else ""


def kind(value: Any) -> str:
    """What a JSON value is, in a word."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else names[type(value)]


def shown(value: Any, most: int = 60) -> str:
    """A JSON value as a sentence can carry it."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= most else f"{text[:most]}..."

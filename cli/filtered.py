"""What a filter job came to, for people: each key and what it removed, then what is left, then the files. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from cli import show

Json = Mapping[str, Any]

CUTS: Final = ("offset", "limit")
"""Keys that come after lines were drawn, some of them more than once."""


def told(summary: Json) -> list[str]:
    """The summary of a filter, as lines."""
    removed, files = list(_removed(summary)), [_file(each) for each in summary.get("files") or [] if isinstance(each, dict)]
    parts = [
        show.table(["key", "removed", "of"], removed) if removed else [],
        show.fields(_left(summary)),
        show.table(["file", "lines", "size"], files) if files else [],
    ]
    lines: list[str] = []
    for part in filter(None, parts):
        lines += ["", *part] if lines else part
    return lines


def _removed(summary: Json) -> Iterator[list[str]]:
    """A row for each key that removed something: how much of what had come as far as it."""
    keys, again = _within(summary, "removed"), _whole(summary.get("repeated"))
    reached = {
        "episodes": _whole(_within(summary, "episodes").get("seen")),
        "turns": _whole(_within(summary, "turns").get("read")),
        "lines": _whole(_within(summary, "turns").get("kept")),
    }
    for unit, left in reached.items():
        for key, number in _within(keys, unit).items():
            if unit == "lines" and key in CUTS:
                left, again = left + again, 0
            yield [show.clean(key), f"{_whole(number):,}", f"{left:,} {unit}"]
            left -= _whole(number)


def _left(summary: Json) -> Iterator[tuple[str, str]]:
    episodes, repeated = _within(summary, "episodes"), _whole(summary.get("repeated"))
    yield "episodes", f"{_whole(episodes.get('kept')):,} of {_whole(episodes.get('seen')):,}"
    if blank := _whole(summary.get("blank_frames")):
        yield "black pictures", f"{blank:,} of the episodes kept: what is said of them teaches a model not to look"
    yield "lines", f"{_whole(summary.get('lines')):,}" + (f", {repeated:,} of them drawn again" if repeated else "")
    yield "pictures", f"{_whole(summary.get('frames')):,}"
    yield "tokens", f"{_whole(summary.get('tokens')):,} at the most"


def _file(file: Json) -> list[str]:
    lines = f"{_whole(file['lines']):,}" if "lines" in file else ""
    return [show.clean(file.get("name")), lines, show.size(file.get("bytes"))]


def _within(value: Json, key: str) -> Json:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0

"""The check of a whole file: one pass, in memory for one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from app.dataset import source as lines
from app.dataset.line import check as check_line
from app.dataset.look import Look
from app.dataset.summary import Options, Summary
from app.errors import BadDataset, Problem

LEAST_LINES: Final = 10
MOST_IMAGE_LINES: Final = 50_000
MOST_BYTES: Final = 512_000_000
"""What OpenAI takes: examples, examples with images, bytes of a file."""


def check(
    source: Path | Iterable[bytes],
    options: Options | None = None,
    summary: Summary | None = None,
    *,
    name: str | None = None,
    after_line: Callable[[], None] = lambda: None,
) -> Iterator[Problem]:
    """Every problem of a file, or of lines as bytes, in their order; ``summary`` is filled on the way.

    A problem has its 1-based line, except those of the file as a whole, which come last; and the file's ``name``, which is the
    path when a path is given. ``after_line`` is called after each, for progress. Raises OSError when the file cannot be read.
    """
    options, summary = options or Options(), summary if summary is not None else Summary()
    file = name or (str(source) if isinstance(source, Path) else None)
    for number, content in enumerate(lines.lines_of(source), 1):
        try:
            found = _line(content, number, options, summary)
        except lines.NotLines as why:
            summary.problems, summary.bad_lines = 1, 1
            yield Problem(key="", message=str(why), file=file, line=number)
            return
        summary.problems += len(found)
        summary.bad_lines += bool(found)
        for where, sentence in found:
            yield Problem(key=where, message=sentence, file=file, line=number)
        after_line()
    for sentence in _whole(options, summary):
        summary.problems += 1
        yield Problem(key="", message=sentence, file=file)


def _line(content: bytes | None, number: int, options: Options, summary: Summary) -> list[tuple[str, str]]:
    summary.lines += 1
    summary.bytes += len(content or b"")
    try:
        value = lines.read(content, number)
    except lines.NotLines:
        raise
    except lines.Unreadable as why:
        return [("", str(why))]
    look = Look(options=options, counts=summary)
    check_line(look, value)
    return look.problems


def _whole(options: Options, summary: Summary) -> Iterator[str]:
    if not summary.lines:
        yield "there is no line; a dataset has one example a line"
    elif not options.strict and summary.lines < LEAST_LINES:
        yield f"there are {summary.lines} lines; OpenAI takes {LEAST_LINES} or more"
    if not options.strict and summary.image_lines > MOST_IMAGE_LINES:
        yield f"there are {summary.image_lines} lines with images; OpenAI takes {MOST_IMAGE_LINES} at the most"
    if not options.strict and summary.bytes > MOST_BYTES:
        yield f"there are {summary.bytes} bytes; OpenAI takes files of {MOST_BYTES} bytes at the most"


def ensure(source: Path | Iterable[bytes], options: Options | None = None, *, name: str | None = None, most: int = 20) -> Summary:
    """Check all of it; raises BadDataset with the first ``most`` problems and the number of the others."""
    summary = Summary()
    kept: list[Problem] = []
    for problem in check(source, options, summary, name=name):
        if len(kept) < most:
            kept.append(problem)
    if kept:
        raise BadDataset(kept, total=summary.problems, lines=summary.lines)
    return summary

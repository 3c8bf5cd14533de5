"""``python -m app.dataset check FILE`` and ``show FILE --line N``: training data looked at from the command line.

Problems and counts go to stdout; progress, on a terminal, to stderr. Exit code 0: no problem; 2: there are problems.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from app.dataset import show
from app.dataset import source as lines
from app.dataset.check import check
from app.dataset.summary import FORMATS, Options, Summary
from app.errors import InvalidInput, NotFound, Problem, SynthqError

PROBLEMS_EXIT = InvalidInput.exit_code
INTERRUPTED = 130
BROKEN_PIPE = 141
PROGRESS_S = 0.5
SCHEMA_VERSION = 1
"""Of the object that --json prints."""


def parser() -> argparse.ArgumentParser:
    """The two verbs and their flags."""
    made = argparse.ArgumentParser(prog="python -m app.dataset", description=__doc__)
    verbs = made.add_subparsers(dest="verb", required=True)
    asked = verbs.add_parser("check")
    asked.add_argument("file", type=Path)
    asked.add_argument("--format", choices=FORMATS, default="synthq")
    asked.add_argument("--max-images", type=int)
    asked.add_argument("--max-problems", type=int, default=100)
    asked.add_argument("--json", action="store_true")
    asked = verbs.add_parser("show")
    asked.add_argument("file", type=Path)
    asked.add_argument("--line", type=int, required=True)
    asked.add_argument("--images", type=Path)
    asked.add_argument("--json", action="store_true")
    return made


def main(words: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = parser().parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        if not given.file.exists():
            raise NotFound(f"there is no file {str(given.file)!r}")
        code = _check(given) if given.verb == "check" else _show(given)
        sys.stdout.flush()
        return code
    except SynthqError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    except BrokenPipeError:  # the reader has left, as in `| head`: say nothing more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except OSError as error:
        sys.stderr.write(f"Error: {error.filename or 'the system'}: {error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _check(given: argparse.Namespace) -> int:
    summary, meter, kept = Summary(), Meter(given.file), 0
    listed: list[Problem] = []
    options = Options(format=given.format, max_images=given.max_images)
    for problem in check(given.file, options, summary, after_line=lambda: meter.show(summary)):
        kept += 1
        if kept > given.max_problems:
            continue
        if given.json:
            listed.append(problem)
        else:
            meter.clear()
            _print(str(problem))
    meter.clear()
    if given.json:
        _print_json(given, summary, listed)
    else:
        _print_summary(given, summary)
    return PROBLEMS_EXIT if summary.problems else 0


def _print(text: str) -> None:
    """A line on stdout, without what could drive a terminal."""
    sys.stdout.write("".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + "\n")


def _print_summary(given: argparse.Namespace, summary: Summary) -> None:
    more = summary.problems - given.max_problems
    if more > 0:
        _print(f"and {_counted(more, 'problem')} more, not listed (--max-problems)")
    if summary.problems:
        _print("")
    width = max(len(name) for name, _ in summary.rows())
    for name, text in summary.rows():
        _print(f"{name:<{width}}  {text}")
    if summary.problems:
        _print(f"✗ {_counted(summary.problems, 'problem')} in {given.file}")
    else:
        _print(f"✓ no problem in {given.file} ({given.format} format)")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _print_json(given: argparse.Namespace, summary: Summary, listed: list[Problem]) -> None:
    found = [{"line": each.line, "where": each.key, "message": each.message} for each in listed]
    told = {
        "schema_version": SCHEMA_VERSION,
        "file": str(given.file),
        "format": given.format,
        "ok": not summary.problems,
        "problems": found,
        "problems_not_listed": summary.problems - len(found),
        "summary": summary.as_json(),
    }
    sys.stdout.write(json.dumps(told, indent=2) + "\n")


def _show(given: argparse.Namespace) -> int:
    content = show.find(given.file, given.line)
    try:
        line = lines.read(content, given.line)
    except lines.Unreadable as why:
        raise InvalidInput(f"{given.file}:{given.line}: {why}") from None
    found = [replace(each, line=None) for each in check([content or b""])]
    saved = list(show.save_images(line, given.images, f"line-{given.line}")) if given.images else []
    if given.json:
        sys.stdout.write(show.as_json(line, saved) + "\n")
    else:
        for text in _shown(line, found, saved):
            _print(text)
    return PROBLEMS_EXIT if found else 0


def _shown(line: object, found: list[Problem], saved: list[Path]) -> Iterator[str]:
    yield from show.told(line)
    yield from (f"wrote {path}" for path in saved)
    yield from (f"✗ {problem}" for problem in found)


class Meter:
    """How far a check is, on a terminal: a line on stderr that is written over."""

    def __init__(self, file: Path) -> None:
        self._whole = file.stat().st_size if file.is_file() else 0
        self._on = sys.stderr.isatty()
        self._next = time.monotonic() + PROGRESS_S
        self._there = False

    def show(self, summary: Summary) -> None:
        """Show it now and then."""
        if not self._on or time.monotonic() < self._next:
            return
        share = f"{100 * summary.bytes // self._whole} %, " if self._whole else ""
        sys.stderr.write(f"\r\x1b[K{share}{summary.lines:,} lines, {_counted(summary.problems, 'problem')}")
        sys.stderr.flush()
        self._next, self._there = time.monotonic() + PROGRESS_S, True

    def clear(self) -> None:
        """Make room for what is to stay."""
        if self._there:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._there = False


if __name__ == "__main__":
    sys.exit(main())

"""What the verbs that work on the database itself share: an error as a sentence, progress, aligned rows, one JSON object.

The CLI starts them as ``python -m app...``; everything else of the CLI speaks HTTP.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy.exc import OperationalError

from app.errors import StoreUnavailable, SynthqError

INTERRUPTED: Final = 130
SCHEMA_VERSION: Final = 1
"""Version of the form of what ``--json`` prints, as in the CLI's other verbs."""


def told(run: Callable[[], int]) -> int:
    """Run a command; its exit code. What goes wrong becomes one sentence on stderr."""
    try:
        return run()
    except SynthqError as error:
        return _say_error(error)
    except OperationalError as error:
        return _say_error(StoreUnavailable(f"the database does not answer: {error.orig}"))
    except OSError as error:
        say(f"Error: {error.filename or 'the system'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _say_error(error: SynthqError) -> int:
    say(f"Error: {error}")
    return error.exit_code


def say(text: str) -> None:
    """Print a message: a line on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def out(text: str) -> None:
    """Print data: a line on stdout."""
    sys.stdout.write(f"{text}\n")


def out_json(value: Mapping[str, Any]) -> None:
    """Print one object on stdout."""
    out(json.dumps({"schema_version": SCHEMA_VERSION, **value}, indent=2, ensure_ascii=False))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Rows as aligned lines under a line of headers; numbers to the right."""
    body = [list(headers), *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in body) for i in range(len(headers))]
    numeric = [all(row[i].replace(",", "").isdecimal() for row in body[1:]) for i in range(len(headers))]
    return [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip() for row in body
    ]


def size(count: int) -> str:
    """``1.6 MB``."""
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} bytes"


def counted(count: int, noun: str) -> str:
    """``1 job``, ``2,000 jobs``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


Tick = Callable[[int], None]
"""Takes how many more are done."""


def no_tick(count: int) -> None:
    """Progress that nobody sees."""


@contextmanager
def meter(what: str, total: int | None = None) -> Iterator[Tick]:
    """A live bar on stderr while the block runs, if that is a terminal; else nothing."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield no_tick
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)

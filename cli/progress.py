"""A job's progress on stderr while it runs: a live bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TextIO

import click

from cli import show

Json = dict[str, Any]

WINDOW_S: Final = 30.0
"""Rates are means over this many seconds."""
LINE_S: Final = 10.0
"""Without a terminal, progress is told this often at the most."""
SECONDS: Final = re.compile(r"\b\d+ s\b")
"""How long something has lasted: it is another each time one looks, and no news."""


class Meter(Protocol):
    """What shows the progress of one job."""

    def update(self, job: Json) -> None:
        """Show the job as it is now."""

    def tell(self, line: str) -> None:
        """Print a line that stays."""


class Pace:
    """How fast a count grows, from the last few looks at it."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, done: int) -> None:
        """Note the count now. A count that fell (a retry) starts afresh."""
        now = self._clock()
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] < now - WINDOW_S:
            self._seen.popleft()

    @property
    def per_s(self) -> float | None:
        """Units a second; None while there is nothing to tell."""
        if len(self._seen) < 2:
            return None
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start and last > first else None

    def left_s(self, total: int) -> float | None:
        """Seconds to go at this pace; None while it is not known."""
        return (total - self._seen[-1][1]) / self.per_s if self.per_s else None


def _tail(job: Json, pace: Pace) -> str:
    """``, 3.2 episodes/s, 12 s to go``."""
    progress = job.get("progress") or {}
    if job.get("left_s") is not None:  # its figures tell more than the last half minute does
        return f", about {show.duration(job['left_s'])} to go"
    rate, left = pace.per_s, pace.left_s(int(progress.get("total") or 0))
    if progress.get("unit") == "iterations":
        return ""
    speed = f", {rate:.3g} {progress.get('unit') or 'units'}/s" if rate else ""
    return speed + (f", {show.duration(left)} to go" if left else "")


def _now(job: Json) -> str:
    """What a job does at this moment, in a few words."""
    waiting = f": {show.clean(job['waiting'])}" if job.get("waiting") else ""
    stopping = ", cancel requested" if job.get("cancel_requested") else ""
    return f"{job.get('state')}{stopping}{waiting}"


class Lines:
    """Progress as lines of text."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._told: tuple[object, ...] = ()
        self._at = -LINE_S

    def update(self, job: Json) -> None:
        self._pace.see(int((job.get("progress") or {}).get("done") or 0))
        state, now = _now(job), time.monotonic()
        fresh = (SECONDS.sub("", state), show.progress_of(job))
        due = now - self._at >= LINE_S or fresh[0] != (self._told or (None,))[0]
        if fresh == self._told or not due:
            return
        self._told, self._at = fresh, now
        progress = f", {fresh[1]}{_tail(job, self._pace)}" if fresh[1] else ""
        show.say(f"{job.get('id')} {state}{progress}")

    def tell(self, line: str) -> None:
        show.say(line)


class Bar:
    """Progress as a live bar."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, tail="")
        self._pace = Pace()

    def update(self, job: Json) -> None:
        from rich.markup import escape

        progress = job.get("progress") or {}
        done = int(progress.get("done") or 0)
        self._pace.see(done)
        name = show.clean(job.get("name") or job.get("id"))
        self._progress.update(
            self._task,
            description=escape(f"{name} {_now(job)}"),
            total=progress.get("total") or None,
            completed=done,
            tail=escape(show.progress_of(job) + _tail(job, self._pace)),
        )

    def tell(self, line: str) -> None:
        self._progress.console.print(click.unstyle(line), markup=False, highlight=False)


@contextmanager
def meter(stream: TextIO) -> Iterator[Meter]:
    """Something that shows a job's progress on a stream for as long as the block runs."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[tail]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        yield Bar(progress)

"""The verb `metrics`: what was measured of a job in its course, as a table with little curves, as a picture, or as it comes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click

from app.errors import BadFlag, NotFound
from cli import complete, show
from cli.client import Client, Json
from cli.follow import NOT_ENDED, OUTCOME, POLL_S, detached, patient
from cli.outputs import save

BARS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 40
"""Letters of a curve."""
PAGE: Final = 2000
"""Indices asked for at once."""


@click.command()
@click.argument("job", default="@last", shell_complete=complete.jobs)
@click.option("--scope", metavar="S", help="Only this scope, such as train, update or eval.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the points under `data`.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw the curves into FILE.")
@click.option("-f", "--follow", "following", is_flag=True, help="Print points as they come until the job ends.")
def metrics(job: str, scope: str | None, as_json: bool, png: Path | None, following: bool) -> int:
    """Show what was measured of a job while it ran.

    Losses, returns, evaluations, by optimizer step or iteration. --png draws an rl job's course on one sheet, with --scope every
    figure of that scope. With --follow a line for each point (with --json an object a line), and the exit code of `watch`. JOB is
    an id, the start of one, a name, or @last (the default).
    """
    if following and png is not None:
        raise BadFlag("--png draws what there is, and --follow goes on; give one of them")
    with Client() as client:
        found = client.job(job)
        if following:
            return _follow(client, found, scope, as_json=as_json)
        points, scopes = _all(client, found["id"], scope)
    if scope is not None and not points:
        raise NotFound(_nothing(found, scope, scopes))
    if as_json:
        show.out_json({"object": "list", "job": found["id"], "data": points, "scopes": scopes})
    elif png is None:
        for line in _told(found, points):
            show.out(line)
    if png is not None:
        _draw(found, points, png, whole=scope is None)
    return 0


def _draw(job: Json, points: Sequence[Json], target: Path, *, whole: bool) -> None:
    """The course of an rl job on one sheet; of other jobs, and of one scope alone, a panel for each figure."""
    if not points:
        raise NotFound(_nothing(job, None, []))
    from cli.charts import curves, learning

    found = columns(points)
    make = learning.png if whole and learning.fits(found) else curves.png
    count = save([make(found, title=_title(job))], target)
    show.say(f"✓ wrote {target} ({show.size(count)})")


def _title(job: Json) -> str:
    """``tiny-rl (job_1): succeeded, 8 of 8 iterations``."""
    name, done = show.clean(job.get("name") or ""), show.progress_of(job)
    named = f"{name} ({job['id']})" if name else str(job["id"])
    return f"{named}: {job['state']}{f', {done}' if done else ''}"


def _all(client: Client, job_id: str, scope: str | None) -> tuple[list[Json], list[Json]]:
    """Every point there is, and the scopes of the job."""
    points: list[Json] = []
    after = None
    while True:
        page = client.get(f"/jobs/{job_id}/metrics", scope=scope, after=after, limit=PAGE)
        points += page["data"]
        if not page["has_more"]:
            return points, page["scopes"]
        after = page["next_after"]


def _nothing(job: Json, scope: str | None, scopes: Sequence[Json]) -> str:
    if scopes:
        known = ", ".join(show.clean(each["scope"]) for each in scopes)
        return f"nothing was measured of {job['id']} in the scope {scope!r} (its scopes: {known})"
    why = "only sft and rl jobs are measured" if job.get("kind") not in ("sft", "rl") else "it has trained nothing yet"
    return f"nothing was measured of {job['id']}: {why}"


# -- the table -------------------------------------------------------------------------------------------------------------

Column = list[tuple[int, float | None]]
"""(index, value) of one name."""


def columns(points: Sequence[Json]) -> dict[str, dict[str, Column]]:
    """The points by scope and name, in the order in which they were first measured."""
    found: dict[str, dict[str, Column]] = {}
    for point in points:
        for name, value in point["values"].items():
            found.setdefault(point["scope"], {}).setdefault(name, []).append((point["index"], value))
    return found


def _told(job: Json, points: Sequence[Json]) -> Iterator[str]:
    yield show.headline(job) if job["state"] in OUTCOME else f"{job['id']} {show.coloured(job['state'])}: {show.progress_of(job)}"
    if not points:
        yield _nothing(job, None, [])
    for scope, names in columns(points).items():
        places = [index for column in names.values() for index, _ in column]
        counted = len({point["index"] for point in points if point["scope"] == scope})
        span = f"{min(places)} to {max(places)}" if counted > 1 else f"at {places[0]}"
        yield ""
        yield click.style(f"{show.clean(scope)}: {counted} point{'s' * (counted != 1)}, {span}", bold=True)
        headers = ["", "first", "last", "least", "most", "curve"]
        yield from show.table(headers, [_row(name, column) for name, column in names.items()])


def _row(name: str, column: Column) -> list[object]:
    numbers = [value for _, value in column if value is not None]
    ends = [column[0][1], column[-1][1], min(numbers, default=None), max(numbers, default=None)]
    return [show.clean(name), *(number(value) for value in ends), spark([value for _, value in column])]


def number(value: float | None) -> str:
    """A number in a few letters; ``nan`` where something was measured that was none."""
    if value is None:
        return "nan"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"


def spark(values: Sequence[float | None], width: int = WIDTH) -> str:
    """A curve in letters; each is the mean of the values that it stands for, a dot where none is a number."""
    width = min(width, len(values))
    cuts = [round(i * len(values) / width) for i in range(width + 1)] if width else []
    means = [_mean([each for each in values[a:b] if each is not None]) for a, b in pairwise(cuts)]
    known = [each for each in means if each is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    steps = (len(BARS) - 1) / (high - low) if high > low else 0.0
    flat = BARS[len(BARS) // 2 - 1]
    return "".join("·" if each is None else BARS[round((each - low) * steps)] if steps else flat for each in means)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


# -- as it comes -----------------------------------------------------------------------------------------------------------


def _follow(client: Client, job: Json, scope: str | None, *, as_json: bool) -> int:
    last: dict[str, int] = {}
    pause = POLL_S[0]
    try:
        while True:
            state = patient(client.job, job["id"])["state"]  # before the points: those of an ended job are then all seen
            fresh = patient(_fresh, client, job["id"], scope, last)
            for point in fresh:
                show.out_json_line(point) if as_json else show.out(_line(point))
            if state in OUTCOME:
                return OUTCOME.get(state, NOT_ENDED)
            pause = POLL_S[0] if fresh else min(pause * 1.3, POLL_S[1])
            time.sleep(pause)
    except KeyboardInterrupt:
        return detached(job["id"], "metrics -f")


def _fresh(client: Client, job_id: str, scope: str | None, last: dict[str, int]) -> list[Json]:
    """Points that were not seen yet, by the time at which they were measured; ``last``, the index seen of each scope, goes on.

    Scopes grow at their own pace, so each is asked for by itself.
    """
    known = client.get(f"/jobs/{job_id}/metrics", scope=scope, limit=1)["scopes"]
    fresh: list[Json] = []
    for each in known:
        name = each["scope"]
        if scope in (None, name) and each["last"] > last.get(name, -1):
            fresh += _behind(client, job_id, name, last)
    return sorted(fresh, key=lambda point: str(point["at"]))


def _behind(client: Client, job_id: str, scope: str, last: dict[str, int]) -> list[Json]:
    points: list[Json] = []
    while True:
        page: Mapping[str, Any] = client.get(f"/jobs/{job_id}/metrics", scope=scope, after=last.get(scope, -1), limit=PAGE)
        points += page["data"]
        if page["data"]:
            last[scope] = page["next_after"]
        if not page["has_more"]:
            return points


def _line(point: Json) -> str:
    told = "  ".join(f"{show.clean(name)} {number(value)}" for name, value in point["values"].items())
    return f"{show.clock(point['at'])}  {show.clean(point['scope'])} {point['index']}  {told}"

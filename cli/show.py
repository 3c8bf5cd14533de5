"""How things look: data on stdout, messages on stderr, tables as plain text, colours only for a terminal that wants them.

Text from the server is cleaned of control characters before it is printed, so that a job's name cannot drive a terminal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import click

Json = dict[str, Any]

SCHEMA_VERSION: Final = 1
"""Of the objects that --json prints."""
COLOURS: Final = {
    "succeeded": "green",
    "done": "green",
    "failed": "red",
    "error": "red",
    "cancelled": "yellow",
    "warning": "yellow",
    "running": "cyan",
}
LOSSES: Final = 5
"""Reasons of failed episodes that a result tells, and seeds that it names with one."""
LEAST_WIDTH: Final = 40
"""Columns that a text is wrapped to at the least."""
FIGURES: Final = ("achievements", "progress", "crafter_score", "return", "length")
"""What a score table tells of each policy, in this order."""


def out(text: str = "") -> None:
    """Print data: a line on stdout."""
    click.echo(text, color=colourful(sys.stdout))


def say(text: str) -> None:
    """Print a message: a line on stderr."""
    click.echo(text, err=True, color=colourful(sys.stderr))


def out_json(value: Mapping[str, Any]) -> None:
    """Print one object on stdout, with the version of its form."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **value}, indent=2, ensure_ascii=False))


def out_json_line(value: Mapping[str, Any]) -> None:
    """Print one object of a stream: one line on stdout, at once."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **value}, ensure_ascii=False))


def colourful(stream: TextIO | None) -> bool:
    """May colours go to this stream? None is one that was closed before we began."""
    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clean(value: object) -> str:
    """A value as text on one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in str(value))


def coloured(word: object) -> str:
    """A state or a level in its colour."""
    text = clean(word)
    return click.style(text, fg=COLOURS[text]) if text in COLOURS else text


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Rows as aligned lines under a line of headers. Columns that are empty everywhere are left out."""
    body = [["" if cell is None else str(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(headers)) if any(row[i] for row in body)]
    lines = [[headers[i].upper() for i in kept], *([row[i] for i in kept] for row in body)]
    widths = [max(len(click.unstyle(line[i])) for line in lines) for i in range(len(kept))]
    return ["  ".join(_padded(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - len(click.unstyle(cell)))


def wrapped(text: str, *, indent: int) -> list[str]:
    """A text in lines that a terminal holds; elsewhere in one, however long. No word is broken, for paths are words."""
    before = " " * indent
    if not sys.stdout.isatty():
        return [before + text]
    width = max(LEAST_WIDTH, shutil.get_terminal_size().columns)
    return textwrap.wrap(
        text, width, initial_indent=before, subsequent_indent=before, break_long_words=False, break_on_hyphens=False
    )


def fields(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Names and values under one another. What has no value is left out."""
    given = [(name, str(value)) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in given), default=0)
    return [f"{name:<{width}}  {value}" for name, value in given]


def when(stamp: object) -> datetime | None:
    """The time in an RFC 3339 text; None when there is none."""
    if not isinstance(stamp, str):
        return None
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def clock(stamp: object) -> str:
    """``04:55:32`` in this machine's time zone."""
    time = when(stamp)
    return time.astimezone().strftime("%H:%M:%S") if time else ""


def moment(stamp: object) -> str:
    """``2026-11-23 04:55:32, 3 min ago`` in this machine's time zone."""
    time = when(stamp)
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}, {ago(stamp)}" if time else ""


def ago(stamp: object) -> str:
    """``3 min ago``."""
    time = when(stamp)
    return f"{duration((datetime.now(UTC) - time).total_seconds())} ago" if time else ""


def between(start: object, end: object) -> float | None:
    """Seconds from one RFC 3339 time to another; None when one is missing."""
    first, last = when(start), when(end)
    return (last - first).total_seconds() if first and last else None


def duration(seconds: float) -> str:
    """``4 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    for below, unit, less, name, lesser in (
        (3600, 60, 1, "min", "s"),
        (86400, 3600, 60, "h", "min"),
        (10**18, 86400, 3600, "d", "h"),
    ):
        if whole < below:
            rest = whole % unit // less
            return f"{whole // unit} {name}" + (f" {rest} {lesser}" if rest else "")
    return f"{whole} s"


def size(count: object) -> str:
    """``1.6 MB``."""
    if not isinstance(count, int | float):
        return ""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def progress_of(job: Json) -> str:
    """``12 of 20 episodes, 1 failed``."""
    progress = job.get("progress") or {}
    if not progress.get("total"):
        return ""
    failed = f", {progress['failed']} failed" if progress.get("failed") else ""
    cut = f", {progress['cut_short']} cut short" if progress.get("cut_short") else ""
    return clean(f"{progress.get('done', 0)} of {progress['total']} {progress.get('unit') or ''}{failed}{cut}")


def figure(value: object, *, percent: bool = False) -> str:
    """``2.30 [1.10, 3.50]``, or the mean alone where there is no interval, or ``-``."""
    if not isinstance(value, dict) or not isinstance(value.get("mean"), int | float):
        return "-"
    scale, form = (100.0, ".1f") if percent else (1.0, ".2f")
    numbers = [value.get(key) for key in ("mean", "low", "high")]
    texts = [format(n * scale, form) if isinstance(n, int | float) else None for n in numbers]
    unit = " %" if percent else ""
    interval = f" [{texts[1]}, {texts[2]}]" if texts[1] and texts[2] else ""
    return f"{texts[0]}{interval}{unit}"


def scores(summary: Mapping[str, Any], *, wide: bool = False) -> list[str]:
    """The score table of an eval: a row for each policy, every figure as ``mean [low, high]``."""
    policies = {name: found for name, found in (summary.get("policies") or {}).items() if isinstance(found, dict)}
    if not policies:
        return []
    rows = [
        [clean(name), found.get("episodes"), *(_score(key, found.get(key)) for key in FIGURES)]
        for name, found in policies.items()
    ]
    lines = table(["policy", "episodes", "achievements", "progress", "crafter score", "return", "length"], rows)
    confidence = next((found["confidence"] for found in policies.values() if found.get("confidence")), None)
    if confidence:
        lines.append(f"mean [low, high]: {confidence:.0%} intervals over seeds")
    if summary.get("blank_frames"):
        lines.append("models were shown black pictures; `synthq compare` with an eval that shows them tells what seeing is worth")
    lines += cost(summary)
    lines += _cut_short(summary.get("cut_short"))
    lines += _spent(summary.get("spent"))
    lines += _differences(summary.get("differences") or [])
    lines += _losses(summary)
    return lines + (["", *rates(policies)] if wide else [])


def _score(key: str, value: object) -> str:
    if key == "crafter_score":
        return f"{text} %" if (text := figure(value)) != "-" else text
    return figure(value, percent=key == "progress")


def cost(summary: Mapping[str, Any]) -> list[str]:
    """``1,200 turns (1,190 ok, 10 parse_error), 1,200 game steps in 2 s: 555 turns/s``."""
    turns, steps, spent = (summary.get(key) for key in ("turns", "game_steps", "seconds"))
    if not all(isinstance(number, int | float) for number in (turns, steps, spent)):
        return []
    outcomes = summary.get("outcomes") or {}
    told = ", ".join(f"{count:,} {clean(name)}" for name, count in outcomes.items()) if isinstance(outcomes, dict) else ""
    speed = f": {summary['turns_per_s']:,.0f} turns/s" if isinstance(summary.get("turns_per_s"), int | float) else ""
    return [f"{turns:,} turns{f' ({told})' if told else ''}, {steps:,} game steps in {duration(float(spent or 0))}{speed}"]


def _cut_short(cut: object) -> list[str]:
    """``2 episodes were cut short: 7 of the turns are theirs, and `filter_errors = false` has a filter read them``."""
    if not isinstance(cut, dict) or not isinstance(count := cut.get("episodes"), int) or not count:
        return []
    were = "1 episode was" if count == 1 else f"{count:,} episodes were"
    turns = cut.get("turns")
    return [f"{were} cut short: {turns:,} of the turns are theirs, and `filter_errors = false` has a filter read them"]


def _spent(spent: object) -> list[str]:
    """``1,200 requests to models: 3,480,000 tokens in, 41,000 out, $9.1100 of $10.0000``."""
    if not isinstance(spent, dict):
        return []
    requests, given, taken = (spent.get(key) for key in ("requests", "input_tokens", "output_tokens"))
    if not (isinstance(requests, int) and isinstance(given, int) and isinstance(taken, int)):
        return []
    parts = [f"{given:,} tokens in, {taken:,} out"]
    if isinstance(usd := spent.get("usd"), int | float):
        parts.append(f"${usd:,.4f}" + (f" of ${cap:,.4f}" if isinstance(cap := spent.get("max_usd"), int | float) else ""))
    if isinstance(most := spent.get("max_tokens"), int):
        parts.append(f"{given + taken:,} of {most:,} tokens")
    asked = f"{requests:,} request{'s' * (requests != 1)} to models"
    lines = [f"{asked}: {', '.join(parts)}" + (": the budget ended it" if spent.get("capped") else "")]
    if isinstance(held := spent.get("held_tokens"), int) and held > 0:
        lines.append(f"requests without an answer may have taken up to {held:,} tokens more")
    return lines


def _losses(summary: Mapping[str, Any]) -> list[str]:
    """Episodes that failed, a line for each policy and reason."""
    failed = [each for each in summary.get("errors") or [] if isinstance(each, dict)]
    if not failed:
        return []
    alike: dict[tuple[str, str], list[str]] = {}
    for each in failed:
        alike.setdefault((clean(each.get("policy")), clean(each.get("error"))), []).append(clean(each.get("seed")))
    told = [f"{_seeds(seeds)}, {policy}: {error}" for (policy, error), seeds in alike.items()]
    every = (summary.get("episodes") or {}).get("failed")
    rest = max(len(failed), every or 0) - sum(map(len, list(alike.values())[:LOSSES]))
    more = [f"and {rest} more; `synthq traces list --state failed` shows them"] if rest else []
    return ["", "failed episodes:", *(f"  {line}" for line in (*told[:LOSSES], *more))]


def _seeds(seeds: Sequence[str]) -> str:
    """``seed 4``, ``seeds 0, 1, 2``, ``7 episodes from seed 0 on``."""
    if len(seeds) > LOSSES:
        return f"{len(seeds)} episodes from seed {seeds[0]} on"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"


def _differences(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [f"{clean(each.get('b'))} - {clean(each.get('a'))}", *(figure(each.get(key)) if key in each else None for key in keys)]
        for keys in [("achievements", "return", "length")]
        for each in differences
    ]
    return ["", *table(["difference", "achievements", "return", "length"], rows)] if rows else []


def rates(policies: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How often each achievement was unlocked: a row for each, a column for each policy."""
    found = {name: policy.get("achievement_rates") or {} for name, policy in policies.items()}
    names = list(dict.fromkeys(achievement for rates in found.values() for achievement in rates))
    rows = [[clean(name), *(figure(rates.get(name), percent=True) for rates in found.values())] for name in names]
    return table(["achievement", *(clean(name) for name in found)], rows)


def headline(job: Json) -> str:
    """One line about how a job ended: ``job_x succeeded after 12 s: 20 of 20 episodes``."""
    took = between(job.get("started_at") or job.get("created_at"), job.get("finished_at"))
    name = f" ({clean(job['name'])})" if job.get("name") else ""
    after = f" after {duration(took)}" if took is not None else ""
    why = clean(job.get("reason") or "") if job.get("state") == "failed" else progress_of(job)
    return f"{job.get('id')}{name} {coloured(job.get('state'))}{after}" + (f": {why}" if why else "")


def results(job: Json, *, wide: bool = False) -> list[str]:
    """What a job came to, as lines: scores of an eval, counts of a filter."""
    summary, spent = job.get("summary"), job.get("spent")
    if not isinstance(summary, dict):
        return _spent(spent)
    if isinstance(spent, dict):  # newer than the summary, which an attempt before may have left
        summary = {**summary, "spent": {**(summary.get("spent") or {}), **spent}}
    if lines := scores(summary, wide=wide):
        return lines
    if "removed" in summary:
        from cli.filtered import told

        return told(summary)
    if "curve" in summary:
        from cli import learned

        return learned.told(summary)
    if "steps_planned" in summary:
        from cli import trained

        return trained.told(summary)
    plain = [(key.replace("_", " "), _plain(key, value)) for key, value in summary.items()]
    return fields((name, text) for name, text in plain if text)


def _plain(key: str, value: object) -> str:
    if key in ("bytes", "size") and isinstance(value, int):
        return size(value)
    if key == "seconds" and isinstance(value, int | float):
        return duration(value)
    if isinstance(value, dict):
        inner = [(name, each) for name, each in value.items() if isinstance(each, str | int | float)]
        return ", ".join(f"{clean(each)} {clean(name)}" for name, each in inner)
    return clean(value) if isinstance(value, str | int | float) else ""

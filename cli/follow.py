"""Verbs that stay with a job: watch, wait, logs, events. Ctrl-C leaves the job alone; only `cancel` stops one.

All of them ask again and again with the number of the last event that they have seen, so a lost connection or a server that
restarts costs nothing but time.
"""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, ParamSpec, TypeVar

import click

from app.errors import BadFlag, Unavailable, WaitTimeout
from cli import complete, show
from cli.client import Client, Json
from cli.outputs import write_output

P = ParamSpec("P")
T = TypeVar("T")

OUTCOME: Final = {"succeeded": 0, "failed": 100, "cancelled": 103}
"""Exit code of a job that has ended, by its state."""
NOT_ENDED: Final = 101
INTERRUPTED: Final = 130
MILD_FIRST: Final = (0, NOT_ENDED, WaitTimeout.exit_code, 103, 100)
LEVELS: Final = ("info", "warning", "error")
COURSE: Final = frozenset({"update.done", "rl.evaluated"})
"""Types of events that tell how a training goes; `watch` prints them too."""
POLL_S: Final = (0.3, 2.0)
"""Shortest and longest pause between two looks at a job."""
PATIENCE_S: Final = 120.0
"""How long a server may be gone before following it is given up."""
EVENTS: Final = 200


def worst(codes: Iterable[int]) -> int:
    """The exit code that stands for several: an error before a failed job before a cancelled one before one that goes on."""
    return max(codes, key=lambda code: MILD_FIRST.index(code) if code in MILD_FIRST else len(MILD_FIRST) + code, default=0)


def seconds(text: str) -> float:
    """Seconds in ``30``, ``30s``, ``10m``, ``2h`` or ``1d``. Raises BadFlag."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?", text.strip(), re.ASCII)
    if match is None:
        raise BadFlag(f"--timeout {text} is no length of time; it takes 30s, 10m, 2h or 1d")
    return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[match[2] or "s"]


def patient(ask: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Ask until the server answers; it may be gone for a while."""
    limit = time.monotonic() + PATIENCE_S
    told = False
    while True:
        try:
            answer = ask(*args, **kwargs)
        except Unavailable as error:
            if time.monotonic() >= limit:
                raise
            if not told:
                show.say(f"{str(error).splitlines()[0]}; trying again for {show.duration(PATIENCE_S)}")
                told = True
            time.sleep(1.0)
        else:
            if told:
                show.say("the server is back")
            return answer


def new_events(client: Client, job_id: str, after: int) -> tuple[list[Json], bool]:
    """Events after number ``after``, and whether the job has ended and there will be no more."""
    found: list[Json] = []
    while True:
        page = client.get(f"/jobs/{job_id}/events", after=after + len(found), limit=EVENTS)
        rows = page.get("data", []) if isinstance(page, dict) else []
        found += rows
        if len(rows) < EVENTS:
            return found, bool(page.get("ended"))


def follow(client: Client, job_id: str, after: int = 0) -> Iterator[Json]:
    """Events after number ``after`` as they come, until the job has ended."""
    pause = POLL_S[0]
    while True:
        fresh, ended = patient(new_events, client, job_id, after)
        yield from fresh
        after += len(fresh)
        if ended and not fresh:
            return
        pause = POLL_S[0] if fresh else min(pause * 1.3, POLL_S[1])
        time.sleep(0 if ended else pause)


def detached(job_id: str, verb: str) -> int:
    """Say that the job goes on without us. Gives the exit code of Ctrl-C."""
    show.say(f"\ndetached; {job_id} goes on: `synthq {verb} {job_id}` comes back to it, `synthq cancel {job_id}` stops it")
    return INTERRUPTED


def watch_job(client: Client, job_id: str, *, own: bool = False) -> Json:
    """Show a job's progress on stderr until it ends; give the ended job. ``own``: submitted just now, here."""
    from cli.progress import meter

    untold = {"job.failed", "job.cancelled"}  # the headline at the end says it
    if own:
        untold.add("spec.warning")  # said before it was submitted
    after, pause = 0, POLL_S[0]
    with meter(sys.stderr) as display:
        while True:
            fresh, _ = patient(new_events, client, job_id, after)
            job = patient(client.job, job_id)
            for event in fresh:
                if event.get("type") in COURSE or (event.get("level") != "info" and event.get("type") not in untold):
                    display.tell(_log_line(event))
            if job["state"] in OUTCOME:
                return job
            display.update(job)
            changed, after = bool(fresh), after + len(fresh)
            pause = POLL_S[0] if changed else min(pause * 1.3, POLL_S[1])
            time.sleep(pause)


def finish(client: Client, job: Json, *, own: bool = False, as_json: bool = False, quiet: bool = False) -> int:
    """Tell how a job ended, fetch the files that it was to write, and give its exit code.

    ``own``: submitted just now, here. ``quiet``: stdout already holds all that was asked for.
    """
    show.say(show.headline(job))
    if as_json:
        show.out_json(job)
    else:
        for line in show.results(job):
            (show.say if quiet else show.out)(line)
    if job["state"] == "succeeded":
        write_output(client, job, anywhere=own)
    return OUTCOME[job["state"]]


@click.command()
@click.argument("job", default="@last", shell_complete=complete.jobs)
@click.option("--json", "as_json", is_flag=True, help="Print the ended job as one JSON object.")
def watch(job: str, as_json: bool) -> int:
    """Show a job's progress until it ends.

    Progress and warnings go to stderr, results to stdout. Exits 0 when the job succeeded, 100 when it failed, 103 when it was
    cancelled. Ctrl-C detaches (130) and leaves the job alone. JOB is an id, the start of one, a name, or @last (the default).
    """
    with Client() as client:
        job_id = str(client.job(job)["id"])
        try:
            ended = watch_job(client, job_id)
        except KeyboardInterrupt:
            return detached(job_id, "watch")
        return finish(client, ended, as_json=as_json)


@click.command()
@click.argument("jobs", metavar="JOB...", nargs=-1, shell_complete=complete.jobs, required=True)
@click.option("--timeout", metavar="TIME", help="Give up after 30s, 10m, 2h ... (exit 7); 0 looks once (exit 101).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the jobs under `data`.")
def wait(jobs: tuple[str, ...], timeout: str | None, as_json: bool) -> int:
    """Wait until jobs have ended; the exit code says how.

    0 when all succeeded, 100 when one failed, 103 when one was cancelled, 101 when one has not ended, 7 when the timeout came
    first; of several, the worst. A filter job's `output` or `output_dir` is written when it
    lies in this folder.
    """
    limit = None if timeout is None else seconds(timeout)
    until = None if limit is None else time.monotonic() + limit
    with Client() as client:
        found = {job["id"]: job for job in (client.job(ref) for ref in jobs)}
        try:
            _wait_for(client, found, until)
        except KeyboardInterrupt:
            return detached(next(id for id, job in found.items() if job["state"] not in OUTCOME), "wait")
        late = NOT_ENDED if limit == 0 else WaitTimeout.exit_code
        for job in found.values():
            if job["state"] in OUTCOME:
                show.say(show.headline(job))
            else:
                after = "" if limit == 0 else f" after {show.duration(limit or 0)}"
                show.say(f"{job['id']} has not ended{after}: {show.clean(job.get('waiting') or job['state'])}")
            if job["state"] == "succeeded":
                write_output(client, job, anywhere=False)
    if as_json:
        show.out_json({"object": "list", "data": list(found.values())})
    return worst(OUTCOME.get(job["state"], late) for job in found.values())


def _wait_for(client: Client, found: dict[str, Json], until: float | None) -> None:
    """Keep ``found`` up to date until every job in it has ended or ``until`` (monotonic seconds) has passed."""
    pause = POLL_S[0]
    while True:
        open_ids = [id for id, job in found.items() if job["state"] not in OUTCOME]
        left = None if until is None else until - time.monotonic()
        if not open_ids or (left is not None and left <= 0):
            return
        time.sleep(pause if left is None else min(pause, left))
        pause = min(pause * 1.3, POLL_S[1])
        for id in open_ids:
            found[id] = _look(client, id, found[id], until)


def _look(client: Client, job_id: str, known: Json, until: float | None) -> Json:
    """The job now; what was known of it when the server is away as the time runs out."""
    try:
        return patient(client.job, job_id) if until is None else client.job(job_id)
    except Unavailable:
        if until is None:
            raise
        return known


def _log_line(event: Json) -> str:
    level = event.get("level")
    mark = "" if level == "info" else f"{show.coloured(level)}: "
    return f"{show.clock(event.get('at'))}  {mark}{show.clean(event.get('message'))}"


def _event_line(event: Json) -> str:
    step = f"  ({show.clean(event['step_id'])})" if event.get("step_id") else ""
    level = show.coloured(event.get("level")) + " " * (7 - len(str(event.get("level"))))
    kind = f"{show.clean(event.get('type')):<18}"
    return f"{event.get('seq'):>5}  {show.clock(event.get('at'))}  {level}  {kind}  {show.clean(event.get('message'))}{step}"


def _print_events(ref: str, *, level: str, tail: int | None, following: bool, verb: str, tell: Callable[[Json], None]) -> int:
    def wanted(events: Sequence[Json]) -> list[Json]:
        return [event for event in events if LEVELS.index(level) <= _rank(event)]

    with Client() as client:
        job_id = str(client.job(ref)["id"])
        try:
            old, _ = new_events(client, job_id, 0)
            for event in deque(wanted(old), maxlen=tail):
                tell(event)
            if not following:
                return 0
            for event in follow(client, job_id, after=len(old)):
                for each in wanted([event]):
                    tell(each)
        except KeyboardInterrupt:
            return detached(job_id, f"{verb} -f") if following else INTERRUPTED
        return OUTCOME.get(patient(client.job, job_id)["state"], NOT_ENDED)


def _rank(event: Json) -> int:
    return LEVELS.index(event["level"]) if event.get("level") in LEVELS else 0


@click.command()
@click.argument("job", default="@last", shell_complete=complete.jobs)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job ends; exits as `watch` does.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines there are.")
@click.option("--level", type=click.Choice(LEVELS), default="info", help="Only lines of this level or a worse one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def logs(job: str, following: bool, tail: int | None, level: str, as_json: bool) -> int:
    """Print what a job said, as text.

    JOB is an id, the start of one, a name, or @last (the default). Ctrl-C stops the printing, not the job.
    """
    tell = show.out_json_line if as_json else lambda event: show.out(_log_line(event))
    return _print_events(job, level=level, tail=tail, following=following, verb="logs", tell=tell)


@click.command()
@click.argument("job", default="@last", shell_complete=complete.jobs)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job ends; exits as `watch` does.")
@click.option("--level", type=click.Choice(LEVELS), default="info", help="Only events of this level or a worse one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def events(job: str, following: bool, level: str, as_json: bool) -> int:
    """Print a job's events with number, level and type.

    JOB is an id, the start of one, a name, or @last (the default).
    """
    tell = show.out_json_line if as_json else lambda event: show.out(_event_line(event))
    return _print_events(job, level=level, tail=None, following=following, verb="events", tell=tell)

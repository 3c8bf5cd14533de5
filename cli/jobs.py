"""Verbs about jobs that answer at once: status, list, cancel, retry, rm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

import click

from app.errors import BadFlag, SynthqError
from cli import complete, show
from cli.client import Client, Json
from cli.follow import OUTCOME, worst

STATES: Final = ("queued", "running", "succeeded", "failed", "cancelled")
LIVE: Final = ("queued", "running")


@click.command()
@click.argument("job", default="@last", shell_complete=complete.jobs)
@click.option("--wide", is_flag=True, help="Also the rate of each achievement.")
@click.option("--exit-code", is_flag=True, help="Exit 0, 100, 101 or 103 by the job's state, as `wait` does.")
@click.option("--json", "as_json", is_flag=True, help="Print the job as one JSON object.")
def status(job: str, wide: bool, exit_code: bool, as_json: bool) -> int:
    """Show a job: its state, why it waits or failed, its scores.

    JOB is an id, the start of one, a name, or @last (the default).
    """
    with Client() as client:
        found = client.job(job)
    if as_json:
        show.out_json(found)
    else:
        for line in describe(found, wide=wide):
            show.out(line)
    return OUTCOME.get(found["state"], 101) if exit_code else 0


def describe(job: Json, *, wide: bool = False) -> list[str]:
    """Everything about a job, for people."""
    attempt = f", attempt {job['attempt']}" if job.get("attempt", 1) > 1 else ""
    stopping = ", cancel requested" if job.get("cancel_requested") and job["state"] in LIVE else ""
    took = show.between(job.get("started_at"), job.get("finished_at"))
    source = f", from {show.clean(job['source'])}" if job.get("source") else ""
    lines = show.fields(
        [
            ("job", job.get("id")),
            ("kind", show.clean(job.get("kind"))),
            ("name", show.clean(job.get("name") or "")),
            ("state", f"{show.coloured(job.get('state'))}{attempt}{stopping}"),
            ("waiting", show.clean(job.get("waiting") or "")),
            ("reason", show.clean(job.get("reason") or "")),
            ("progress", show.progress_of(job)),
            ("goes on from", show.clean(((job.get("spec") or {}).get("model") or {}).get("extend") or "")),
            ("after", ", ".join(f"{each.get('on')}:{each.get('job')}" for each in job.get("after") or [])),
            ("priority", job.get("priority") or ""),
            ("labels", ", ".join(f"{show.clean(k)}={show.clean(v)}" for k, v in (job.get("labels") or {}).items())),
            ("created", show.moment(job.get("created_at"))),
            ("started", show.moment(job.get("started_at"))),
            ("finished", show.moment(job.get("finished_at"))),
            ("took", show.duration(took) if took is not None else ""),
            ("spec", f"sha256 {str(job.get('spec_sha256'))[:12]}{source}"),
        ]
    )
    results = show.results(job, wide=wide)
    return lines + (["", *results] if results else [])


@click.command("list")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only jobs in this state; repeatable.")
@click.option("--kind", type=click.Choice(["eval", "filter", "sft", "rl"]), help="Only jobs of this kind.")
@click.option("--name", help="Only jobs with exactly this name.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="Only jobs with this label; repeatable.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="No limit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the jobs under `data`.")
@click.option("--id-only", is_flag=True, help="Print the ids only.")
def list_jobs(
    states: tuple[str, ...],
    kind: str | None,
    name: str | None,
    labels: tuple[str, ...],
    limit: int,
    everything: bool,
    as_json: bool,
    id_only: bool,
) -> None:
    """List jobs, the newest first."""
    for label in labels:
        if not label.partition("=")[1]:
            raise BadFlag(f"--label {label} has no value; it takes KEY=VALUE")
    wanted = None if everything else limit + 1
    with Client() as client:
        rows = list(client.pages("/jobs", limit=wanted, state=states or None, kind=kind, name=name, label=labels or None))
    more, rows = not everything and len(rows) > limit, rows if everything else rows[:limit]
    if as_json:
        show.out_json({"object": "list", "data": rows, "has_more": more})
    elif id_only:
        for row in rows:
            show.out(str(row["id"]))
    elif not rows:
        show.say("no jobs" + (" fit" if states or kind or name or labels else " yet; `synthq submit eval` makes one"))
    else:
        headers = ["job", "kind", "name", "state", "progress", "created", "why"]
        for line in show.table(headers, [_row(row) for row in rows]):
            show.out(line)
        if more:
            show.say(f"more than {limit}; --limit N or --all shows the others")


def _row(job: Json) -> list[object]:
    why = show.clean(job.get("reason") or job.get("waiting") or "")
    return [
        job.get("id"),
        show.clean(job.get("kind")),
        show.clean(job.get("name") or ""),
        show.coloured(job.get("state")),
        show.progress_of(job),
        show.ago(job.get("created_at")),
        why if len(why) <= 60 else why[:59] + "…",
    ]


@click.command()
@click.argument("jobs", metavar="JOB...", nargs=-1, shell_complete=complete.jobs)
@click.option("--all", "everything", is_flag=True, help="All jobs that have not ended, or those of --state.")
@click.option("--state", type=click.Choice(LIVE), help="With --all: only jobs in this state.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the jobs under `data`.")
def cancel(jobs: tuple[str, ...], everything: bool, state: str | None, yes: bool, as_json: bool) -> int:
    """Stop jobs. What they have done so far is kept.

    Cancelling a job that is cancelled already does nothing; one that succeeded or failed is a conflict (exit 5).
    """
    if bool(jobs) == everything:
        raise BadFlag("cancel takes JOB... or --all, and not both" if jobs else "cancel takes JOB... or --all")
    if state and not everything:
        raise BadFlag(f"--state {state} goes with --all")
    with Client() as client:
        if everything:
            found = [job for each in ([state] if state else LIVE) for job in client.pages("/jobs", state=each)]
            if not found:
                show.say("no jobs to cancel")
                return 0
        else:
            found = [client.job(ref) for ref in jobs]
        if everything or len(found) > 1:
            confirm(f"cancel {_count(found)}", yes=yes)
        return _each(found, lambda job: client.post(f"/jobs/{job['id']}/cancel"), _cancelled, as_json=as_json)


def _cancelled(job: Json) -> str:
    if job.get("state") in LIVE:
        return f"{job['id']}: cancel requested; what runs stops at its next step of the game"
    return f"{job['id']}: {show.coloured(job.get('state'))}"


@click.command()
@click.argument("jobs", metavar="JOB...", nargs=-1, shell_complete=complete.jobs, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the jobs under `data`.")
def retry(jobs: tuple[str, ...], as_json: bool) -> int:
    """Queue ended jobs again; only what is missing is done.

    A job that failed or was cancelled keeps its id and its episodes. One that succeeded has nothing to retry (exit 5).
    """
    with Client() as client:
        found = [client.job(ref) for ref in jobs]
        return _each(
            found,
            lambda job: client.post(f"/jobs/{job['id']}/retry"),
            lambda job: f"{job['id']}: {show.coloured(job.get('state'))}, attempt {job.get('attempt')}",
            as_json=as_json,
        )


@click.command("rm")
@click.argument("jobs", metavar="JOB...", nargs=-1, shell_complete=complete.jobs, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the deleted jobs under `data`.")
def remove(jobs: tuple[str, ...], yes: bool, as_json: bool) -> int:
    """Delete ended jobs with their traces and artifacts. This cannot be undone."""

    def delete(job: Json) -> Json:
        client.delete(f"/jobs/{job['id']}")
        return job

    with Client() as client:
        found = [client.job(ref) for ref in jobs]
        confirm(f"delete {_count(found)} with all traces and artifacts", yes=yes)
        return _each(found, delete, lambda job: f"{job['id']}: deleted", as_json=as_json)


def _count(jobs: Sequence[Json]) -> str:
    return f"job {jobs[0]['id']}" if len(jobs) == 1 else f"{len(jobs)} jobs"


def confirm(what: str, *, yes: bool) -> None:
    """Ask before something that cannot be taken back. Without a terminal to ask on, -y must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadFlag(f"nothing was done: to {what} without being asked, add -y")
    if not click.confirm(f"{what}?", err=True):
        raise SynthqError("nothing was done")


def _each(jobs: Sequence[Json], act: Callable[[Json], Json], tell: Callable[[Json], str], *, as_json: bool) -> int:
    """Do one thing to each job; one that refuses does not keep the others from it. Gives the worst exit code."""
    done: list[Json] = []
    codes: list[int] = []
    for job in {job["id"]: job for job in jobs}.values():
        try:
            done.append(act(job))
            codes.append(0)
        except SynthqError as error:
            show.say(f"Error: {error}")
            codes.append(error.exit_code)
        else:
            if not as_json:
                show.out(tell(done[-1]))
    if as_json:
        show.out_json({"object": "list", "data": done})
    return worst(codes)

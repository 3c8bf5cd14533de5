"""Jobs, steps and events against one another, and rows against the rows that they belong to."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from sqlalchemy import column, func, select, text, update
from sqlmodel import SQLModel, col

from app import db
from app.command_line import Tick
from app.fsck.figures import Asked
from app.fsck.findings import Check, pages
from app.fsck.values import opened
from app.models import ENDED, Job, JobEvent
from app.retention.unnamed import GOING
from app.transfer import tables
from app.transfer.tables import Reader, Row, plain

JOB: Final = ("id", "kind", "state", "event_seq", "finished_at", "labels", "spec", "after", "summary")
STEP: Final = (
    "id",
    "job_id",
    "key",
    "kind",
    "state",
    "owner",
    "lease_until",
    "done",
    "total",
    "finished_at",
    "payload",
    "result",
)


def jobs(check: Check, tick: Tick) -> None:
    """Every job with its steps, its events and what was measured of it."""
    for reader, rows in pages(check, "job", "id", JOB):
        ids = [row["id"] for row in rows]
        steps: dict[str, list[Row]] = {}
        for step in reader.rows("step", column("job_id").in_(ids), columns=STEP, order=("id",)):
            name = f"step {step['key']} ({step['id']}) of job {step['job_id']}"
            held = opened(check, "step", step, subject=step["id"], name=name)
            steps.setdefault(step["job_id"], []).append(held)
        spans, played = _event_spans(reader, ids), _played(reader, ids)
        going = {row["job_id"] for row in reader.rows("job_event", column("type") == GOING, column("job_id").in_(ids))}
        for row in rows:
            held = opened(check, "job", row, subject=row["id"], name=f"job {row['id']}")
            mine = steps.get(row["id"], [])
            _states(check, held, mine)
            _events(check, held, *spans.get(row["id"], (0, 0, 0)))
            if row["id"] not in going:
                _summary(check, held, mine, played.get(row["id"], {}))
        _course(check, reader, ids)
        tick(len(rows))


def _course(check: Check, reader: Reader, ids: list[str]) -> None:
    """What was measured of the jobs: can it be read?"""
    for row in reader.rows("metric", column("job_id").in_(ids), columns=("job_id", "scope", "index", "values")):
        opened(check, "metric", row, subject=row["job_id"], name=f"{row['scope']} {row['index']} of job {row['job_id']}")


def _states(check: Check, job: Row, steps: list[Row]) -> None:
    ended = job["state"] in ENDED
    if ended and job.get("finished_at", 0.0) is None:
        check.problem(job["id"], f"job {job['id']} has {job['state']}, and nothing says when")
    for step in steps:
        name = f"step {step['key']} ({step['id']}) of job {job['id']}"
        if step["state"] == "running" and (not step["owner"] or step.get("lease_until", 0.0) is None):
            check.problem(step["id"], f"{name} is running, and no worker holds it: it has no owner or no lease")
        if ended and step["state"] not in ENDED:
            check.problem(step["id"], f"{name} is {step['state']}, and the job has {job['state']}")
        if job["state"] == "queued" and step["state"] == "running":
            check.problem(step["id"], f"{name} is running, and the job is still queued")
        if step["state"] in ENDED and step.get("finished_at", 0.0) is None:
            check.problem(step["id"], f"{name} has {step['state']}, and nothing says when")
        if "done" in step and "total" in step and step["done"] > step["total"]:
            check.problem(step["id"], f"{name} has done {step['done']} of {step['total']}")


def _event_spans(reader: Reader, ids: list[str]) -> dict[str, tuple[int, int, int]]:
    """Count, first and last number of each job's events."""
    query: Any = select(column("job_id"), func.count(), func.min(column("seq")), func.max(column("seq")))
    query = query.select_from(plain("job_event")).where(column("job_id").in_(ids)).group_by(column("job_id"))
    return {job_id: (count, first, last) for job_id, count, first, last in reader.connection.execute(query)}


def _events(check: Check, job: Row, count: int, first: int, last: int) -> None:
    if count and (first, last) != (1, count):
        check.problem(job["id"], f"job {job['id']} has {count} events numbered from {first} to {last}: there is a gap")
    elif job.get("event_seq", last) < last:
        mend = partial(_set_seq, job["id"])
        check.problem(job["id"], f"job {job['id']} counts {job['event_seq']} events, and {last} are stored", mend)
    elif job.get("event_seq", last) > last:
        check.problem(job["id"], f"job {job['id']} counts {job['event_seq']} events, and {last} are stored: the last are lost")


def _set_seq(job_id: str) -> bool:
    with db.writing() as session:
        last = select(func.max(JobEvent.seq)).where(col(JobEvent.job_id) == job_id).scalar_subquery()
        behind = update(Job).where(col(Job.id) == job_id, col(Job.event_seq) < last)
        return session.connection().execute(behind.values(event_seq=last)).rowcount == 1


def _played(reader: Reader, ids: list[str]) -> dict[str, dict[str, int]]:
    """Episodes of each job by their state."""
    query: Any = select(column("job_id"), column("state"), func.count())
    query = query.select_from(plain("episode")).where(column("job_id").in_(ids)).group_by(column("job_id"), column("state"))
    found: dict[str, dict[str, int]] = {}
    for job_id, state, count in reader.connection.execute(query):
        found.setdefault(job_id, {})[state] = count
    return found


def _summary(check: Check, job: Row, steps: list[Row], played: dict[str, int]) -> None:
    """An eval that has succeeded played all that it was asked for, and its summary says so. Of an import there is none."""
    asked = Asked.by(job.get("spec"))
    if job["kind"] != "eval" or job["state"] != "succeeded" or asked is None or "summary" not in job:
        return
    if job["summary"] is None and any(step["kind"] == "import" for step in steps):
        return
    name, done = f"job {job['id']}", played.get("done", 0)
    told = (job["summary"] or {}).get("episodes")
    counts = told if isinstance(told, dict) else {}
    wanted = {"asked": asked.episodes, "done": done, "failed": played.get("failed", 0)}
    if said := {what: counts.get(what) for what, count in wanted.items() if counts.get(what) != count}:
        check.problem(job["id"], f"{name} has the episodes {said} in its summary, and its spec and its episodes give {wanted}")
    elif done != asked.episodes:
        check.problem(job["id"], f"{name} has succeeded, and {done} of its {asked.episodes} episodes are done")


def parents(check: Check, tick: Tick) -> None:
    """Every row whose job or episode is to be there: is it?"""
    with tables.snapshot() as connection:
        reader = Reader(connection)
        for name in tables.all_tables():
            for key in SQLModel.metadata.tables[name].foreign_keys:
                with check.reading(f"the table {name}"):
                    check.looked += reader.count(name)
                    _alone(check, reader, name, key.parent.name, key.column.table.name, key.column.name)
            tick(1)


def _alone(check: Check, reader: Reader, name: str, by: str, parent: str, key: str) -> None:
    there: Any = select(column(key)).select_from(plain(parent))
    query: Any = select(column(by), func.count()).select_from(plain(name)).where(column(by).not_in(there)).group_by(column(by))
    for value, count in reader.connection.execute(query):
        rows = "1 row" if count == 1 else f"{count} rows"
        check.problem(str(value), f"{rows} of the table {name} belong to {parent} {value}, which is not stored")


def database(check: Check, tick: Tick) -> None:
    """What SQLite itself finds wrong with its file."""
    check.looked = 1
    with check.reading("the database file"), db.reading() as session:
        if session.get_bind().dialect.name == "sqlite":
            said = session.connection().execute(text("PRAGMA quick_check(20)")).scalars().all()
            for line in said if list(said) != ["ok"] else ():
                check.problem("database", f"SQLite says of its file: {line}")
    tick(1)

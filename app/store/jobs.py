"""Questions about jobs: which one a user means, pages of them, how far they are. Reads only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import func, select
from sqlmodel import Session, col

from app.errors import AmbiguousName, JobNotFound
from app.models import Artifact, Episode, Job, JobState, Step, StepState
from app.store import paging

LAST: Final = "@last"
"""Stands for the newest job."""
REF: Final = re.compile(r"@last|[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CUT: Final = "cut short"
MOST_NAMED: Final = 5
"""Jobs that an ambiguous prefix lists."""


def find(session: Session, ref: str) -> Job:
    """The job that a user means: by id, exact name (the newest of that name), unique start of an id, or ``@last``.

    A whole match goes before the start of an id. Raises JobNotFound, or AmbiguousName with some of the ids that fit.
    """
    if not REF.fullmatch(ref):
        raise JobNotFound(ref)
    newest = paging.newest_first(select(Job), col(Job.created_at), col(Job.id)).limit(1)
    if ref != LAST:
        whole = session.get(Job, ref)
        if whole is not None:
            return whole
        newest = newest.where(col(Job.name) == ref)
    job = session.scalars(newest).one_or_none()
    return job if job is not None else _by_prefix(session, ref)


def _by_prefix(session: Session, ref: str) -> Job:
    start = ref if ref.startswith("job_") else f"job_{ref}"
    query = paging.newest_first(select(Job), col(Job.created_at), col(Job.id))
    found = session.scalars(query.where(col(Job.id).startswith(start, autoescape=True)).limit(MOST_NAMED)).all()
    if len(found) > 1:
        raise AmbiguousName(ref, [job.id for job in found])
    if not found:
        raise JobNotFound(ref)
    return found[0]


def page(
    session: Session,
    *,
    states: Sequence[str] = (),
    kind: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    limit: int = 50,
    after: str | None = None,
) -> tuple[list[Job], str | None]:
    """A page of jobs, newest first, and the cursor of the next page (None: there is none)."""
    query = paging.newest_first(select(Job), col(Job.created_at), col(Job.id))
    query = query.where(*paging.behind(after, col(Job.created_at), col(Job.id)))
    if states:
        query = query.where(col(Job.state).in_(states))
    if kind is not None:
        query = query.where(col(Job.kind) == kind)
    if name is not None:
        query = query.where(col(Job.name) == name)
    for key, value in (labels or {}).items():
        query = query.where(col(Job.labels)[key].as_string() == value)
    rows = list(session.scalars(query.limit(limit + 1)))
    more = len(rows) > limit
    return rows[:limit], paging.encode(rows[limit - 1].created_at, rows[limit - 1].id) if more else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is."""

    done: int
    failed: int
    total: int
    """0 while nobody knows yet."""
    unit: Literal["episodes", "steps", "iterations"]
    cut_short: int = 0
    """Episodes that stood in their middle when their job was cancelled; a retry goes on with them."""


def progress(session: Session, job: Job) -> Progress:
    """How far one job is."""
    return progress_of(session, [job])[job.id]


def progress_of(session: Session, jobs: Sequence[Job]) -> dict[str, Progress]:
    """How far each of the jobs is, by id. An eval counts episodes and an rl job updates, over all of its attempts; the others
    their steps' units."""
    episodes = _episode_counts(session, [job.id for job in jobs if job.kind == "eval"])
    sums = _step_sums(session, [job.id for job in jobs if job.kind not in ("eval", "rl")])
    updates = _updates(session, [job.id for job in jobs if job.kind == "rl"])
    found = {}
    for job in jobs:
        cut = 0
        if job.kind == "rl":
            found[job.id] = Progress(done=updates.get(job.id, 0), failed=0, total=iterations_asked(job.spec), unit="iterations")
            continue
        if job.kind == "eval":
            states = episodes.get(job.id, {})
            cut = states.get(CUT, 0) if job.state == JobState.CANCELLED else 0
            done, failed, total = states.get("done", 0), states.get("failed", 0) - cut, episodes_asked(job.spec)
        else:
            done, failed, total = sums.get((job.id, job.attempt), (0, 0, 0))
        unit: Literal["episodes", "steps"] = "episodes" if job.kind in ("eval", "filter") else "steps"
        if job.kind == "filter":
            failed = 0  # its step failed, not one of the episodes that it reads
        found[job.id] = Progress(done=done, failed=failed, total=total, unit=unit, cut_short=cut)
    return found


def episodes_asked(spec: Mapping[str, Any]) -> int:
    """How many episodes an eval's resolved spec asks for."""
    table = spec["eval"]
    return len(table["seeds"]) * len(table["policies"]) * int(table["episodes_per_seed"])


def iterations_asked(spec: Mapping[str, Any]) -> int:
    """How many iterations an rl job's resolved spec asks for."""
    table = spec["training"]
    return int(table["iterations"] or table["num_epochs"] * table["iterations_per_epoch"])


def _updates(session: Session, ids: Sequence[str]) -> dict[str, int]:
    """Updates of rl jobs that are done; none is done twice."""
    if not ids:
        return {}
    done = (col(Step.kind) == "update", col(Step.state) == StepState.SUCCEEDED)
    query = select(col(Step.job_id), func.count()).where(col(Step.job_id).in_(ids), *done).group_by(col(Step.job_id))
    return {row[0]: row[1] for row in session.connection().execute(query)}


def _episode_counts(session: Session, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Episodes by job and state, and under CUT those of the failed ones that a retry goes on with."""
    if not ids:
        return {}
    cut = func.count().filter(col(Episode.state) == "failed", col(Episode.snapshot).is_not(None))
    query = select(col(Episode.job_id), col(Episode.state), func.count(), cut).where(col(Episode.job_id).in_(ids))
    found: dict[str, dict[str, int]] = {}
    for job_id, state, count, cut_short in session.connection().execute(query.group_by(col(Episode.job_id), col(Episode.state))):
        states = found.setdefault(job_id, {})
        states[state] = count
        states[CUT] = states.get(CUT, 0) + cut_short
    return found


def _step_sums(session: Session, ids: Sequence[str]) -> dict[tuple[str, int], tuple[int, int, int]]:
    if not ids:
        return {}
    failed = func.count().filter(col(Step.state) == StepState.FAILED)
    query = select(col(Step.job_id), col(Step.job_attempt), func.sum(Step.done), failed, func.sum(Step.total))
    query = query.where(col(Step.job_id).in_(ids)).group_by(col(Step.job_id), col(Step.job_attempt))
    rows = session.connection().execute(query)
    return {(job_id, attempt): (int(done), failures, int(total)) for job_id, attempt, done, failures, total in rows}


def steps(session: Session, job: Job) -> list[Step]:
    """Every step of the job, all attempts, in order."""
    return list(session.scalars(select(Step).where(col(Step.job_id) == job.id).order_by(col(Step.position))))


def artifacts(session: Session, job: Job) -> list[Artifact]:
    """What the job made, oldest first."""
    query = select(Artifact).where(col(Artifact.job_id) == job.id)
    return list(session.scalars(query.order_by(col(Artifact.created_at), col(Artifact.id))))

"""Which bases and adapters jobs want to be served, and how. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select
from sqlmodel import Session, col

from app.endpoints.publish import SERVED
from app.models import AdapterVersion, Job, JobState, ModelUse, Step, StepState, VersionState

OPEN: Final = (JobState.QUEUED, JobState.RUNNING)
ANY: Final = "auto"
"""Stands for any engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A model that an unfinished job has unfinished steps for."""

    row: ModelUse
    priority: int
    created_at: float
    waiting: int
    running: int
    since: float
    """When the job's present attempt began: what failed to load before then deserves another try."""

    @property
    def order(self) -> tuple[Any, ...]:
        """The lower goes first."""
        return -self.priority, self.created_at, self.row.job_id, self.row.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A base that jobs want with one engine."""

    base: str
    engine: str
    """``auto``: with any."""
    uses: tuple[Use, ...]
    """In their order; never empty."""

    @property
    def key(self) -> tuple[str, str]:
        """What makes it another want."""
        return self.base, self.engine

    @property
    def waiting(self) -> int:
        """Steps that wait for it."""
        return sum(use.waiting for use in self.uses)

    @property
    def running(self) -> int:
        """Steps that play with it."""
        return sum(use.running for use in self.uses)

    @property
    def since(self) -> float:
        """When the newest attempt of the jobs began."""
        return max(use.since for use in self.uses)

    @property
    def first(self) -> ModelUse:
        """The use of the oldest job: it says how the base is served."""
        return min(self.uses, key=lambda use: (use.created_at, use.row.job_id, use.row.label)).row


def uses(session: Session, *, dated: bool) -> list[Use]:
    """The models that unfinished jobs have unfinished steps for, in their order; ``dated``: with the time of ``since``.

    A job that publishes versions wants its base from its first step to its last, between its plays too.
    """
    query = select(ModelUse, Job).join(Job, col(Job.id) == ModelUse.job_id)
    query = query.where(col(Job.state).in_(OPEN), col(Job.cancel_requested_at).is_(None))
    rows = session.execute(query.execution_options(populate_existing=True)).all()
    ids = {row.job_id for row, _ in rows}
    steps = _open_steps(session, ids) if ids else {}
    began = _began(session, ids) if ids and dated else {}
    found = []
    for row, job in rows:
        waiting, running = steps.get((row.job_id, row.label), (0, 0))
        if waiting or running or (row.line and job.state == JobState.RUNNING):
            since = began.get(job.id, 0.0)
            use = Use(row=row, priority=job.priority, created_at=job.created_at, waiting=waiting, running=running, since=since)
            found.append(use)
    return sorted(found, key=lambda use: use.order)


def _open_steps(session: Session, job_ids: Iterable[str]) -> dict[tuple[str, str], tuple[int, int]]:
    """Waiting and running steps, by job and label."""
    running = func.count().filter(col(Step.state) == StepState.RUNNING)
    query = select(col(Step.job_id), col(Step.needs), func.count(), running)
    query = query.where(col(Step.job_id).in_(job_ids), col(Step.state).in_([StepState.QUEUED, StepState.RUNNING]))
    query = query.where(col(Step.needs).is_not(None)).group_by(col(Step.job_id), col(Step.needs))
    rows = session.connection().execute(query)
    return {(job_id, str(needs)): (count - busy, busy) for job_id, needs, count, busy in rows}


def _began(session: Session, job_ids: Iterable[str]) -> dict[str, float]:
    """When the present attempt of each job began."""
    query = select(col(Step.job_id), func.min(Step.created_at)).join(Job, col(Job.id) == Step.job_id)
    query = query.where(col(Job.id).in_(job_ids), col(Step.job_attempt) == Job.attempt).group_by(col(Step.job_id))
    return {row[0]: row[1] for row in session.connection().execute(query)}


def bases(found: Sequence[Use], engines: Collection[str]) -> list[Want]:
    """The bases that these uses want, those of the first uses first. ``engines``: those that some live endpoint can run.

    Who does not care for the engine takes the one that another job asks for, if there is one that can be had.
    """
    by_key: dict[tuple[str, str], list[Use]] = {}
    for use in found:
        by_key.setdefault((use.row.base, _engine_for(use, found, engines)), []).append(use)
    return [Want(base=base, engine=engine, uses=tuple(of_key)) for (base, engine), of_key in by_key.items()]


def _engine_for(use: Use, found: Sequence[Use], engines: Collection[str]) -> str:
    if use.row.engine != ANY:
        return use.row.engine
    asked = (other.row.engine for other in found if other.row.base == use.row.base and other.row.engine in engines)
    return next(asked, ANY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An adapter that should be loaded beside its base."""

    name: str
    path: str
    in_use: bool
    """Steps play with it now, so that it stays whatever else is wanted."""
    since: float
    job_id: str


def adapters(session: Session, want: Want | None, base: str) -> list[Wanted]:
    """The adapters of a base that jobs want, those in use first; each once."""
    versions = _versions(session, base)
    fixed = _fixed(want.uses if want is not None else ())
    found = sorted((*versions, *fixed), key=lambda each: not each.in_use)  # stable: versions, then jobs in their order
    return list({each.name: each for each in reversed(found)}.values())[::-1]


def _fixed(uses: Sequence[Use]) -> list[Wanted]:
    return [
        Wanted(
            name=use.row.adapter,
            path=use.row.adapter_path,
            in_use=use.running > 0,
            since=use.since,
            job_id=use.row.job_id,
        )
        for use in uses
        if use.row.adapter
    ]


def _versions(session: Session, base: str) -> list[Wanted]:
    """The versions of unfinished jobs' lines that should be loaded: live ones, those that steps still play with, new ones."""
    query = select(AdapterVersion).join(Job, col(Job.id) == AdapterVersion.line)
    query = query.where(col(AdapterVersion.base) == base, col(AdapterVersion.state).in_(SERVED), col(Job.state).in_(OPEN))
    rows = session.scalars(query.execution_options(populate_existing=True)).all()
    ranks = {VersionState.LIVE: 0, VersionState.DRAINING: 1, VersionState.LOADING: 2}
    return [
        Wanted(
            name=row.name,
            path=row.path,
            in_use=row.state != VersionState.LOADING,
            since=row.published_at,
            job_id=row.line,
        )
        for row in sorted(rows, key=lambda row: (ranks[VersionState(row.state)], row.line, row.version))
    ]

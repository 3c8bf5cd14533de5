"""Why a job does not get on, in one sentence. Reads only; a few queries whatever the number of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from sqlalchemy import func, select
from sqlmodel import Session, col

from app import db, endpoints
from app.endpoints import use_of
from app.endpoints.why import why_not_served
from app.heartbeat import live_workers
from app.models import ENDED, Endpoint, Job, JobState, Outbox, Queue, Step, StepState, Worker
from app.store import workers

HINT_LATE_S: Final = 5.0
"""A promise to a queue that is unkept for this long means that the broker does not take it."""
WORKER_OF: Final = {
    Queue.ROLLOUT: "rollout",
    Queue.DATA: "rollout",
    Queue.INFERENCE: "inference",
    Queue.TRAINER: "trainer",
}
"""The worker to start for each queue."""


def waiting_reason(session: Session, job: Job) -> str | None:
    """Why the job does not get on; None when it does or has ended."""
    return waiting_reasons(session, [job]).get(job.id)


def waiting_reasons(session: Session, jobs: Sequence[Job]) -> dict[str, str]:
    """Why each of the jobs that waits does so, by id."""
    open_jobs = [job for job in jobs if job.state not in ENDED]
    if not open_jobs:
        return {}
    scene = Scene(session, open_jobs)
    reasons = {job.id: scene.reason(job) for job in open_jobs}
    return {id: reason for id, reason in reasons.items() if reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSteps:
    """The steps of a job that have not ended."""

    queued: int = 0
    running: int = 0
    available_at: float = 0.0
    """From when on the first of the queued ones may be claimed."""
    queue: str = ""
    """Where that one waits."""
    needs: tuple[str, ...] = ()
    """Labels of the models that queued ones need; empty when one of them needs none."""
    plays: tuple[str, ...] = ()
    """Labels of the models that running ones need; empty when one of them needs none."""


class Scene:
    """What the sentences about some jobs are made from, each part read once and only when it is needed."""

    def __init__(self, session: Session, jobs: Sequence[Job]) -> None:
        self.session = session
        self.at = db.clock(session)
        self.steps = self._open_steps([job.id for job in jobs])

    def reason(self, job: Job) -> str | None:
        """Why the job does not get on; None when it does."""
        steps = self.steps.get(job.id, OpenSteps())
        if job.cancel_requested_at is not None:
            return f"is being cancelled; {_count(steps.running, 'running step')} still to stop" if steps.running else None
        if steps.running:
            return self._unserved(job, steps.plays) or self._own_limit(job, steps)
        if needed := self._needed(job):
            return needed
        if not self._led:
            return "no scheduler leads, so no worker is told of it; start one with `synthq up`"
        if not steps.queued:
            return "waits for the scheduler to make its next steps"
        if unserved := self._unserved(job, steps.needs):
            return unserved
        if steps.available_at > self.at:
            return self._backoff(job)
        return self._in_queue(job, steps.queue)

    def _own_limit(self, job: Job, steps: OpenSteps) -> str | None:
        if job.max_parallel is None or steps.running < job.max_parallel or not steps.queued:
            return None
        return f"{_count(steps.queued, 'step')} wait: {steps.running} run, and the job's own max_parallel is {job.max_parallel}"

    def _needed(self, job: Job) -> str | None:
        if job.state != JobState.QUEUED or not job.after:
            return None
        ids = [needed["job"] for needed in job.after]
        states = dict(self.session.connection().execute(select(col(Job.id), col(Job.state)).where(col(Job.id).in_(ids))).all())
        waits = [id for id in ids if states.get(id, "removed") not in {*ENDED, "removed"}]
        if not waits:
            return None
        more = f" and {_count(len(waits) - 1, 'more job')}" if len(waits) > 1 else ""
        return f"waits for job {waits[0]} ({states[waits[0]]}){more}"

    def _unserved(self, job: Job, labels: Sequence[str]) -> str | None:
        """Why none of these models is served; None when one is, and where there are none."""
        uses = [use for label in labels if (use := use_of(self.session, job.id, label)) is not None]
        reasons = [why_not_served(use, self._endpoints, self.at, hosts=self._hosts) for use in uses]
        return None if None in reasons else next(iter(reasons), None)

    def _backoff(self, job: Job) -> str:
        query = select(Step).where(col(Step.job_id) == job.id, col(Step.state) == StepState.QUEUED)
        step = self.session.scalars(query.order_by(col(Step.available_at)).limit(1)).one()
        until = datetime.fromtimestamp(step.available_at, UTC).strftime("%H:%M:%S UTC")
        return f"waits until {until} after attempt {step.attempt} of {step.max_attempts} of step {step.key}: {step.reason}"

    def _in_queue(self, job: Job, queue: str) -> str | None:
        serving = workers.serving(self._workers, queue)
        if not serving:
            role = WORKER_OF[Queue(queue)]
            return f"no live worker serves queue {queue}; start one: `synthq worker {role}`"
        slots = sum(worker.slots for worker in serving)
        held = sum(self._busy.get(worker.id, 0) for worker in serving)
        if held >= slots:
            ahead = self._ahead(job, queue)
            return f"all {_count(slots, 'slot')} of queue {queue} are busy; {_count(ahead, 'step')} ahead of it"
        unsent = self._unsent(job)
        if unsent > HINT_LATE_S:
            return f"queue {queue} could not be told of it for {unsent:.0f} s: the broker may be down (GET /readyz tells)"
        if job.state == JobState.RUNNING:
            return None  # it is between two of its steps
        free, are = slots - held, "is" if slots - held == 1 else "are"
        return f"{free} of {_count(slots, 'slot')} of queue {queue} {are} free; a worker takes it within seconds"

    def _unsent(self, job: Job) -> float:
        query = select(func.min(Outbox.created_at)).where(col(Outbox.job_id) == job.id, col(Outbox.sent_at).is_(None))
        oldest = self.session.connection().execute(query).scalar_one()
        return 0.0 if oldest is None else self.at - oldest

    def _ahead(self, job: Job, queue: str) -> int:
        """Steps that are claimed before the job's next one, if nothing new comes: the order is that of claims."""
        lines = self._lines(queue)
        mine = next((line for line in lines if line.id == job.id), None)
        if mine is None:
            return 0
        higher = sum(line.waiting for line in lines if line.priority > mine.priority)
        return higher + sum(1 for line in lines if line.priority == mine.priority and line.turn < mine.turn)

    def _lines(self, queue: str) -> list[Line]:
        if queue not in self._lines_read:
            self._lines_read[queue] = _read_lines(self.session, queue, self.at)
        return self._lines_read[queue]

    @cached_property
    def _lines_read(self) -> dict[str, list[Line]]:
        return {}

    @cached_property
    def _led(self) -> bool:
        lead = workers.lead(self.session)
        return lead is not None and lead.left_s > 0

    @cached_property
    def _workers(self) -> list[Worker]:
        return live_workers(self.session)

    @cached_property
    def _hosts(self) -> set[str]:
        """The machines that play; any is as good as this one while there is none, for what is missing then is said elsewhere."""
        found = {worker.host for worker in workers.serving(self._workers, Queue.ROLLOUT)}
        return found or {endpoint.host for endpoint in self._endpoints}

    @cached_property
    def _endpoints(self) -> list[Endpoint]:
        return endpoints.live(self.session)

    @cached_property
    def _busy(self) -> dict[str, int]:
        return workers.busy(self.session)

    def _open_steps(self, ids: Sequence[str]) -> dict[str, OpenSteps]:
        groups = (col(Step.job_id), col(Step.queue), col(Step.state), col(Step.needs))
        query = select(*groups, func.count(), func.min(Step.available_at)).group_by(*groups)
        query = query.where(col(Step.job_id).in_(ids), col(Step.state).in_([StepState.QUEUED, StepState.RUNNING]))
        found: dict[str, OpenSteps] = {}
        rows = self.session.connection().execute(query).all()
        for job_id, queue, state, _, count, available_at in rows:
            found[job_id] = _add(found.get(job_id, OpenSteps()), queue, state, count, available_at)
        for job_id, steps in found.items():
            mine = [(state, needs) for id, _, state, needs, *_ in rows if id == job_id]
            found[job_id] = replace(steps, needs=_labels(mine, StepState.QUEUED), plays=_labels(mine, StepState.RUNNING))
        return found


def _labels(steps: Sequence[tuple[str, str | None]], state: StepState) -> tuple[str, ...]:
    """What the steps in a state need; nothing when one of them needs nothing."""
    needs = {label for is_, label in steps if is_ == state}
    return () if None in needs else tuple(sorted(filter(None, needs)))


def _add(steps: OpenSteps, queue: str, state: str, count: int, available_at: float) -> OpenSteps:
    first = not steps.queued or available_at < steps.available_at
    waits = state == StepState.QUEUED
    return OpenSteps(
        queued=steps.queued + (count if waits else 0),
        running=steps.running + (0 if waits else count),
        available_at=available_at if waits and first else steps.available_at,
        queue=queue if waits and first else steps.queue,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A job that stands in a queue."""

    id: str
    priority: int
    turn: tuple[Any, ...]
    """Among jobs of one priority, the lower goes first."""
    waiting: int


def _read_lines(session: Session, queue: str, at: float) -> list[Line]:
    running = select(col(Step.job_id), func.count().label("n")).where(col(Step.state) == StepState.RUNNING)
    held = running.group_by(col(Step.job_id)).subquery()
    busy = func.coalesce(held.c.n, 0)
    waiting = select(col(Step.job_id), func.count().label("n")).where(
        col(Step.state) == StepState.QUEUED, col(Step.queue) == queue, col(Step.available_at) <= at
    )
    lined = waiting.group_by(col(Step.job_id)).subquery()
    query = select(col(Job.id), col(Job.priority), busy, col(Job.claimed_at), col(Job.created_at), lined.c.n)
    query = query.join(lined, lined.c.job_id == Job.id).outerjoin(held, held.c.job_id == Job.id)
    return [
        Line(id=id, priority=priority, turn=(count, claimed_at, created_at), waiting=n)
        for id, priority, count, claimed_at, created_at, n in session.connection().execute(query)
    ]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""The only code that changes the state of a job or a step. The legal moves are the two tables below.

Every function runs inside a write transaction of its caller and locks the job's row before it touches the job's steps, always
in this order, so that two of them never wait for each other. The next steps that a change of state sets off are made in the same
transaction, together with the outbox row that promises to tell the queue; jobs that waited for the job are the reconciler's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col

from app import db
from app.errors import AlreadyEnded, Conflict, IllegalMove, JobNotFound, LostStep, SynthqError
from app.models import ENDED, ITS_OWN, Episode, Job, JobState, ModelUse, Outbox, Step, StepState, new_id
from app.plots import plot_of
from app.plots.base import Ending, EpisodeId, JobView, Plot, StepPlan, StepView
from app.settings import get_settings
from app.store import episodes, events

JOB_MOVES: dict[str, frozenset[str]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}

STEP_MOVES: dict[str, frozenset[str]] = {
    StepState.QUEUED: frozenset({StepState.RUNNING, StepState.FAILED, StepState.CANCELLED}),
    StepState.RUNNING: frozenset({StepState.QUEUED, StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELLED}),
    StepState.SUCCEEDED: frozenset(),
    StepState.FAILED: frozenset(),
    StepState.CANCELLED: frozenset(),
}

WORKER_LOST = "worker_lost"
"""Begins the reason of a step whose worker went away."""


def _move_job(session: Session, job: Job, to: JobState, *, reason: str | None = None) -> None:
    if to not in JOB_MOVES[job.state]:
        raise IllegalMove("job", job.id, job.state, to)
    job.state, job.reason = to, reason
    if to in ENDED:
        job.finished_at = db.clock(session)
    session.add(job)


def _move_step(session: Session, step: Step, to: StepState, *, reason: str | None = None) -> None:
    if to not in STEP_MOVES[step.state]:
        raise IllegalMove("step", step.id, step.state, to)
    step.state, step.reason = to, reason
    if to != StepState.RUNNING:
        step.lease_until = None
    if to in ENDED:
        step.finished_at = db.clock(session)
    session.add(step)


def lock_job(session: Session, job_id: str) -> Job:
    """The job's row, fresh and locked until the transaction ends. Raises JobNotFound."""
    query = select(Job).where(col(Job.id) == job_id).with_for_update().execution_options(populate_existing=True)
    job = session.scalars(query).one_or_none()
    if job is None:
        raise JobNotFound(job_id)
    return job


def lock_step(session: Session, step_id: str) -> Step | None:
    """The step's row, fresh and locked; its job must be locked already."""
    query = select(Step).where(col(Step.id) == step_id).with_for_update().execution_options(populate_existing=True)
    return session.scalars(query).one_or_none()


# -- jobs ------------------------------------------------------------------------------------------------------------------


def submit(
    session: Session,
    *,
    kind: str,
    spec: dict[str, Any],
    spec_sha256: str,
    name: str | None = None,
    priority: int = 0,
    labels: dict[str, str] | None = None,
    after: Sequence[dict[str, str]] = (),
    source: str | None = None,
    submitted_by: str | None = None,
    uses: Sequence[dict[str, Any]] = (),
) -> Job:
    """Store a job, its first steps and their outbox row: all of it or nothing. Raises UnknownKind.

    ``uses``: rows of ``model_use``, without the job's id, of the models that it plays with; the line ``ITS_OWN`` is the job's.
    """
    plot = plot_of(kind)
    job = Job(
        id=new_id("job"),
        kind=kind,
        spec=spec,
        spec_sha256=spec_sha256,
        name=name,
        priority=priority,
        labels=labels or {},
        after=list(after),
        source=source,
        submitted_by=submitted_by,
        max_parallel=plot.most_at_once(spec),
        created_at=db.clock(session),
    )
    session.add(job)
    session.flush()
    settled = ({**use, "line": job.id} if use.get("line") == ITS_OWN else use for use in uses)
    session.add_all(ModelUse(job_id=job.id, **use) for use in settled)
    session.flush()
    events.append(session, job.id, "job.created", f"{kind} job created", data={"spec_sha256": spec_sha256})
    start_if_ready(session, job)
    session.flush()
    session.refresh(job)
    return job


def start_if_ready(session: Session, job: Job) -> None:
    """Make the job's first steps once every job that it waits for has ended as it should."""
    if job.state != JobState.QUEUED or has_steps(session, job):
        return
    for needed in job.after:
        other = session.get(Job, needed["job"])
        state = other.state if other else "removed"
        if state not in ENDED and other is not None:
            return
        if needed["on"] == "ok" and state != JobState.SUCCEEDED:
            _end(
                session,
                job,
                Ending(state=JobState.FAILED, reason=f"it was to run after {needed['job']} succeeded, but that job is {state}"),
            )
            return
    _go_on(session, job, lambda plot: plot.begin(job_view(session, job)))


def _go_on(session: Session, job: Job, ask: Callable[[Plot], list[StepPlan] | Ending]) -> None:
    """Do what the job's plot answers. A plot with a fault ends its own job, and not the process that asked."""
    try:
        following = ask(plot_of(job.kind))
        if not following:
            raise Conflict("it asked for no steps")
    except SQLAlchemyError:  # the database's fault, not the plot's
        raise
    except Exception as error:  # noqa: BLE001 - the reason in the job's row
        told = str(error) if isinstance(error, SynthqError) else f"{type(error).__name__}: {error}"
        following = Ending(state=JobState.FAILED, reason=f"its plot cannot go on: {told}")
    if isinstance(following, Ending):
        _end(session, job, following)
    else:
        _add_steps(session, job, following)


def has_steps(session: Session, job: Job) -> bool:
    """Whether the present attempt of the job has any steps."""
    query = select(col(Step.id)).where(col(Step.job_id) == job.id, col(Step.job_attempt) == job.attempt).limit(1)
    return session.connection().execute(query).first() is not None


def job_view(session: Session, job: Job) -> JobView:
    """What the job's plot may know."""

    def done_episodes() -> frozenset[EpisodeId]:
        query = select(col(Episode.iteration), col(Episode.seed), col(Episode.member))
        rows = session.connection().execute(query.where(col(Episode.job_id) == job.id, col(Episode.state) == "done"))
        return frozenset((iteration, seed, member) for iteration, seed, member in rows)

    def seconds() -> float:
        at = db.clock(session)
        return at - (job.started_at or at)

    return JobView(spec=job.spec, done_episodes=done_episodes, seconds=seconds)


def _add_steps(session: Session, job: Job, plans: Iterable[StepPlan]) -> None:
    created_at = db.clock(session)
    first = session.connection().execute(select(func.count()).where(col(Step.job_id) == job.id)).scalar_one()
    served = _served_labels(session, job)
    rows = [
        {
            "id": new_id("stp"),
            "job_id": job.id,
            "key": f"{job.attempt}/{plan.key}",
            "job_attempt": job.attempt,
            "kind": plan.kind,
            "queue": str(plan.queue),
            "position": position,
            "payload": plan.payload,
            "needs": policy if (policy := plan.payload.get("policy")) in served else None,
            "state": str(StepState.QUEUED),
            "attempt": 0,
            "max_attempts": get_settings().max_attempts,
            "fence": 0,
            "done": 0,
            "total": plan.total,
            "created_at": created_at,
            "available_at": created_at,
        }
        for position, plan in enumerate(plans, start=first)
    ]
    session.connection().execute(insert(Step), rows)  # not row by row: a large eval has thousands
    for queue in sorted({str(row["queue"]) for row in rows}):
        session.add(Outbox(queue=queue, job_id=job.id, created_at=created_at))
    session.flush()


def _served_labels(session: Session, job: Job) -> frozenset[str]:
    """Labels of the policies that need a served model."""
    return frozenset(session.connection().execute(select(col(ModelUse.label)).where(col(ModelUse.job_id) == job.id)).scalars())


def advance(session: Session, job: Job) -> None:
    """Ask the plot what comes next, if every step of the attempt has ended. The job's row must be locked."""
    if job.state != JobState.RUNNING or _has_open_steps(session, job):
        return
    steps = attempt_steps(session, job)
    if not steps:
        return
    if job.cancel_requested_at is not None:
        _end(session, job, Ending(state=JobState.CANCELLED, reason="cancelled by the user", summary=job.summary))
        return
    views = [
        StepView(
            key=step.key.partition("/")[2],
            kind=step.kind,
            state=StepState(step.state),
            reason=step.reason,
            payload=step.payload,
            result=step.result,
        )
        for step in steps
    ]
    _go_on(session, job, lambda plot: plot.advance(job_view(session, job), views))


def _has_open_steps(session: Session, job: Job) -> bool:
    query = (
        select(col(Step.id))
        .where(col(Step.job_id) == job.id, col(Step.state).in_([StepState.QUEUED, StepState.RUNNING]))
        .limit(1)
    )
    return session.connection().execute(query).first() is not None


def attempt_steps(session: Session, job: Job) -> list[Step]:
    """The steps of the job's present attempt, in order."""
    query = select(Step).where(col(Step.job_id) == job.id, col(Step.job_attempt) == job.attempt)
    return list(session.scalars(query.order_by(col(Step.position)).execution_options(populate_existing=True)))


def _end(session: Session, job: Job, ending: Ending) -> None:
    _move_job(session, job, ending.state, reason=ending.reason)
    if ending.summary is not None:
        job.summary = ending.summary
    session.flush()
    episodes.cut_short(session, job.id, f"the job ended as {ending.state} before the episode did")
    level = {"succeeded": "info", "cancelled": "warning"}.get(ending.state, "error")
    message = f"job {ending.state}" + (f": {ending.reason}" if ending.reason else "")
    events.append(session, job.id, f"job.{ending.state}", message, level=level)


def cancel(session: Session, job: Job) -> Job:
    """Ask a job to stop: waiting steps are cancelled at once, running ones stop at their next look. Twice is once."""
    job = lock_job(session, job.id)
    if job.state == JobState.CANCELLED:
        return job
    if job.state in ENDED:
        raise AlreadyEnded(job.id, job.state, "only a queued or running job can be cancelled")
    if job.cancel_requested_at is None:
        job.cancel_requested_at = db.clock(session)
        session.add(job)
        session.flush()
        events.append(session, job.id, "job.cancel_requested", "cancel requested", level="warning")
    _cancel_queued(session, job)
    if job.state == JobState.QUEUED:
        _end(session, job, Ending(state=JobState.CANCELLED, reason="cancelled by the user"))
    advance(session, job)
    session.flush()
    session.refresh(job)
    return job


def _cancel_queued(session: Session, job: Job) -> None:
    """Queued to cancelled for all of them in one statement: there may be thousands."""
    queued = update(Step).where(col(Step.job_id) == job.id, col(Step.state) == StepState.QUEUED)
    values = {"state": str(StepState.CANCELLED), "reason": "the job was cancelled", "finished_at": db.now()}
    session.connection().execute(queued.values(**values))


def retry(session: Session, job: Job) -> Job:
    """Put a failed or cancelled job back in the queue; what it has already made is kept and not made again."""
    job = lock_job(session, job.id)
    if JobState.QUEUED not in JOB_MOVES[job.state]:
        asked = "nothing of it is missing" if job.state == JobState.SUCCEEDED else "wait for its end, or cancel it first"
        raise AlreadyEnded(job.id, job.state, asked) if job.state in ENDED else Conflict(f"job {job.id} is {job.state}; {asked}")
    _move_job(session, job, JobState.QUEUED)
    job.attempt += 1
    job.cancel_requested_at = job.finished_at = job.started_at = None
    session.flush()
    events.append(session, job.id, "job.retried", f"attempt {job.attempt} begins with what is missing")
    start_if_ready(session, job)
    session.flush()
    session.refresh(job)
    return job


def remove(session: Session, job: Job) -> None:
    """Delete a job that has ended, with its steps, events and traces. Frames that others share stay."""
    job = lock_job(session, job.id)
    if job.state not in ENDED:
        raise Conflict(f"job {job.id} is {job.state}; cancel it before it is removed")
    session.delete(job)
    session.flush()


# -- steps -----------------------------------------------------------------------------------------------------------------


def start_step(session: Session, job: Job, step: Step, *, owner: str, hint: str | None) -> None:
    """Give a queued step to a worker under a new fence. Both rows must be locked."""
    at = db.clock(session)
    _move_step(session, step, StepState.RUNNING)
    step.owner, step.hint = owner, hint
    step.fence += 1
    step.attempt += 1
    step.lease_until = at + get_settings().lease_s
    step.progress_at = at
    step.started_at = step.started_at or at
    job.claimed_at = at
    if job.state == JobState.QUEUED:
        _begin(session, job)
        session.flush()
        events.append(session, job.id, "job.started", "first step claimed", step_id=step.id, data={"worker": owner})
    session.flush()


def _begin(session: Session, job: Job) -> None:
    _move_job(session, job, JobState.RUNNING)
    job.started_at = db.clock(session)


def hold(session: Session, step_id: str, fence: int) -> tuple[Job, Step]:
    """Lock a running step and its job, for a write under ``fence``. Raises LostStep if the hold was taken back."""
    job_id = session.connection().execute(select(col(Step.job_id)).where(col(Step.id) == step_id)).scalar_one_or_none()
    if job_id is None:
        raise LostStep(step_id, fence)
    try:
        job = lock_job(session, job_id)
    except JobNotFound:  # removed between the look and the lock
        raise LostStep(step_id, fence) from None
    step = lock_step(session, step_id)
    if step is None or step.fence != fence or step.state != StepState.RUNNING:
        raise LostStep(step_id, fence)
    return job, step


def guard(session: Session, step_id: str, fence: int) -> None:
    """Let the transaction pass only if the step is still held under ``fence``; it also counts as progress."""
    mine = update(Step).where(col(Step.id) == step_id, col(Step.fence) == fence, col(Step.state) == StepState.RUNNING)
    if session.connection().execute(mine.values(progress_at=db.now())).rowcount != 1:
        raise LostStep(step_id, fence)


def succeed_step(session: Session, step_id: str, fence: int, result: dict[str, Any]) -> None:
    """The step is done; the job goes on."""
    job, step = hold(session, step_id, fence)
    step.result, step.done = result, step.total
    _move_step(session, step, StepState.SUCCEEDED)
    session.flush()
    advance(session, job)


def fail_step(session: Session, step_id: str, fence: int, reason: str, *, retryable: bool) -> None:
    """An attempt of the step went wrong: back to the queue after a pause, or failed for good when tries or hope are used up."""
    job, step = hold(session, step_id, fence)
    _give_up_or_requeue(session, job, step, reason, retryable=retryable)


def lose_step(session: Session, step_id: str, fence: int, reason: str) -> None:
    """The worker that held the step is gone. Raises LostStep when somebody else took care of it first."""
    job, step = hold(session, step_id, fence)
    _give_up_or_requeue(session, job, step, f"{WORKER_LOST}: {reason}", retryable=True)


def fail_waiting(session: Session, job_id: str, needs: str, reason: str) -> int:
    """Fail the waiting steps of a job that need a model which nobody can serve, and let the job go on. Gives their number.

    Raises JobNotFound.
    """
    job = lock_job(session, job_id)
    waiting = update(Step).where(col(Step.job_id) == job_id, col(Step.needs) == needs, col(Step.state) == StepState.QUEUED)
    failed = waiting.values(state=StepState.FAILED, reason=reason, finished_at=db.now(), lease_until=None)
    count = session.connection().execute(failed).rowcount  # in one statement: there may be thousands
    if not count:
        return 0
    if job.state == JobState.QUEUED:  # none of its steps was ever claimed
        _begin(session, job)
    session.flush()
    message = f"{count} waiting {'step' if count == 1 else 'steps'} failed: {reason}"
    events.append(session, job_id, "step.failed", message, level="error", data={"needs": needs, "steps": count})
    advance(session, job)
    session.flush()
    return count


def hand_back(session: Session, step_id: str, fence: int, reason: str, *, pause_s: float = 0.0) -> None:
    """The worker gives the step back on purpose; it goes on elsewhere after the pause, and this attempt does not count."""
    job, step = hold(session, step_id, fence)
    step.attempt -= 1
    if job.cancel_requested_at is not None:
        _cancel_running(session, job, step)
        return
    _requeue(session, job, step, reason, pause_s=pause_s)
    session.flush()
    events.append(session, job.id, "step.handed_back", f"step {step.key} handed back: {reason}", step_id=step.id)


def cancel_step(session: Session, step_id: str, fence: int) -> None:
    """The running step has stopped because its job was cancelled."""
    job, step = hold(session, step_id, fence)
    _cancel_running(session, job, step)


def _cancel_running(session: Session, job: Job, step: Step) -> None:
    _move_step(session, step, StepState.CANCELLED, reason="the job was cancelled")
    session.flush()
    advance(session, job)


def _give_up_or_requeue(session: Session, job: Job, step: Step, reason: str, *, retryable: bool) -> None:
    if job.cancel_requested_at is not None:
        _cancel_running(session, job, step)
        return
    if retryable and step.attempt < step.max_attempts:
        pause_s = get_settings().backoff_s * 2 ** (step.attempt - 1)
        if reason.startswith(WORKER_LOST) and step.attempt == 1:
            pause_s = 0.0  # the step is most likely innocent; it waits only if it happens again
        _requeue(session, job, step, reason, pause_s=pause_s)
        session.flush()
        message = f"step {step.key} goes back to the queue after attempt {step.attempt} of {step.max_attempts}: {reason}"
        events.append(session, job.id, "step.requeued", message, level="warning", step_id=step.id)
        return
    _move_step(session, step, StepState.FAILED, reason=reason)
    session.flush()
    message = f"step {step.key} failed in attempt {step.attempt}: {reason}"
    events.append(session, job.id, "step.failed", message, level="error", step_id=step.id)
    advance(session, job)


def _requeue(session: Session, job: Job, step: Step, reason: str, *, pause_s: float) -> None:
    _move_step(session, step, StepState.QUEUED, reason=reason)
    at = db.clock(session)
    step.available_at = at + pause_s
    session.add(Outbox(queue=step.queue, job_id=job.id, created_at=at))

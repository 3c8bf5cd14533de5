"""Jobs that stand for work which is done already, such as a file that was sent or a store that was brought in."""

from __future__ import annotations

from sqlmodel import Session

from app.models import Job, JobState, Queue, Step, StepState


def add(session: Session, job: Job, *, step_id: str, work: str, count: int = 1) -> None:
    """Add a job that began and ended when it was created, and its one step: of the kind ``work``, with ``count`` things done."""
    at = job.created_at
    job.state, job.started_at, job.finished_at = JobState.SUCCEEDED, at, at
    session.add(job)
    session.flush()
    step = Step(
        id=step_id,
        job_id=job.id,
        key=f"1/{work}",
        kind=work,
        queue=Queue.DATA,
        position=0,
        state=StepState.SUCCEEDED,
        attempt=1,
        fence=1,
        done=count,
        total=count,
        created_at=at,
        available_at=at,
        started_at=at,
        finished_at=at,
    )
    session.add(step)
    session.flush()

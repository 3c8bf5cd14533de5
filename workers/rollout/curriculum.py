"""The step ``starts`` of an rl job: which episodes its groups may begin in, looked up once and stored as its result.

Where each group begins follows from that by ``app.plots.curriculum``. A later attempt of the job is told what the first was:
groups that are played again begin where they began.
"""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, col, select

from app import curricula, db
from app.errors import StepFailed
from app.models import Step, StepState
from app.plots.curriculum import EPISODES, STARTS
from app.specs.rl import RlSpec
from workers.rollout import envs
from workers.runner import StepContext


def run(context: StepContext) -> dict[str, Any]:
    """What may be begun from. Raises StepFailed when that is too little, or the job of it is gone or unlike this one."""
    spec: RlSpec = context.spec
    version = envs.make(spec.rollout.env, dict(spec.rollout.env_settings())).version
    with db.reading() as session:
        if (before := _before(session, context.job_id)) is not None:
            return before
        job = curricula.source(session, spec)
        fault = curricula.unlike(spec, job)
        found = curricula.pool(session, spec, job, version)
        fault = fault or curricula.lacks(spec, found, job)
    if fault is not None:
        raise StepFailed(fault)
    groups = f"{spec.starts} of {spec.groups} groups of an iteration begin in the play of {job.name or job.id}"
    context.log(f"{groups}: {found.told()}", level="warning" if found.left_out else "info")
    return {"job": job.id, EPISODES: found.episodes, "left_out": dict(found.left_out)}


def _before(session: Session, job_id: str) -> dict[str, Any] | None:
    """What an earlier attempt of the job was told."""
    mine = select(Step).where(Step.job_id == job_id, Step.kind == STARTS, Step.state == StepState.SUCCEEDED)
    found = session.exec(mine.order_by(col(Step.position)).limit(1)).first()
    return found.result if found is not None else None

"""How long a training that runs has yet to go, by its own pace."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import Final

from sqlmodel import Session, col, select

from app import db
from app.models import Job, JobState, Metric
from app.store.jobs import Progress

SCOPES: Final = {"sft": "train", "rl": "update"}
"""The scope of metrics that tells how far a kind of job is."""
POINTS: Final = 20
"""Newest points that the pace is taken from."""


def left_s(session: Session, job: Job, progress: Progress) -> float | None:
    """Seconds that a running sft or rl job takes yet; None for others, and while nothing was measured of it.

    Its pace is the median of the times between its last points, so that a pause between two attempts does not count.
    """
    if job.state != JobState.RUNNING or job.kind not in SCOPES or not progress.total:
        return None
    query = select(Metric.index, Metric.at).where(Metric.job_id == job.id, Metric.scope == SCOPES[job.kind])
    points = session.exec(query.order_by(col(Metric.index).desc()).limit(POINTS)).all()
    if not points:
        return None
    times = [(at - before) / (index - earlier) for (index, at), (earlier, before) in pairwise(points)]
    if not times and job.started_at is not None and progress.done:
        times = [(points[0][1] - job.started_at) / progress.done]
    if not times:
        return None
    since = max(0.0, db.clock(session) - points[0][1])
    return max(0.0, (progress.total - progress.done) * median(times) - since)

"""The episodes that a filter may keep, as rows without their turns, in the one order that an export has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from app.errors import StepFailed
from app.models import Episode, Job
from app.sources import PLAY
from app.specs import PlayedSpec, parse
from workers.rollout.selection.looks import Look, looks

ROWS_A_FETCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the rules look at, and what the manifest tells of an episode that passed."""

    id: str
    job_id: str
    seed: int
    member: int
    split: str
    task_id: str | None
    policy: str
    model: str | None
    state: str
    error: str | None
    ended: str | None
    turns: int
    unlocked: int
    return_: float
    """Under the reward that the episode's job named."""
    achievements: frozenset[str]
    outcomes: Mapping[str, int]
    scores: Mapping[str, float]
    """What judges gave it."""
    created_at: float
    sha256: str | None
    spec: PlayedSpec = field(repr=False)
    """Of its job."""
    looks: Callable[[], Iterator[Look]] = field(repr=False, compare=False)
    """Its turns, read from the store when they are asked for, while the session that gave the candidate is open."""


_COLUMNS = (
    "id",
    "job_id",
    "seed",
    "member",
    "split",
    "task_id",
    "policy",
    "model",
    "state",
    "error",
    "ended",
    "turns",
    "unlocked",
    "returns",
    "achievements",
    "outcomes",
    "scores",
    "created_at",
    "sha256",
)
"""What is read of an episode: never its snapshot."""


def candidates(session: Session, job_ids: Sequence[str] | None, reward_of: Callable[[str], str]) -> Iterator[Candidate]:
    """Episodes of these jobs (None: of every job), by seed, member, age and id.

    ``reward_of`` names the reward of a job. Rows are fetched as they are asked for.
    """
    columns = [getattr(Episode, name) for name in _COLUMNS]
    query = select(Episode).with_only_columns(*columns)
    if job_ids is not None:
        query = query.where(col(Episode.job_id).in_(job_ids))
    query = query.order_by(col(Episode.seed), col(Episode.member), col(Episode.created_at), col(Episode.id))
    specs: dict[str, PlayedSpec] = {}
    for row in session.connection().execute(query, execution_options={"yield_per": ROWS_A_FETCH}).mappings():
        spec = specs.get(row["job_id"]) or specs.setdefault(row["job_id"], _spec_of(session, row["job_id"]))
        yield _candidate(session, row, spec, reward_of)


def _spec_of(session: Session, job_id: str) -> PlayedSpec:
    job = session.get(Job, job_id)
    assert job is not None, "an episode's job is a foreign key"
    spec = parse(job.kind, job.spec)
    if not isinstance(spec, PlayedSpec):
        raise StepFailed(f"job {job.id} is of the kind {job.kind!r}, and only {' and '.join(PLAY)} jobs have episodes to filter")
    return spec


def _candidate(session: Session, row: Mapping[Any, Any], spec: PlayedSpec, reward_of: Callable[[str], str]) -> Candidate:
    values = dict(row)
    returns, achievements, scores = (values.pop(name) for name in ("returns", "achievements", "scores"))
    return Candidate(
        **values,
        return_=returns.get(reward_of(values["job_id"]), 0.0),
        achievements=frozenset(achievements),
        scores={judge: score for judge, score in (scores or {}).items() if score is not None},
        spec=spec,
        looks=partial(looks, session, values["id"]),
    )

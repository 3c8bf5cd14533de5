"""The arms that references mean, as the store has them: which policies of which jobs, and what they have played."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select
from sqlmodel import Session, col

from app.compare.arms import Arm, Play
from app.compare.conditions import conditions
from app.compare.labels import Named, labels
from app.errors import InvalidInput, UnknownName
from app.models import Episode, Job
from app.specs import EvalSpec, parse
from app.specs.crafter import ACHIEVEMENTS, NAMES
from app.specs.rl import EVALUATION, RlSpec
from app.store import jobs

REF: Final = re.compile(r"(?P<job>@last|[^@:]+)(?:@(?P<iteration>\d{1,9}))?(?::(?P<policy>.+))?")
MOST_ARMS: Final = 16
NATIVE: Final = "native"
"""The environment's own reward."""
COLUMNS: Final = (
    Episode.seed,
    Episode.state,
    Episode.achievements,
    Episode.returns,
    Episode.length,
    Episode.turns,
    Episode.outcomes,
    Episode.ended,
    Episode.policy_version,
    Episode.env_version,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whom a reference means."""

    job: Job
    policy: str
    iteration: int | None
    table: dict[str, Any]
    """What its episodes were played by: a resolved table of an eval."""
    without: str | None = None
    """A split of its job whose episodes are none of its own."""


def arms(session: Session, refs: Sequence[str]) -> list[Arm]:
    """An arm for each policy of each reference: ``JOB``, ``JOB:POLICY``, and ``JOB@ITERATION`` of an rl job.

    Raises JobNotFound, AmbiguousName, UnknownName for a policy that the job does not have, and InvalidInput for a job that plays
    nothing, an arm that is named twice, and too many of them.
    """
    asked = [each for ref in refs for each in _asked(session, ref)]
    if len(asked) > MOST_ARMS:
        raise InvalidInput(f"{len(asked)} arms are too many to compare; {MOST_ARMS} is the most, and JOB:POLICY names one alone")
    seen: set[tuple[str, int | None, str]] = set()
    for each in asked:
        key = each.job.id, each.iteration, each.policy
        if key in seen:
            raise InvalidInput(f"{each.policy} of job {each.job.id} is there twice; name it once")
        seen.add(key)
    names = labels([Named(job=each.job.id, name=each.job.name, policy=each.policy, iteration=each.iteration) for each in asked])
    return [_arm(session, each, label) for each, label in zip(asked, names, strict=True)]


def achievements(found: Iterable[Arm]) -> list[str]:
    """Everything that can be unlocked where these arms played; of an environment that is not built in, what they unlocked."""
    sides = list(found)
    if all(arm.conditions["env"] == NAMES[0] for arm in sides):
        return list(ACHIEVEMENTS)
    return sorted({name for arm in sides for play in arm.plays for name in play.achievements})


def _asked(session: Session, ref: str) -> list[Asked]:
    match = REF.fullmatch(ref)
    if match is None:
        raise InvalidInput(f"{ref[:80]!r} names no arm; write JOB, JOB:POLICY, or JOB@ITERATION of an rl job")
    job = jobs.find(session, match["job"])
    spec = parse(job.kind, job.spec)
    wanted = int(match["iteration"]) if match["iteration"] is not None else None
    if isinstance(spec, RlSpec):
        table, iteration = spec.play(EVALUATION), _iteration(session, job, spec, wanted)
    elif not isinstance(spec, EvalSpec):
        raise InvalidInput(f"job {job.id} is of the kind {job.kind}, and only what eval and rl jobs play is compared")
    elif wanted is not None:
        raise InvalidInput(f"{ref[:80]!r}: an eval has no iterations; write {match['job']}")
    else:
        table, iteration = spec.eval, None
    policies = list(table.policies)
    if (policy := match["policy"]) is not None:
        if policy not in policies:
            raise UnknownName(f"policy of job {job.id}", policy, policies)
        policies = [policy]
    without = spec.data.blank_split if isinstance(spec, RlSpec) else None
    dumped = table.model_dump(mode="json")
    return [Asked(job=job, policy=policy, iteration=iteration, table=dumped, without=without) for policy in policies]


def _iteration(session: Session, job: Job, spec: RlSpec, wanted: int | None) -> int:
    """The iteration whose evaluation is meant: the one that is named, else the last whole one, else the last that has begun.

    Raises InvalidInput where there is none.
    """
    table = spec.play(EVALUATION)
    seeds, whole = frozenset(table.seeds), len(table.seeds) * table.episodes_per_seed
    query = select(col(Episode.iteration), col(Episode.seed), func.count()).where(
        col(Episode.job_id) == job.id, col(Episode.state) == "done"
    )
    query = query.where(col(Episode.split) != spec.data.blank_split)
    counts: Counter[int] = Counter()
    for iteration, seed, count in session.connection().execute(query.group_by(col(Episode.iteration), col(Episode.seed))):
        counts[iteration] += count if seed in seeds else 0
    evaluated = sorted(iteration for iteration, count in counts.items() if count)
    if wanted is not None and wanted not in evaluated:
        told = ", ".join(map(str, evaluated)) or "none yet"
        raise InvalidInput(f"job {job.id} was not evaluated at iteration {wanted} (it was at: {told})")
    if not evaluated:
        raise InvalidInput(f"job {job.id} has evaluated nothing yet; its state is {job.state}")
    return wanted if wanted is not None else max((i for i in evaluated if counts[i] >= whole), default=evaluated[-1])


def _arm(session: Session, asked: Asked, label: str) -> Arm:
    query: Any = select(*map(col, COLUMNS)).where(
        col(Episode.job_id) == asked.job.id,
        col(Episode.iteration) == (asked.iteration or 0),
        col(Episode.policy) == asked.policy,
    )
    if asked.without is not None:
        query = query.where(col(Episode.split) != asked.without)
    rows = session.connection().execute(query.order_by(col(Episode.seed), col(Episode.member))).all()
    done = [row for row in rows if row.state == "done"]
    return Arm(
        label=label,
        job=asked.job.id,
        name=asked.job.name,
        kind=asked.job.kind,
        state=asked.job.state,
        policy=asked.policy,
        iteration=asked.iteration,
        versions=tuple(sorted({row.policy_version for row in done if row.policy_version})),
        conditions=conditions(asked.table, asked.policy, sorted({row.env_version for row in done})),
        seeds=frozenset(asked.table["seeds"]),
        per_seed=asked.table["episodes_per_seed"],
        plays=tuple(_play(row) for row in done),
        failed=sum(row.state == "failed" for row in rows),
    )


def _play(row: Any) -> Play:
    return Play(
        seed=row.seed,
        achievements=frozenset(row.achievements),
        return_=row.returns.get(NATIVE, 0.0),
        length=row.length,
        turns=row.turns,
        outcomes=row.outcomes,
        ended=row.ended or "",
    )

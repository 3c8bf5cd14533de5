"""The report step of an eval: what its episodes came to, policy by policy. Nothing is played here, and nothing is guessed.

Only episodes that were played to their end are scored. What failed, what was cut short and what is missing is told beside the
scores; the turns of all of them count in what the play took.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

from sqlmodel import Session, col, select

from app import artifacts, db
from app.models import Episode, Job
from app.plots.eval import episodes_of, policy_of
from app.scores import EpisodeScore, paired_difference, summarise
from app.specs import EvalSpec, resolved
from app.specs.policies import OPENAI, policy_name
from app.store import spending
from app.store.traces import NO_SNAPSHOT
from workers.rollout import envs, play_step
from workers.rollout.play import PlayOptions
from workers.runner import StepContext

MOST_TOLD: Final = 20
"""Failed or missing episodes that the summary names; the report's file has them all."""
EPISODES_A_CHECK: Final = 500
NATIVE: Final = "native"
"""The environment's own reward, which a score's return is made of."""


def run(context: StepContext) -> dict[str, Any]:
    """Score the job's episodes, store ``report.json``, and give the job's summary."""
    spec: EvalSpec = context.spec
    with db.reading() as session:
        rows = episodes_of_job(session, context)
        seconds = seconds_of(session, context.job_id)
        spent = _spent(session, context)
    context.check()
    done = [row for row in rows if row.state == "done"]
    told = {
        **_scores(spec, done),
        **_counts(spec, rows),
        **cost(rows, seconds),
        **({"spent": spent} if spent else {}),
        **({"blank_frames": True} if spec.eval.blank_frames else {}),
    }
    path = context.workdir / "report.json"
    path.write_text(json.dumps({**told, "results": [result(row) for row in rows]}, indent=1) + "\n", encoding="utf-8")
    artifact = artifacts.store_file(path, job_id=context.job_id, step_id=context.step_id, kind="report", name="report.json")
    context.check()
    with context.write() as session:
        artifact = artifacts.record(session, artifact)
    return {**told, "errors": told["errors"][:MOST_TOLD], "missing": told["missing"][:MOST_TOLD], "report": artifact.id}


def episodes_of_job(session: Session, context: StepContext, iteration: int | None = None) -> list[Episode]:
    """The rows of the job's episodes, or of one iteration's, by seed, member and iteration."""
    query = select(Episode).where(Episode.job_id == context.job_id).options(NO_SNAPSHOT)
    if iteration is not None:
        query = query.where(col(Episode.iteration) == iteration)
    query = query.order_by(col(Episode.seed), col(Episode.member), col(Episode.iteration))
    rows: list[Episode] = []
    for row in session.exec(query.execution_options(yield_per=EPISODES_A_CHECK)):
        if len(rows) % EPISODES_A_CHECK == 0:
            context.check()
        rows.append(row)
    return rows


def seconds_of(session: Session, job_id: str) -> float:
    """Wall time since the job began, by the database's clock; a retry counts from the job's first beginning."""
    job = session.get(Job, job_id)
    begun = job.started_at if job is not None and job.started_at is not None else None
    now = db.clock(session)
    return max(0.0, now - begun) if begun is not None else 0.0


def _spent(session: Session, context: StepContext) -> dict[str, Any] | None:
    """What was asked of models' endpoints over all attempts of the job; None when no model plays."""
    table = context.spec.eval
    if all(policy_name(label)[0] != OPENAI for label in table.policies):
        return None
    blocks = play_step.blocks(session, context.job_id, context.job_attempt)
    return {**spending.spent(session, context.job_id, table.budget), "capped": any(event.data["capped"] for event in blocks)}


def _scores(spec: EvalSpec, done: Sequence[Episode]) -> dict[str, Any]:
    options = PlayOptions.of(spec)
    names = envs.make(options.env, dict(options.env_config)).achievements
    scores = {policy: [score(row) for row in done if row.policy == policy] for policy in spec.eval.policies}
    return {
        "policies": {policy: {**summarise(mine, names), **_played(policy, done)} for policy, mine in scores.items()},
        "differences": [{"a": a, "b": b, **paired_difference(scores[a], scores[b])} for a, b in combinations(scores, 2)],
    }


def score(row: Episode) -> EpisodeScore:
    """What an episode counts with."""
    return EpisodeScore(
        seed=row.seed,
        member=row.member,
        policy=row.policy,
        achievements=tuple(row.achievements),
        return_=row.returns.get(NATIVE, 0.0),  # an episode of no turns has no sums
        length=row.length,
    )


def _played(policy: str, done: Sequence[Episode]) -> dict[str, Any]:
    """What a policy's replies were like, and how its episodes ended."""
    mine = [row for row in done if row.policy == policy]
    return {
        "turns": sum(row.turns for row in mine),
        "outcomes": summed(row.outcomes for row in mine),
        "ended": dict(sorted(Counter(row.ended for row in mine if row.ended).items())),
    }


def _counts(spec: EvalSpec, rows: Sequence[Episode]) -> dict[str, Any]:
    """How many episodes were asked for, done, failed, cut short with turns; which failed and why; which are missing."""
    plain = resolved(spec)
    states = {(row.iteration, row.seed, row.member): row.state for row in rows}
    asked = episodes_of(plain)
    missing = [key for key in asked if states.get(key) not in ("done", "failed")]
    failed = [row for row in rows if row.state == "failed"]
    cut_short = [row.turns for row in failed if row.turns]
    return {
        "episodes": {
            "asked": len(asked),
            "done": sum(states.get(key) == "done" for key in asked),
            "failed": len(failed),
            "missing": len(missing),
        },
        "cut_short": {"episodes": len(cut_short), "turns": sum(cut_short)},
        "errors": [
            {
                "episode": row.id,
                "seed": row.seed,
                "member": row.member,
                "policy": row.policy,
                "error": row.error or "no reason is known",
            }
            for row in failed
        ],
        "missing": [{"seed": seed, "member": member, "policy": policy_of(plain, member)} for _, seed, member in missing],
    }


def cost(rows: Sequence[Episode], seconds: float) -> dict[str, Any]:
    """What the play took: ``timings`` are milliseconds by part, summed over all stored turns of all workers."""
    turns = sum(row.turns for row in rows)
    return {
        "seconds": round(seconds, 3),
        "game_steps": sum(row.length for row in rows),
        "turns": turns,
        "turns_per_s": round(turns / seconds, 3) if seconds else None,
        "outcomes": summed(row.outcomes for row in rows),
        "timings": {name: round(value, 3) for name, value in summed(row.timings for row in rows).items()},
    }


def summed(tables: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables of numbers added up, by name."""
    columns: dict[str, list[float]] = {}
    for table in tables:
        for name, value in table.items():
            columns.setdefault(name, []).append(value)
    return {name: _total(values) for name, values in sorted(columns.items())}


def _total(values: Sequence[float]) -> float:
    return sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)


def result(row: Episode) -> dict[str, Any]:
    """One episode's line in the report's file."""
    return {
        "episode": row.id,
        "seed": row.seed,
        "member": row.member,
        "policy": row.policy,
        "policy_version": row.policy_version,
        "state": row.state,
        "ended": row.ended,
        "turns": row.turns,
        "game_steps": row.length,
        "achievements": row.achievements,
        "returns": row.returns,
        "outcomes": row.outcomes,
        "sha256": row.sha256,
    }

"""Which episodes the groups of an rl job may begin in: what its table ``[curriculum]`` comes to in this store.

Asked when the job is submitted, so that what can never be is refused there with its key, and by the step that stores the answer.
Seeds that the job is tried on, or keeps away from, are never begun from: their episodes are left out, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from sqlalchemy import select
from sqlmodel import Session, col

from app.errors import Conflict, NotFound, Problem, SpecProblems
from app.models import ENDED, Episode, Job
from app.plots.curriculum import enough, shared
from app.sources import PLAY, blind
from app.specs import AnySpec, PlayedSpec, RlSpec, parse
from app.store import jobs

MOST: Final = 1000
"""Episodes that are kept to begin from; of more, so many are drawn."""
PICTURE: Final = ("image_size", "length")
"""Settings of an environment in which two jobs may differ and still play the same worlds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Episodes to begin from."""

    episodes: list[list[Any]]
    """Each as [id, seed, turns], by seed, member, iteration and id."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Episodes that were played to their end and are not among them, by the reason."""

    @property
    def seeds(self) -> frozenset[int]:
        """Their seeds."""
        return frozenset(seed for _, seed, _ in self.episodes)

    def told(self) -> str:
        """What there is, in words."""
        out = ", ".join(f"{count} left out: {why}" for why, count in sorted(self.left_out.items()))
        return f"{len(self.episodes)} episodes of {len(self.seeds)} seeds" + (f" ({out})" if out else "")


def pool(session: Session, spec: RlSpec, job: Job, env_version: str | None = None) -> Pool:
    """The episodes of a job that the spec's groups may begin in; ``env_version``: only those of it."""
    table, apart = spec.curriculum, frozenset((*spec.evaluation.seeds, *(spec.data.final_seeds or ())))
    query = select(
        col(Episode.id),
        col(Episode.seed),
        col(Episode.turns),
        col(Episode.policy),
        col(Episode.unlocked),
        col(Episode.env_version),
        col(Episode.split),
    ).where(col(Episode.job_id) == job.id, col(Episode.state) == "done")
    order = [col(column) for column in (Episode.seed, Episode.member, Episode.iteration, Episode.id)]
    found, left = list[list[Any]](), Counter[str]()
    theirs = parse(job.kind, job.spec)
    assert isinstance(theirs, PlayedSpec), "it plays episodes"
    for id, seed, turns, policy, unlocked, version, split in session.connection().execute(query.order_by(*order)):
        reasons = {
            "their seeds are of evaluation or in data.final_seeds": seed in apart,
            "they were played with black pictures": blind(theirs, policy, split),
            "other policies played them": bool(table.policies) and policy not in table.policies,
            f"fewer than {table.min_achievements} achievements": unlocked < table.min_achievements,
            "too few turns": not table.fits(turns),
            "another version of the environment": env_version is not None and version != env_version,
        }
        why = next((reason for reason, holds in reasons.items() if holds), None)
        if why is None:
            found.append([id, seed, turns])
        else:
            left[why] += 1
    if len(found) > MOST:
        kept = sorted(Random(f"{spec.rollout.sampling_seed}/pool").sample(range(len(found)), MOST))
        left[f"{MOST} are enough"] = len(found) - MOST
        found = [found[at] for at in kept]
    return Pool(episodes=found, left_out=left)


def lacks(spec: RlSpec, found: Pool, job: Job) -> str | None:
    """Why these episodes are too few, or None."""
    if enough(spec, found.seeds):
        return None
    groups = f"{spec.starts} group{'s' * (spec.starts != 1)} of every iteration"
    both = shared(spec, found.seeds)
    also = f", and {both} of them are seeds of training too, which other groups may have" if both else ""
    return f"job {job.id} has {found.told()} to begin from{also}; {groups} want a seed each"


def unlike(spec: RlSpec, job: Job) -> str | None:
    """Why a job's play cannot be begun from whatever it has played, or None."""
    if job.kind not in PLAY:
        return f"job {job.id} is of the kind {job.kind}, and only {' and '.join(PLAY)} jobs have episodes to begin from"
    other = parse(job.kind, job.spec)
    assert isinstance(other, PlayedSpec), "it plays episodes"
    mine, its = spec.rollout, other.play()
    if its.env != mine.env:
        return f"job {job.id} plays {its.env}, and rollout.env is {mine.env}"
    worlds = [{key: value for key, value in t.env_settings().items() if key not in PICTURE} for t in (mine, its)]
    if worlds[0] != worlds[1]:
        return f"job {job.id} plays other worlds: its env_config is {worlds[1]}, and that of [rollout] is {worlds[0]}"
    policies = spec.curriculum.policies
    if missing := [name for name in policies if name not in its.policies]:
        return f"job {job.id} has no policy {missing[0]!r}; it has {', '.join(its.policies)}"
    return None


def check(session: Session, spec: AnySpec) -> None:
    """Raise SpecProblems for a curriculum that can never be had, and for seeds to be tried on that were begun from before."""
    if isinstance(spec, RlSpec) and (problems := [*_known_seeds(session, spec), *_problems(session, spec)]):
        raise SpecProblems(problems)


def _known_seeds(session: Session, spec: RlSpec) -> Iterator[Problem]:
    """Seeds kept apart from training that the jobs which it goes on from have begun groups in."""
    ref, known = spec.model.extended[0], dict[int, str]()
    while (job := session.get(Job, ref)) is not None:
        begun = select(col(Episode.seed)).where(col(Episode.job_id) == job.id, col(Episode.start).is_not(None)).distinct()
        known |= dict.fromkeys(session.connection().execute(begun).scalars(), job.id)
        before = parse(job.kind, job.spec)
        ref = before.model.extended[0] if isinstance(before, RlSpec) else ""
    for key, seeds in (("evaluation.seeds", spec.evaluation.seeds), ("data.final_seeds", spec.data.final_seeds or ())):
        if both := [seed for seed in seeds if seed in known]:
            yield Problem(
                key=key,
                message=f"job {known[both[0]]}, which this one goes on from, has begun groups in the world of seed {both[0]}; "
                "what is seen there would say nothing, so leave it out",
            )


def _problems(session: Session, spec: RlSpec) -> Iterator[Problem]:
    if not spec.starts:
        return
    try:
        job = source(session, spec)
    except NotFound as error:
        yield Problem(key="curriculum.job", message=str(error))
        return
    fault = unlike(spec, job)
    if fault is None and job.state in ENDED:
        fault = lacks(spec, pool(session, spec, job), job)
    if fault is not None:
        yield Problem(key="curriculum.job", message=fault)


def source(session: Session, spec: RlSpec) -> Job:
    """The job whose play is begun from. Raises JobNotFound, AmbiguousName."""
    return jobs.find(session, spec.curriculum.job or "")


def waits_for(session: Session, spec: AnySpec) -> list[dict[str, str]]:
    """The job whose play an rl job begins from, while that has not ended: it runs after it, however it ends."""
    if not isinstance(spec, RlSpec) or not spec.starts:
        return []
    job = source(session, spec)
    return [] if job.state in ENDED else [{"job": job.id, "on": "any"}]


def check_unneeded(session: Session, job: Job) -> None:
    """Raise Conflict where a job that has not ended begins groups in the play of this one: what is gone fails those episodes."""
    open_jobs = select(col(Job.id), col(Job.kind), col(Job.spec)).where(col(Job.kind) == "rl", col(Job.state).not_in(ENDED))
    for id, kind, resolved in session.connection().execute(open_jobs.order_by(col(Job.created_at))):
        spec = parse(kind, resolved)
        if not isinstance(spec, RlSpec) or not spec.starts:
            continue
        try:
            of = source(session, spec)
        except NotFound:
            continue
        if of.id == job.id:
            raise Conflict(
                f"job {id} begins groups in the play of job {job.id} (curriculum.job); it can be removed when that has ended"
            )

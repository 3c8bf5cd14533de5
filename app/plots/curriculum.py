"""Which groups of an rl job's iteration begin in the middle of an episode, and where. Pure, and keyed by spec and iteration
alone: whoever asks again is told the same.

The episodes to begin from are looked up once, by the step ``starts``, and stored as its result. A group begins in one of its own
seed where there is any. Else it takes the seed of another one, that no group of the iteration has: an episode's seed is always
that of its world.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from app.models import Queue, StepState
from app.plots.base import EpisodeId, StepPlan, StepView
from app.specs.rl import RlSpec

STARTS: Final = "starts"
"""Kind and key of the step that looks up the episodes."""
EPISODES: Final = "episodes"
"""In its result: what may be begun from, each as [episode, seed, turns]."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group of an iteration."""

    seed: int
    start: tuple[str, int] | None = None
    """Episode, and turn of it, at which every member begins; None: where the world begins."""


def starts_step(spec: RlSpec) -> list[StepPlan]:
    """The step that looks up what may be begun from, where the spec wants any."""
    return [StepPlan(key=STARTS, kind=STARTS, queue=Queue.DATA)] if spec.starts else []


def pool_of(steps: Sequence[StepView]) -> list[list[Any]]:
    """What the step found."""
    found = (step.result for step in steps if step.kind == STARTS and step.state == StepState.SUCCEEDED)
    result = next(found, None)
    return list((result or {}).get(EPISODES, ()))


def groups_of(spec: RlSpec, iteration: int, pool: Sequence[Sequence[Any]]) -> list[Group]:
    """The groups of an iteration: first those that begin where the world does."""
    groups = [Group(seed) for seed in spec.seeds_of(iteration)]
    if not spec.starts:
        return groups
    draw = Random(f"{spec.rollout.sampling_seed}/starts/{iteration}")
    by_seed: dict[int, list[Sequence[Any]]] = {}
    for each in draw.sample(pool, len(pool)):
        by_seed.setdefault(each[1], []).append(each)
    own = {group.seed for group in groups}
    others = iter([seed for seed in by_seed if seed not in own])
    for at in range(len(groups) - spec.starts, len(groups)):
        seed = groups[at].seed if groups[at].seed in by_seed else next(others, None)
        if seed is None:
            continue  # the step that looked them up has seen that there are enough
        episode, _, turns = by_seed[seed][0]
        if turn := spec.curriculum.turn(turns, iteration, draw):
            groups[at] = Group(seed, (episode, turn))
    return groups


def begun_at(episodes: Sequence[EpisodeId], starts: Mapping[int, tuple[str, int]]) -> dict[str, Any]:
    """What the payload of a step that plays these says of where they begin: ``starts``, seed as text -> [episode, turn]."""
    here = {str(seed): list(starts[seed]) for _, seed, _ in episodes if seed in starts}
    return {"starts": here} if here else {}


def enough(spec: RlSpec, seeds: Collection[int]) -> bool:
    """Whether every iteration has a start for each of its groups that want one, of episodes of these seeds."""
    # A group without an episode of its own seed takes another seed, and seeds of the iteration's other groups are not to be had.
    return len(seeds) >= min(spec.groups, spec.starts + shared(spec, seeds))


def shared(spec: RlSpec, seeds: Collection[int]) -> int:
    """How many of these are seeds of training as well."""
    training = spec.seeds if isinstance(spec.seeds, range) else frozenset(spec.seeds)
    return sum(seed in training for seed in seeds)

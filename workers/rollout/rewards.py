"""What a turn is worth under each reward function, from what its actions did. Pure: no environment, no prompt, no
state.

======================  =====================================================================================
``native``              the sum of the environment's own rewards over the turn's actions
``unlocked``            how many achievements the turn unlocked for the first time in the episode
``consistent``          ``weight`` when the turn unlocked at least one, however many; else 0
``per_achievement``     the sum of ``weights`` over what the turn unlocked (1.0 where none is named)
======================  =====================================================================================

``consistent`` and ``per_achievement`` are the stepwise strategies of the same names elsewhere, with these
differences: a weight of 0 means 0 (not 1); a limit of 0 switches an achievement off (not: without limit); and there
is no pay for gained resources, for it can be farmed by placing a stone and taking it up again. An achievement unlocks
once an episode, so a limit above 1 is the same as 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.errors import InvalidInput, UnknownName
from app.records import Outcome
from workers.rollout.envs.base import StepResult

INVALID = frozenset({Outcome.NO_TOOL_CALL, Outcome.PARSE_ERROR, Outcome.TRUNCATED})
"""Outcomes that are the policy's own doing. An engine's failure is not, and is never punished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardOptions:
    """What a spec may say about rewards."""

    weight: float = 1.0
    """What ``consistent`` pays (a spec's ``indicator_lambda``). 0 means 0."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """What ``per_achievement`` pays by achievement; 1.0 for one that is not named."""
    k_limits: Mapping[str, int] = field(default_factory=dict)
    """How often ``per_achievement`` pays for an achievement in an episode; 1 for one that is not named, 0 for never."""

    def __post_init__(self) -> None:
        for name, value in {"weight": self.weight, **self.weights}.items():
            if not math.isfinite(value):
                raise InvalidInput(f"the reward weight {name} must be a finite number, not {value!r}")
        for name, limit in self.k_limits.items():
            if limit < 0:
                raise InvalidInput(f"k_limits.{name} must be 0 or more, not {limit!r}")

    def check(self, achievements: Iterable[str]) -> None:
        """Raise UnknownName when a weight or a limit names an achievement that the environment does not have."""
        known = list(achievements)
        for name in (*self.weights, *self.k_limits):
            if name not in known:
                raise UnknownName("achievement", name, known)


def native(results: Sequence[StepResult], options: RewardOptions) -> float:
    """Sum of the environment's own rewards."""
    return math.fsum(result.reward for result in results)


def unlocked(results: Sequence[StepResult], options: RewardOptions) -> float:
    """Number of achievements unlocked for the first time."""
    return float(len(unlocked_names(results)))


def consistent(results: Sequence[StepResult], options: RewardOptions) -> float:
    """``options.weight`` when anything was unlocked, else 0."""
    return float(options.weight) if unlocked_names(results) else 0.0


def per_achievement(results: Sequence[StepResult], options: RewardOptions) -> float:
    """Sum of the weights of what was unlocked, without those whose limit is 0."""
    paid = (name for name in unlocked_names(results) if options.k_limits.get(name, 1) > 0)
    return math.fsum(options.weights.get(name, 1.0) for name in paid)


REWARDS: dict[str, Callable[[Sequence[StepResult], RewardOptions], float]] = {
    "native": native,
    "unlocked": unlocked,
    "consistent": consistent,
    "per_achievement": per_achievement,
}


def unlocked_names(results: Sequence[StepResult]) -> tuple[str, ...]:
    """What the turn unlocked for the first time, in order."""
    return tuple(name for result in results for name in result.unlocked)


def turn_rewards(
    results: Sequence[StepResult],
    options: RewardOptions | None = None,
    *,
    outcome: Outcome = Outcome.OK,
    invalid_penalty: float = 0.0,
) -> dict[str, float]:
    """The turn's reward under every function, side by side.

    ``results`` are those of the actions that were carried out, in order; none gives zeros. ``invalid_penalty`` (0 or
    more) is taken off each when the reply was not valid by the policy's own doing (see ``INVALID``).
    """
    if not (math.isfinite(invalid_penalty) and invalid_penalty >= 0):
        raise InvalidInput(f"invalid_penalty must be 0 or more, not {invalid_penalty!r}")
    off = invalid_penalty if outcome in INVALID else 0.0
    chosen = options or RewardOptions()
    return {name: reward(results, chosen) - off for name, reward in REWARDS.items()}

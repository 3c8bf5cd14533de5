"""How much better than expected was each turn, compared with its group. numpy alone: no torch, no I/O.

A group is a few episodes that begin in one state, so that luck in the world cancels in what is compared. A group whose episodes
agree has nothing to teach: its advantages are zeros, and ``Estimate.flat`` says so. An episode alone has nobody to be compared
with: what follows each turn is then its advantage as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidInput, UnknownName

Values = NDArray[np.float64]
"""[turns] of one episode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Episodes that begin in one state."""

    rewards: tuple[Values, ...]
    """Of each episode, [turns]; every episode has a turn at least."""
    states: tuple[tuple[str | None, ...], ...] = ()
    """Of each episode, what tells the state before each of its turns from others; for ``gigpo`` alone."""
    unlocked: tuple[tuple[tuple[str, ...], ...], ...] = ()
    """Of each episode, the achievements that each of its turns unlocked; for ``gae`` alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the estimators leave open."""

    discount: float = 0.99
    """How much a reward counts one turn earlier; in (0, 1]."""
    least_spread: float = 1e-6
    """Differences from the baseline that are no larger, in units of reward, are rounding."""
    least_alive: int = 3
    """Episodes that must reach a turn for those alone to be its baseline; below it, nearby turns help out."""
    gae_lambda: float = 0.95
    """How much ``gae`` trusts what was played beside what the next state is worth; 1: wholly."""
    state_weight: float = 1.0
    """How much ``gigpo`` counts the comparison at one state beside that of whole episodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The advantages of a group."""

    advantages: list[Values]
    """Of each episode, [turns]."""
    spread: float
    """The largest difference from the baseline, before any division; in units of reward."""
    flat: bool
    """There is nothing to learn from the group; its advantages are zeros."""


Estimator = Callable[[Group, Options], tuple[list[Values], float]]
"""Differences from the baseline, [turns] of each episode, and what they are to be divided by."""


def returns_to_go(rewards: Values, discount: float) -> Values:
    """[turns]: each turn's reward and, discounted, all that followed it."""
    told = np.empty(len(rewards), np.float64)
    rest = 0.0
    for turn in range(len(rewards) - 1, -1, -1):
        rest = told[turn] = rewards[turn] + discount * rest
    return told


def grpo_turn(group: Group, options: Options) -> tuple[list[Values], float]:
    """Return-to-go less the mean of the other episodes' at the same turn.

    The leave-one-out baseline of RLOO (arXiv 2402.14740) at the level of turns. No division by the group's deviation, as Dr. GRPO
    (arXiv 2503.20783) argues: one lucky reward in a group without any would weigh far too much. Where fewer than ``least_alive``
    episodes of a larger group reach a turn, the baseline is the mean over the others' nearest turns.
    """
    togo = [returns_to_go(rewards, options.discount) for rewards in group.rewards]
    longest, count = max(map(len, togo)), len(togo)
    table = np.zeros((count, longest))
    alive = np.zeros((count, longest), bool)
    for episode, values in enumerate(togo):
        table[episode, : len(values)], alive[episode, : len(values)] = values, True
    reach = alive.sum(0)
    baseline = (table.sum(0) - table) / np.maximum(reach - 1, 1)
    for turn in np.flatnonzero(reach < min(options.least_alive, count)).tolist():
        for one in np.flatnonzero(alive[:, turn]).tolist():
            baseline[one, turn] = _nearby(table, alive, one, turn, options.least_alive - 1)
    return [values - baseline[episode, : len(values)] for episode, values in enumerate(togo)], 1.0


def _nearby(table: Values, alive: NDArray[np.bool_], episode: int, turn: int, wanted: int) -> float:
    """Mean of the other episodes' values within so few turns of one that there are ``wanted``, or all that there are."""
    others = np.arange(len(table)) != episode
    for reach in range(table.shape[1]):
        window = slice(max(0, turn - reach), turn + reach + 1)
        found = table[others, window][alive[others, window]]
        if len(found) >= wanted or reach == table.shape[1] - 1:
            return float(found.mean())
    raise AssertionError("every other episode has a turn")


def _returns(group: Group) -> Values:
    return np.array([rewards.sum() for rewards in group.rewards])


def _every_turn(values: Values, group: Group) -> list[Values]:
    """An episode's value for each of its turns."""
    return [np.full(len(rewards), value) for value, rewards in zip(values, group.rewards, strict=True)]


def grpo(group: Group, options: Options) -> tuple[list[Values], float]:
    """An episode's return less the group's mean, in units of the group's deviation (of n - 1): GRPO, arXiv 2402.03300."""
    returns = _returns(group)
    return _every_turn(returns - returns.mean(), group), float(returns.std(ddof=1))


def dr_grpo(group: Group, options: Options) -> tuple[list[Values], float]:
    """An episode's return less the group's mean, as it is: Dr. GRPO, arXiv 2503.20783."""
    returns = _returns(group)
    return _every_turn(returns - returns.mean(), group), 1.0


def rloo(group: Group, options: Options) -> tuple[list[Values], float]:
    """An episode's return less the mean of the other episodes': RLOO, arXiv 2402.14740."""
    returns = _returns(group)
    others = (returns.sum() - returns) / (len(returns) - 1)
    return _every_turn(returns - others, group), 1.0


def gspo(group: Group, options: Options) -> tuple[list[Values], float]:
    """GSPO's advantage (arXiv 2507.18071) is GRPO's; what is its own is the ratio of whole replies, the loss ``sequence``."""
    return grpo(group, options)


def gigpo(group: Group, options: Options) -> tuple[list[Values], float]:
    """An episode's return less the group's mean, and what followed a turn less its mean over all turns from one state.

    GiGPO, arXiv 2505.10978, with its F_norm of 1, which divides nothing. A state that was met once adds nothing. Raises
    InvalidInput where no turn tells its state.
    """
    if not any(state is not None for states in group.states for state in states):
        raise InvalidInput("gigpo compares turns that begin in one state, and no turn of the group tells its state")
    returns = _returns(group)
    told = _every_turn(returns - returns.mean(), group)
    togo = [returns_to_go(rewards, options.discount) for rewards in group.rewards]
    met: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for episode, states in enumerate(group.states):
        for turn, state in enumerate(states):
            if state is not None:
                met[state].append((episode, turn))
    for places in met.values():
        mean = sum(togo[episode][turn] for episode, turn in places) / len(places)
        for episode, turn in places:
            told[episode][turn] += options.state_weight * (togo[episode][turn] - mean)
    return told, 1.0


ESTIMATORS: Final[dict[str, Estimator]] = {
    "grpo_turn": grpo_turn,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "gspo": gspo,
    "gigpo": gigpo,
}


def estimate(name: str, group: Group, options: Options | None = None) -> Estimate:
    """The advantages of a group's turns by a registered estimator. Raises UnknownName, InvalidInput."""
    if name not in ESTIMATORS:
        raise UnknownName("advantage", name, ESTIMATORS)
    options = options or Options()
    if not group.rewards or not all(len(rewards) for rewards in group.rewards):
        raise InvalidInput("a group has an episode at least, and each of its episodes a turn")
    if len(group.rewards) == 1:
        differences, unit = [returns_to_go(group.rewards[0], options.discount)], 1.0
    else:
        differences, unit = ESTIMATORS[name](group, options)
    return judged(differences, options, unit=unit)


def judged(differences: list[Values], options: Options, *, unit: float = 1.0) -> Estimate:
    """Differences of a group's turns from what was expected, in units of ``unit``; zeros where there is nothing to learn."""
    spread = float(max(np.abs(values).max() for values in differences))
    if spread <= options.least_spread:
        return Estimate(advantages=[np.zeros(len(values)) for values in differences], spread=spread, flat=True)
    return Estimate(advantages=[values / unit for values in differences], spread=spread, flat=False)

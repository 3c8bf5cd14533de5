"""What a turn's return is expected to be, fitted to the play itself, and advantages over that. numpy alone: no torch, no I/O.

A group's mean knows how an episode began; a value knows where it stands now, so less of a return is luck to it. It is a ridge
regression on the model's own states, in closed form: no second network, no optimizer, nothing to keep between updates.
"""

# W the width of a state.

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidInput
from workers.trainer.objective.advantages import Estimate, Group, Options, Values, judged, returns_to_go

GAE: Final = "gae"
"""The estimator's name."""
FOLDS: Final = 4
"""Parts of the play, each of which is valued by what was fitted to the others: a fit on its own luck would take it for skill."""
RIDGE: Final = 30.0
"""Weight of the squared coefficients, for states scaled to a deviation of 1."""

States = NDArray[np.float32]
"""[turns, W] of one episode: what the model made of each turn before it answered."""


def gae(groups: Sequence[Group], states: Sequence[Sequence[States]], options: Options) -> tuple[list[Estimate], float]:
    """Generalised advantage estimates (arXiv 1506.02438) of all groups, and the share of returns' variance that is explained.

    ``states``: of each group's episodes. Discount and ``gae_lambda`` are those of ``options``; at 1.0 an advantage is the
    discounted return less its value. What follows the last turn counts nothing. Raises InvalidInput where states and turns differ
    in number.
    """
    rewards = [episode for group in groups for episode in group.rewards]
    shown = [np.asarray(episode, np.float64) for group in states for episode in group]
    if [len(one) for one in rewards] != [len(one) for one in shown]:
        raise InvalidInput("each turn has a state before its reply, and there are more of the one than of the other")
    returns = [returns_to_go(one, options.discount) for one in rewards]
    parts = np.repeat(np.arange(len(groups)), [len(group.rewards) for group in groups])
    if len(groups) == 1:
        parts = np.arange(len(rewards))
    values = _cross_fitted([_features(one) for one in shown], returns, parts)
    differences = [_advantages(*each, options) for each in zip(rewards, values, strict=True)]
    left = iter(differences)
    estimates = [judged([next(left) for _ in group.rewards], options) for group in groups]
    return estimates, _explained(returns, values)


def _features(states: Values) -> Values:
    """[turns, W + 1]: states, and how many turns went before, which a single picture does not tell."""
    return np.concatenate([states, np.arange(len(states), dtype=np.float64)[:, None]], 1)


def _cross_fitted(features: Sequence[Values], returns: Sequence[Values], parts: NDArray[np.int64]) -> list[Values]:
    """Values of each episode's turns, fitted to episodes of other parts."""
    together = np.concatenate(features)
    mean, deviation = together.mean(0), together.std(0)
    scaled = [(one - mean) / np.where(deviation > 0, deviation, 1.0) for one in features]
    fold = np.unique(parts, return_inverse=True)[1] % FOLDS
    found: list[Values] = [np.zeros(len(one)) for one in returns]
    for part in range(FOLDS):
        others, mine = np.flatnonzero(fold != part).tolist(), np.flatnonzero(fold == part).tolist()
        if not others or not mine:
            continue
        weights, offset = _ridge(np.concatenate([scaled[i] for i in others]), np.concatenate([returns[i] for i in others]))
        for i in mine:
            found[i] = scaled[i] @ weights + offset
    return found


def _ridge(features: Values, targets: Values) -> tuple[Values, float]:
    """Coefficients and offset; the offset is not held back."""
    centre, middle = features.mean(0), float(targets.mean())
    free = features - centre
    weights: Values = np.linalg.solve(free.T @ free + RIDGE * np.eye(free.shape[1]), free.T @ (targets - middle))
    return weights, middle - float(centre @ weights)


def _advantages(rewards: Values, values: Values, options: Options) -> Values:
    after = np.append(values[1:], 0.0)
    surprise = rewards + options.discount * after - values
    return returns_to_go(surprise, options.discount * options.gae_lambda)


def _explained(returns: Sequence[Values], values: Sequence[Values]) -> float:
    """1: all of it; 0: no more than their mean does; 0 too where returns do not differ."""
    told, expected = np.concatenate(returns), np.concatenate(values)
    whole = float(told.var())
    return 1 - float((told - expected).var()) / whole if whole > 0 else 0.0

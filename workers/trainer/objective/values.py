"""What a turn's return is expected to be, fitted to the play itself, and advantages over that. numpy alone: no torch, no I/O.

A group's mean knows how an episode began; a value knows where it stands now, so less of a return is luck to it. It is a sum of
ridge regressions on the model's own states, in closed form: no second network and no optimizer.

Each achievement has a regression of its own, and is worth nothing more to an episode that has it. Pictures seldom tell what an
episode has had: one value for all rewards takes whatever comes before a first time for good every time, and the policy learns to
do it again and again. What is known of an episode beside what its model sees may enter a value, for nobody plays by it
(asymmetric actor-critic, arXiv 1710.06542); one value for each part of the reward is as in arXiv 1706.04208.
"""

# N turns in order, W the width of a state, K achievements.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
"""Weight of the squared coefficients, for features scaled to a deviation of 1."""
OTHER: Final = ""
"""The part of the reward that came with no achievement."""

States = NDArray[np.float32]
"""[turns, W] of one episode: what the model made of each turn before it answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Turns that values are fitted to."""

    states: States
    """[N, W]."""
    turns: NDArray[np.int32]
    """[N]: how many went before in the episode."""
    had: Mapping[str, NDArray[np.bool_]]
    """Achievement -> [N]: the episode had it before the turn. An achievement that is not named was had by none."""
    togo: Mapping[str, NDArray[np.float64]]
    """Achievement, or OTHER -> [N]: the discounted reward to come for it. What is not named earned nothing."""

    def __len__(self) -> int:
        return len(self.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Valued:
    """What ``gae`` finds."""

    estimates: list[Estimate]
    """Of each group."""
    explained: float
    """Share of the returns' variance that the values explain. 1: all of it; 0: no more than their mean; 0 too where returns do
    not differ."""
    past: Past
    """The turns themselves, for updates to come."""


def gae(groups: Sequence[Group], states: Sequence[Sequence[States]], options: Options, *, earlier: Sequence[Past] = ()) -> Valued:
    """Generalised advantage estimates (arXiv 1506.02438) of all groups.

    ``states``: of each group's episodes. ``earlier``: play of updates before, which values are fitted to as well. Discount and
    ``gae_lambda`` are those of ``options``; at 1.0 an advantage is the discounted return less its value. What follows the last
    turn counts nothing. Raises InvalidInput where states and turns differ in number.
    """
    rewards = [episode for group in groups for episode in group.rewards]
    shown = [np.asarray(episode, np.float32) for group in states for episode in group]
    unlocked = [episode for group in groups for episode in group.unlocked or ((),) * len(group.rewards)]
    if [len(one) for one in rewards] != [len(one) for one in shown]:
        raise InvalidInput("each turn has a state before its reply, and there are more of the one than of the other")
    past = together([_past(*each, options.discount) for each in zip(shown, rewards, unlocked, strict=True)])
    parts = np.repeat(np.arange(len(groups)), [len(group.rewards) for group in groups])
    lengths = [len(one) for one in rewards]
    values = _cross_fitted(past, lengths, parts if len(groups) > 1 else np.arange(len(rewards)), earlier)
    left = iter([_advantages(*each, options) for each in zip(rewards, values, strict=True)])
    estimates = [judged([next(left) for _ in group.rewards], options) for group in groups]
    returns = [returns_to_go(one, options.discount) for one in rewards]
    return Valued(estimates=estimates, explained=_explained(returns, values), past=past)


def together(parts: Sequence[Past]) -> Past:
    """Several one after another."""
    had = {name for part in parts for name in part.had}
    togo = {name for part in parts for name in part.togo}
    return Past(
        states=np.concatenate([part.states for part in parts]),
        turns=np.concatenate([part.turns for part in parts]),
        had={name: np.concatenate([part.had.get(name, np.zeros(len(part), bool)) for part in parts]) for name in sorted(had)},
        togo={name: np.concatenate([part.togo.get(name, np.zeros(len(part))) for part in parts]) for name in sorted(togo)},
    )


def _past(states: States, rewards: Values, unlocked: Sequence[Iterable[str]], discount: float) -> Past:
    """An episode's turns. A turn's reward is shared by what it unlocked; without that, it is of the part OTHER."""
    earned: dict[str, Values] = {}
    had: dict[str, NDArray[np.bool_]] = {}
    new = [tuple(names) for names in unlocked] or [()] * len(rewards)
    for turn, names in enumerate(new):
        for name in names or (OTHER,):
            earned.setdefault(name, np.zeros(len(rewards)))[turn] += rewards[turn] / max(len(names), 1)
        for name in names:
            had.setdefault(name, np.zeros(len(rewards), bool))[turn + 1 :] = True
    togo = {name: returns_to_go(each, discount) for name, each in earned.items() if each.any()}
    return Past(states=states, turns=np.arange(len(rewards), dtype=np.int32), had=had, togo=togo)


def _features(play: Past) -> Values:
    """[N, W + 2 + K]: states, and what a picture may not tell: how many turns went before, its square, and what was had."""
    turns = play.turns[:, None].astype(np.float64)
    flags = [had[:, None] for had in play.had.values()]
    return np.concatenate([play.states.astype(np.float64), turns, turns**2, *flags], 1)


def _cross_fitted(now: Past, lengths: Sequence[int], parts: NDArray[np.int64], earlier: Sequence[Past]) -> list[Values]:
    """Values of each episode's turns, fitted to episodes of other parts; ``lengths``: how many of ``now`` are of each."""
    known = together([now, *earlier])
    features = _features(known)
    deviation = features.std(0)
    features = (features - features.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    features = np.concatenate([features, np.ones((len(features), 1))], 1)
    fold = np.unique(parts, return_inverse=True)[1] % FOLDS
    of_turn = np.concatenate([np.repeat(fold, lengths), np.full(len(known) - len(now), -1)])
    found = np.zeros(len(now))
    for name, togo in known.togo.items():
        open_to = ~known.had[name] if name in known.had else np.ones(len(known), bool)
        _add(found, features[open_to], togo[open_to], of_turn[open_to], np.flatnonzero(open_to))
    return np.split(found, np.cumsum(lengths)[:-1])


def _add(found: Values, features: Values, togo: Values, fold: NDArray[np.int64], places: NDArray[np.int64]) -> None:
    """Add to ``found``, at ``places``, what each fold's turns may expect by a fit to the turns of the others.

    The sums are taken once, and each fold's share is taken off them.
    """
    squares, products = features.T @ features, features.T @ togo
    for number in range(FOLDS):
        mine = fold == number
        if not mine.any() or mine.all():
            continue
        own = features[mine]
        weights = _solved(squares - own.T @ own, products - own.T @ togo[mine])
        found[places[mine]] += own @ weights


def _solved(squares: Values, products: Values) -> Values:
    """Coefficients of ridge regression. The last feature is the constant, which is not held back."""
    held_back = np.append(np.full(len(products) - 1, RIDGE), 1e-9)
    return np.asarray(np.linalg.solve(squares + np.diag(held_back), products), np.float64)


def _advantages(rewards: Values, values: Values, options: Options) -> Values:
    after = np.append(values[1:], 0.0)
    surprise = rewards + options.discount * after - values
    return returns_to_go(surprise, options.discount * options.gae_lambda)


def _explained(returns: Sequence[Values], values: Sequence[Values]) -> float:
    told, expected = np.concatenate(returns), np.concatenate(values)
    whole = float(told.var())
    return 1 - float((told - expected).var()) / whole if whole > 0 else 0.0

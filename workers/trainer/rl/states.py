"""What the model made of each turn before it answered, for the estimator that values states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from workers.trainer.learner import Learner
from workers.trainer.objective.values import States
from workers.trainer.rl.collect import Collected

AT_ONCE: Final = 512
"""Samples whose pictures are held at one time."""


def states(learner: Learner, collected: Collected) -> list[list[States]]:
    """float32 [turns, W] of each group's episodes, by the weights of now.

    A turn that is no sample has the state of the last before it that is one, or else of the first; an episode without any has
    zeros.
    """
    told = dict(
        zip(((place.group, place.episode, place.turn) for place in collected.places), _seen(learner, collected), strict=True)
    )
    width = len(next(iter(told.values())))
    return [
        [
            _filled([told.get((number, episode, turn)) for turn in range(len(rewards))], width)
            for episode, rewards in enumerate(group.rewards)
        ]
        for number, group in enumerate(collected.groups)
    ]


def _seen(learner: Learner, collected: Collected) -> Iterator[States]:
    for start in range(0, len(collected.samples), AT_ONCE):
        yield from learner.states(collected.shown.of(collected.samples[start : start + AT_ONCE]))


def _filled(found: list[States | None], width: int) -> States:
    known = [turn for turn, state in enumerate(found) if state is not None]
    if not known:
        return np.zeros((len(found), width), np.float32)
    places = np.maximum(np.searchsorted(known, np.arange(len(found)), side="right") - 1, 0)
    return np.stack([found[known[place]] for place in places.tolist()])

"""Values of states: advantages over them by hand, what they explain, and that no turn is valued by its own luck."""

from __future__ import annotations

import numpy as np
import pytest

from app.errors import InvalidInput
from workers.trainer.objective.advantages import Group, Options, estimate, returns_to_go
from workers.trainer.objective.values import FOLDS, States, gae

WIDTH = 6


def played(
    seed: int, *, groups: int = 16, members: int = 4, turns: int = 12, noise: float = 1.0, of_state: float = 1.0
) -> tuple[list[Group], list[list[States]]]:
    """Play whose rewards are what the first number of each state says, and noise."""
    drawn = np.random.default_rng(seed)
    states = [[drawn.normal(size=(turns, WIDTH)).astype(np.float32) for _ in range(members)] for _ in range(groups)]
    made = [
        Group(rewards=tuple(of_state * one[:, 0].astype(float) + noise * drawn.normal(size=turns) for one in group))
        for group in states
    ]
    return made, states


def told(groups: list[Group], states: list[list[States]], **options: float) -> np.ndarray:
    estimates, _ = gae(groups, states, Options(**options))
    return np.concatenate([values for each in estimates for values in each.advantages])


def test_where_states_tell_nothing_an_advantage_is_the_return_less_its_mean() -> None:
    groups, _ = played(0, groups=FOLDS, members=1, turns=1)
    blank = [[np.zeros((1, WIDTH), np.float32)] for _ in groups]
    rewards = [float(group.rewards[0][0]) for group in groups]
    others = [(sum(rewards) - one) / (len(rewards) - 1) for one in rewards]
    assert told(groups, blank, gae_lambda=1.0) == pytest.approx([mine - rest for mine, rest in zip(rewards, others, strict=True)])


def test_what_a_state_tells_is_no_advantage() -> None:
    groups, states = played(1, noise=0.0)
    left = told(groups, states, discount=0.01, gae_lambda=1.0)
    assert left.std() < 0.1, "rewards have a deviation of 1, and the states tell them"
    assert gae(groups, states, Options(discount=0.01))[1] > 0.97


def test_what_is_luck_stays_one() -> None:
    """A value fitted to a turn's own return would explain some of it, with these few turns most of it."""
    groups, states = played(2, groups=8, members=1, turns=4, of_state=0.0)
    assert told(groups, states, discount=0.01, gae_lambda=1.0).std() > 0.9
    assert gae(groups, states, Options(discount=0.01))[1] < 0.1


def test_nobody_s_return_is_in_its_own_value() -> None:
    groups, states = played(3)
    before = told(groups, states, gae_lambda=1.0, discount=0.5)
    lucky = np.array(groups[0].rewards[0])
    lucky[-1] += 100.0
    others = [Group(rewards=(lucky, *groups[0].rewards[1:])), *groups[1:]]
    after = told(others, states, gae_lambda=1.0, discount=0.5)
    turns = len(lucky)
    gained = returns_to_go(np.array([0.0] * (turns - 1) + [100.0]), 0.5)
    assert after[:turns] - before[:turns] == pytest.approx(gained), "the whole of its luck, and nothing taken off for it"
    members = turns * len(groups[0].rewards)
    assert after[turns:members] == pytest.approx(before[turns:members]), "nor in the values of its group"


def test_lambda_trades_what_was_played_for_what_the_next_state_is_worth() -> None:
    groups, states = played(4, of_state=3.0)
    whole, short = (told(groups, states, discount=0.9, gae_lambda=amount) for amount in (1.0, 0.0))
    assert short.std() < 0.6 * whole.std()
    assert told(groups, states, discount=0.9, gae_lambda=0.95).std() == pytest.approx(whole.std(), rel=0.2)


def test_no_rewards_are_nothing_to_learn_from_and_no_fault() -> None:
    groups, states = played(5, noise=0.0, of_state=0.0)
    estimates, explained = gae(groups, states, Options())
    assert all(each.flat and not any(values.any() for values in each.advantages) for each in estimates)
    assert explained == 0.0


@pytest.mark.parametrize(("groups", "members"), [(1, 4), (1, 1), (3, 1)])
def test_little_play_is_valued_too(groups: int, members: int) -> None:
    made, states = played(6, groups=groups, members=members)
    estimates, _ = gae(made, states, Options(discount=0.5, gae_lambda=1.0))
    assert [len(each.advantages) for each in estimates] == [members] * groups
    alone = estimate("grpo_turn", Group(rewards=made[0].rewards[:1]), Options(discount=0.5)).advantages[0]
    if groups * members == 1:
        assert estimates[0].advantages[0] == pytest.approx(alone), "with nobody to learn a value from there is none"


def test_turns_and_states_must_be_as_many() -> None:
    groups, states = played(7)
    with pytest.raises(InvalidInput, match="each turn has a state"):
        gae(groups, [[one[:-1] for one in group] for group in states], Options())

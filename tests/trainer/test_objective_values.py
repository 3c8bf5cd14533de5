"""Values of states: advantages over them by hand, what they explain, and that no turn is valued by its own luck."""

from __future__ import annotations

import numpy as np
import pytest

from app.errors import InvalidInput
from workers.trainer.objective.advantages import Group, Options, estimate, returns_to_go
from workers.trainer.objective.values import FOLDS, OTHER, Past, States, gae, together

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
    found = gae(groups, states, Options(**options))
    return np.concatenate([values for each in found.estimates for values in each.advantages])


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
    assert gae(groups, states, Options(discount=0.01)).explained > 0.97


def test_what_is_luck_stays_one() -> None:
    """A value fitted to a turn's own return would explain some of it, with these few turns most of it."""
    groups, states = played(2, groups=8, members=1, turns=4, of_state=0.0)
    assert told(groups, states, discount=0.01, gae_lambda=1.0).std() > 0.9
    assert gae(groups, states, Options(discount=0.01)).explained < 0.1


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
    found = gae(groups, states, Options())
    assert all(each.flat and not any(values.any() for values in each.advantages) for each in found.estimates)
    assert found.explained == 0.0


@pytest.mark.parametrize(("groups", "members"), [(1, 4), (1, 1), (3, 1)])
def test_little_play_is_valued_too(groups: int, members: int) -> None:
    made, states = played(6, groups=groups, members=members)
    estimates = gae(made, states, Options(discount=0.5, gae_lambda=1.0)).estimates
    assert [len(each.advantages) for each in estimates] == [members] * groups
    alone = estimate("grpo_turn", Group(rewards=made[0].rewards[:1]), Options(discount=0.5)).advantages[0]
    if groups * members == 1:
        assert estimates[0].advantages[0] == pytest.approx(alone), "with nobody to learn a value from there is none"


def once(seed: int, groups: int = 48, turns: int = 20) -> tuple[list[Group], list[list[States]], list[np.ndarray]]:
    """Play with a sign, at random, that a reward follows on the next turn: the first time, and never again."""
    drawn = np.random.default_rng(seed)
    made, states, signs = [], [], []
    for _ in range(groups):
        sign = drawn.random(turns) < 0.1
        first = np.flatnonzero(sign[:-1])[:1] + 1
        rewards = np.zeros(turns)
        rewards[first] = 1.0
        unlocked = tuple(("plant",) if turn in first else () for turn in range(turns))
        made.append(Group(rewards=(rewards,), unlocked=(unlocked,)))
        shown = 0.1 * drawn.normal(size=(turns, WIDTH))
        shown[:, 0] += sign
        states.append([shown.astype(np.float32)])
        signs.append(sign)
    return made, states, signs


def test_what_leads_to_a_first_time_is_worth_nothing_to_who_has_had_it() -> None:
    groups, states, signs = once(8)
    options = Options(discount=0.9, gae_lambda=0.0)
    blind = [Group(rewards=group.rewards) for group in groups]  # a value that does not know what was had
    by_value = {}
    for name, given in (("told", groups), ("not told", blind)):
        found = gae(given, states, options).estimates
        # at lambda 0 the turn before a sign gains what the sign is thought to be worth
        by_value[name] = np.mean(
            [
                each.advantages[0][turn]
                for each, group, sign in zip(found, groups, signs, strict=True)
                for turn in range(int(group.rewards[0].argmax()) + 1, len(sign) - 2)
                if group.rewards[0].any() and sign[turn + 1]
            ]
        )
    assert by_value["not told"] > 0.1, "it takes a second time for a gain"
    assert by_value["told"] == pytest.approx(0.0, abs=0.02)


def test_a_reward_is_shared_by_what_came_with_it_and_the_parts_are_the_whole() -> None:
    rewards = np.array([0.5, 3.0, -0.25, 1.0])
    group = Group(rewards=(rewards,), unlocked=(((), ("a", "b"), (), ("c",)),))
    past = gae([group], [[np.zeros((4, WIDTH), np.float32)]], Options(discount=0.5)).past
    assert past.togo["a"] == pytest.approx([0.75, 1.5, 0.0, 0.0])
    assert past.togo["a"] == pytest.approx(past.togo["b"])
    assert past.togo[OTHER] == pytest.approx(returns_to_go(np.array([0.5, 0.0, -0.25, 0.0]), 0.5))
    assert sum(past.togo.values()) == pytest.approx(returns_to_go(rewards, 0.5))
    assert past.had["a"].tolist() == [False, False, True, True], "from the turn after"


def test_play_of_updates_before_is_learnt_from() -> None:
    few, seen, _ = once(9, groups=2)
    much, states, _ = once(10)
    options = Options(discount=0.9)
    before = gae(much, states, options).past
    assert gae(few, seen, options, earlier=[before]).explained > gae(few, seen, options).explained + 0.1


def test_play_with_other_achievements_fits_beside() -> None:
    one, other = (gae(*once(seed, groups=4)[:2], Options()).past for seed in (11, 12))
    renamed = Past(states=other.states, turns=other.turns, had={"wood": other.had["plant"]}, togo={"wood": other.togo["plant"]})
    both = together([one, renamed])
    assert list(both.had) == ["plant", "wood"]
    assert not both.had["wood"][: len(one)].any()
    assert not both.togo["plant"][len(one) :].any()


def test_turns_and_states_must_be_as_many() -> None:
    groups, states = played(7)
    with pytest.raises(InvalidInput, match="each turn has a state"):
        gae(groups, [[one[:-1] for one in group] for group in states], Options())

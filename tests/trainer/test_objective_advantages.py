"""Advantages: the numbers that papers and hand give, what a group that agrees is worth, and what no estimator may depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput, UnknownName
from workers.trainer.objective.advantages import ESTIMATORS, Group, Options, estimate, returns_to_go

UNDISCOUNTED = Options(discount=1.0)
HALF = Options(discount=0.5)
COMPARED = sorted(ESTIMATORS)


def group(*rewards: list[float], states: list[list[str | None]] | None = None) -> Group:
    """A group by its episodes' rewards; without states each turn has one of its own, but for the first."""
    named = states or [["start", *(f"{i}:{t}" for t in range(1, len(each)))] for i, each in enumerate(rewards)]
    return Group(rewards=tuple(np.array(each, float) for each in rewards), states=tuple(tuple(each) for each in named))


def told(name: str, of: Group, options: Options = UNDISCOUNTED) -> list[list[float]]:
    return [np.round(values, 12).tolist() for values in estimate(name, of, options).advantages]


def test_a_return_to_go_is_what_follows_discounted() -> None:
    assert returns_to_go(np.array([1.0, 0.0, 4.0]), 0.5).tolist() == [2.0, 2.0, 4.0]


def test_grpo_turn_compares_with_the_others_at_the_same_turn() -> None:
    of = group([0, 1, 0], [0, 0, 0], [1, 0, 2])
    # returns-to-go at 0.5: [.5, 1, 0], [0, 0, 0], [1.5, 1, 2]
    assert told("grpo_turn", of, HALF) == [[0.5 - 0.75, 0.5, -1.0], [-1.0, -1.0, -1.0], [1.25, 0.5, 2.0]]


def test_grpo_turn_looks_at_nearby_turns_where_fewer_than_three_are_alive() -> None:
    of = group([0, 0, 0, 6], [0, 2], [4, 0])
    # undiscounted: [6, 6, 6, 6], [2, 2], [4, 0]; at turn 2 only the first lives: nearest others are turns 1 (2 and 0);
    # at turn 3 they are two away, turns 1 again
    assert told("grpo_turn", of) == [[3.0, 5.0, 5.0, 5.0], [2.0 - 5.0, -1.0], [0.0, -4.0]]


def test_two_episodes_are_each_others_baseline() -> None:
    assert told("grpo_turn", group([0, 1], [0, 0])) == [[1.0, 1.0], [-1.0, -1.0]]


def test_trajectory_estimators_by_hand() -> None:
    of = group([1, 0], [0, 0], [2, 3])  # returns 1, 0, 5: mean 2, deviation sqrt(7)
    assert told("dr_grpo", of) == [[-1.0, -1.0], [-2.0, -2.0], [3.0, 3.0]]
    assert told("grpo", of) == [[round(value / np.sqrt(7), 12)] * 2 for value in (-1, -2, 3)]
    assert told("gspo", of) == told("grpo", of)
    assert told("rloo", of) == [[-1.5, -1.5], [-3.0, -3.0], [4.5, 4.5]]


def test_gigpo_adds_what_turns_from_one_state_led_to() -> None:
    of = group([0, 4], [0, 0], states=[["a", "b"], ["a", "c"]])
    # returns 4 and 0: +-2 everywhere; at "a" the returns-to-go at 0.5 are 2 and 0: +-1 more; "b" and "c" were met once
    assert told("gigpo", of, HALF) == [[3.0, 2.0], [-3.0, -2.0]]
    assert told("gigpo", of, Options(discount=0.5, state_weight=0.0)) == told("dr_grpo", of)


def test_gigpo_says_that_it_needs_states() -> None:
    with pytest.raises(InvalidInput, match="no turn of the group tells its state"):
        estimate("gigpo", group([1], [0], states=[[None], [None]]))


@pytest.mark.parametrize("name", COMPARED)
def test_a_group_that_agrees_teaches_nothing(name: str) -> None:
    found = estimate(name, group(*[[0, 1, 0, 2]] * 4))
    assert found.flat
    assert not np.concatenate(found.advantages).any()


@pytest.mark.parametrize("name", COMPARED)
def test_differences_of_rounding_are_no_differences(name: str) -> None:
    found = estimate(name, group([0, 1 + 1e-7], [0, 1], [0, 1 - 1e-7]))
    assert found.flat
    assert 0 < found.spread < 1e-6
    assert not np.concatenate(found.advantages).any(), "not even where a tiny deviation would be divided by"


@pytest.mark.parametrize("name", COMPARED)
def test_an_episode_alone_is_worth_what_followed_each_turn(name: str) -> None:
    found = estimate(name, group([0, 1, 2]), HALF)
    assert found.advantages[0].tolist() == [1.0, 2.0, 2.0]
    assert not found.flat
    assert estimate(name, group([0, 0])).flat


@pytest.mark.parametrize("name", COMPARED)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=2, max_size=6), st.integers(-5, 5))
def test_what_every_episode_is_given_changes_nothing(name: str, rewards: list[list[int]], given: int) -> None:
    plain = estimate(name, group(*[list(map(float, each)) for each in rewards]))
    shifted = estimate(name, group(*[[each[0] + given, *map(float, each[1:])] for each in rewards]))
    assert plain.flat == shifted.flat
    for one, other in zip(plain.advantages, shifted.advantages, strict=True):
        assert one == pytest.approx(other, abs=1e-9)


@given(st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=5), min_size=2, max_size=6), st.floats(-2, 2))
def test_leave_one_out_takes_nothing_of_its_own_into_the_baseline(rewards: list[list[float]], more: float) -> None:
    """Else the gradient would be biased: an episode's baseline does not move with its own reward."""
    before = estimate("grpo_turn", group(*rewards), UNDISCOUNTED)
    changed = [[*rewards[0][:-1], rewards[0][-1] + more], *rewards[1:]]
    after = estimate("grpo_turn", group(*changed), UNDISCOUNTED)
    if before.flat or after.flat:
        return
    assert after.advantages[0] - before.advantages[0] == pytest.approx(np.full(len(rewards[0]), more), abs=1e-9)


@given(st.lists(st.lists(st.integers(-2, 3), min_size=1, max_size=6), min_size=2, max_size=6))
def test_rloo_is_dr_grpo_times_n_over_n_minus_1(rewards: list[list[int]]) -> None:
    of, n = group(*[list(map(float, each)) for each in rewards]), len(rewards)
    for one, other in zip(estimate("rloo", of).advantages, estimate("dr_grpo", of).advantages, strict=True):
        assert one == pytest.approx(other * n / (n - 1), abs=1e-9)


def test_unknown_names_and_empty_groups_are_refused() -> None:
    with pytest.raises(UnknownName, match=r"no advantage named 'grpo-turn'; did you mean 'grpo_turn'\?"):
        estimate("grpo-turn", group([1]))
    for empty in (Group(rewards=()), group([1], [])):
        with pytest.raises(InvalidInput, match="each of its episodes a turn"):
            estimate("rloo", empty)

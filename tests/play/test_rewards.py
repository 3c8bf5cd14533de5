"""Rewards: four functions of what a turn did, side by side."""

from __future__ import annotations

import math

import pytest

from app.errors import InvalidInput, UnknownName
from app.records import Outcome
from workers.rollout.envs.base import StepResult
from workers.rollout.envs.crafter import Crafter
from workers.rollout.rewards import REWARDS, RewardOptions, turn_rewards, unlocked_names


def result(reward: float = 0.0, *unlocked: str) -> StepResult:
    return StepResult(reward=reward, unlocked=unlocked, terminated=False, truncated=False, changed=True)


TURN = [result(-0.1), result(1.0, "collect_wood"), result(1.0, "wake_up", "place_table")]


def test_every_reward_is_told_side_by_side():
    assert set(turn_rewards([])) == set(REWARDS) == {"native", "unlocked", "consistent", "per_achievement"}


def test_the_four_rewards_of_one_turn():
    assert turn_rewards(TURN) == {"native": 1.9, "unlocked": 3.0, "consistent": 1.0, "per_achievement": 3.0}
    assert unlocked_names(TURN) == ("collect_wood", "wake_up", "place_table")


def test_a_turn_without_results_or_unlocks_is_worth_nothing():
    assert set(turn_rewards([]).values()) == {0.0}
    assert turn_rewards([result(-0.1)]) == {"native": -0.1, "unlocked": 0.0, "consistent": 0.0, "per_achievement": 0.0}


def test_consistent_pays_its_weight_once_however_many_were_unlocked():
    assert turn_rewards(TURN, RewardOptions(weight=0.5))["consistent"] == 0.5
    assert turn_rewards([result(1.0, "wake_up")], RewardOptions(weight=0.5))["consistent"] == 0.5


def test_a_weight_of_zero_means_zero():
    assert turn_rewards(TURN, RewardOptions(weight=0.0))["consistent"] == 0.0
    assert turn_rewards(TURN, RewardOptions(weights={"wake_up": 0.0}))["per_achievement"] == 2.0


def test_per_achievement_pays_by_name_and_one_for_the_rest():
    options = RewardOptions(weights={"collect_wood": 0.25, "place_table": 4.0})
    assert turn_rewards(TURN, options)["per_achievement"] == 5.25


def test_a_limit_of_zero_switches_an_achievement_off_and_more_changes_nothing():
    assert turn_rewards(TURN, RewardOptions(k_limits={"wake_up": 0}))["per_achievement"] == 2.0
    assert turn_rewards(TURN, RewardOptions(k_limits={"wake_up": 5}))["per_achievement"] == 3.0


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_the_policys_own_faults_cost_the_penalty(outcome):
    off = 0.5 if outcome in (Outcome.NO_TOOL_CALL, Outcome.PARSE_ERROR, Outcome.TRUNCATED) else 0.0
    assert turn_rewards([], outcome=outcome, invalid_penalty=0.5) == dict.fromkeys(REWARDS, -off)


@pytest.mark.parametrize(
    "build",
    [
        lambda: RewardOptions(weight=math.nan),
        lambda: RewardOptions(weights={"wake_up": math.inf}),
        lambda: RewardOptions(k_limits={"wake_up": -1}),
        lambda: turn_rewards([], invalid_penalty=-1.0),
        lambda: turn_rewards([], invalid_penalty=math.nan),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(build):
    with pytest.raises(InvalidInput):
        build()


def test_an_achievement_that_does_not_exist_is_refused_with_the_nearest_name():
    RewardOptions(weights={"wake_up": 2.0}, k_limits={"eat_cow": 1}).check(Crafter.achievements)
    with pytest.raises(UnknownName, match="did you mean 'collect_wood'"):
        RewardOptions(weights={"colect_wood": 2.0}).check(Crafter.achievements)
    with pytest.raises(UnknownName):
        RewardOptions(k_limits={"collect_meat": 1}).check(Crafter.achievements)


def test_rewards_of_real_play_add_up_to_the_worlds_own_count():
    env = Crafter(length=60)
    env.reset(1)
    totals = dict.fromkeys(REWARDS, 0.0)
    actions = ["do", "move_right", "do", "move_down", "sleep", "noop"] * 10
    while not env.ended:
        turn = [env.step(actions[env.length]) for _ in range(3) if not env.ended]
        for name, value in turn_rewards(turn).items():
            totals[name] += value
    assert totals["unlocked"] == totals["per_achievement"] == len(env.unlocked()) > 0
    # Native pays 1 for a step that unlocked anything, and a tenth of what health changed.
    steps = len(set(env.unlocked().values()))
    assert totals["native"] == pytest.approx(steps + (env.inventory()["health"] - 9) / 10)

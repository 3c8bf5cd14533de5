"""What every registered environment must do, whoever wrote it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from app.errors import BadSnapshot, EpisodeOver, UnknownAction, UnknownEnvironment
from workers.rollout.envs import make, registered
from workers.rollout.envs.base import Environment, StepResult

NAMES = sorted({*registered(), "corridor"})
SHORT = {"length": 30}


@pytest.fixture(params=NAMES)
def env(request: pytest.FixtureRequest, other_package: Path) -> Environment:
    environment = make(request.param, SHORT)
    environment.reset(5)
    return environment


def another(env: Environment) -> Environment:
    return make(env.name, SHORT)


def wander(env: Environment, steps: int, seed: int = 0) -> list[StepResult]:
    """Random steps, fewer if the episode ends."""
    rng, results = random.Random(seed), []
    while len(results) < steps and not env.ended:
        results.append(env.step(rng.choice(env.actions)))
    return results


def test_an_environment_of_another_package_is_found_by_its_name(other_package: Path) -> None:
    assert registered()["corridor"] == "corridor_package:Corridor"
    assert make("corridor", {"cells": 5}).name == "corridor"


def test_an_unknown_name_is_refused_with_those_there_are(other_package: Path) -> None:
    with pytest.raises(UnknownEnvironment, match=r"did you mean 'crafter'\? \(known: corridor, crafter\)"):
        make("crafted")


def test_it_is_an_environment(env: Environment) -> None:
    assert isinstance(env, Environment)
    assert len(set(env.actions)) == len(env.actions)
    assert len(set(env.achievements)) == len(env.achievements)
    assert env.name in NAMES
    assert env.version


def test_a_fresh_episode_is_at_its_beginning(env: Environment) -> None:
    assert (env.length, env.ended, env.unlocked()) == (0, None, {})


def test_the_same_seed_and_actions_give_the_same_episode(env: Environment) -> None:
    results, frame, state = wander(env, 20), env.frame().copy(), env.state_sha256()
    env.reset(5)
    assert wander(env, 20) == results
    twin = another(env)
    twin.reset(5)
    assert wander(twin, 20) == results
    assert env.state_sha256() == twin.state_sha256() == state
    assert np.array_equal(twin.frame(), frame)


def test_seeds_give_different_episodes(env: Environment) -> None:
    states = set()
    for seed in range(20):
        env.reset(seed)
        states.add(env.state_sha256())
    assert len(states) > 1


def test_a_frame_is_a_picture_and_free_of_side_effects(env: Environment) -> None:
    state = env.state_sha256()
    frame = env.frame()
    kept = frame.copy()
    assert (frame.dtype, frame.ndim, frame.shape[2]) == (np.uint8, 3, 3)
    assert np.array_equal(env.frame(), frame)
    assert env.state_sha256() == state
    wander(env, 5)
    assert np.array_equal(frame, kept), "a step wrote into a frame that it had given away"


def test_looking_or_not_changes_nothing(env: Environment) -> None:
    blind = another(env)
    blind.reset(5)
    rng = random.Random(1)
    while not env.ended:
        action = rng.choice(env.actions)
        assert env.step(action) == blind.step(action)
        env.frame(), env.status(), env.describe(env.status()), env.snapshot(), env.state_sha256()
    assert env.state_sha256() == blind.state_sha256()
    assert np.array_equal(env.frame(), blind.frame())


def test_the_end_is_told_once_and_nothing_happens_after_it(env: Environment) -> None:
    *before, last = wander(env, 1000)
    assert not any(result.terminated or result.truncated for result in before)
    assert last.terminated != last.truncated
    assert env.ended
    assert last.truncated == (env.ended == "length")
    state = env.state_sha256()
    with pytest.raises(EpisodeOver, match=env.ended):
        env.step(env.actions[0])
    assert env.state_sha256() == state


def test_an_unknown_action_is_refused_and_changes_nothing(env: Environment) -> None:
    state = env.state_sha256()
    with pytest.raises(UnknownAction, match=env.actions[-1]):
        env.step("fly")
    assert (env.length, env.state_sha256()) == (0, state)


def test_unlocked_agrees_with_the_steps(env: Environment) -> None:
    for seed in range(6):
        env.reset(seed)
        told = {name: step for step, result in enumerate(wander(env, 1000, seed), 1) for name in result.unlocked}
        assert env.unlocked() == told
        assert set(told) <= set(env.achievements)


@pytest.mark.parametrize("steps", [0, 1, 13])
def test_a_snapshot_goes_on_elsewhere(env: Environment, steps: int) -> None:
    wander(env, steps)
    other = another(env)
    other.restore(env.snapshot())
    assert (other.length, other.ended, other.unlocked()) == (env.length, env.ended, env.unlocked())
    assert (other.state_sha256(), other.status(), other.inventory()) == (env.state_sha256(), env.status(), env.inventory())
    assert np.array_equal(other.frame(), env.frame())
    assert wander(other, 50, seed=9) == wander(env, 50, seed=9)
    assert other.state_sha256() == env.state_sha256()


def test_bytes_that_are_no_snapshot_are_refused(env: Environment) -> None:
    for bad in (b"", b"no snapshot", env.snapshot()[:-3]):
        with pytest.raises(BadSnapshot):
            another(env).restore(bad)


def test_what_goes_into_a_prompt_is_text(env: Environment) -> None:
    status = env.status()
    assert json.loads(json.dumps(status)) == status
    assert env.describe(status).strip()
    for level in ("short", "full"):
        assert env.rules(level).strip()
    assert all(isinstance(amount, int) for amount in env.inventory().values())

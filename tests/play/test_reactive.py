"""The reactive player: a pure function of what one frame shows, quick, and good at the game."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import fields, replace
from itertools import product

import pytest

from workers.rollout.envs.crafter import Crafter
from workers.rollout.envs.crafter.tables import LAVA
from workers.rollout.policies.scripted.reactive import Reactive
from workers.rollout.policies.scripted.sight import Glance, glance

SEEDS = range(1000, 1010)
STEPS = 300


def frozen(seen: Glance) -> Glance:
    """A copy that shares nothing with the environment."""
    return replace(seen, view=tuple(tuple(row) for row in seen.view), items=dict(seen.items))


@pytest.fixture(scope="module")
def games() -> list[tuple[Crafter, list[tuple[str, Glance, str, str]]]]:
    """Ten games: the world at the end; of each turn the frame's hash, the glance, the action and the goal."""
    played = []
    for seed in SEEDS:
        env, player, turns = Crafter(image_size=64, length=STEPS), Reactive(), []
        env.reset(seed)
        while not env.ended:
            seen = glance(env)
            action, goal = player.decide(seen)
            turns.append((hashlib.sha256(env.frame().tobytes()).hexdigest(), frozen(seen), action, goal))
            env.step(action)
        played.append((env, turns))
    return played


def test_the_same_glance_gives_the_same_decision_whoever_is_asked_and_whatever_came_before(games):
    fresh, used = Reactive(), Reactive()
    turns = [turn for _, played in games for turn in played]
    assert len(turns) > 1500
    for _, seen, action, goal in reversed(turns):
        assert used.decide(seen) == fresh.decide(seen) == (action, goal)


def test_there_is_nowhere_to_keep_anything():
    assert not hasattr(Reactive(), "__dict__")
    with pytest.raises(AttributeError):
        Reactive().kept = 1  # type: ignore[attr-defined]


def test_equal_frames_are_decided_alike_in_every_world_and_at_every_time(games):
    decided: dict[str, tuple[str, str]] = {}
    again = 0
    for _, turns in games:
        for frame, _, action, goal in turns:
            again += frame in decided
            assert decided.setdefault(frame, (action, goal)) == (action, goal)
    assert again > 10  # or this would show nothing


def test_what_the_frame_does_not_show_decides_nothing(games):
    """Beside each world a twin: the same frame, but other land and no creatures out of view, another body and another past."""
    player, twins, asleep = Reactive(), 0, 0
    for seed, (_, turns) in zip(SEEDS, games, strict=True):
        env, twin = Crafter(image_size=64, length=STEPS), Crafter(image_size=64)
        env.reset(seed)
        for index, (_, _, action, goal) in enumerate(turns):
            if index % 7 == 0:
                twin.restore(env.snapshot())
                change_what_is_hidden(twin)
                assert (twin.frame() == env.frame()).all()
                assert player.decide(glance(twin)) == (action, goal)
                twins += 1
                asleep += env.world.player.sleeping
            env.step(action)
    assert twins > 200
    assert asleep > 20


def change_what_is_hidden(env: Crafter) -> None:
    world, player = env.world, env.world.player
    seen = {(player.x + dx, player.y + dy) for dx in range(-4, 5) for dy in range(-3, 4)}
    for thing in [thing for thing in world.objects if (thing.x, thing.y) not in seen]:
        world.remove(thing)
    terrain = bytearray(world.terrain())
    for x, y in product(range(64), range(64)):
        if (x, y) not in seen:
            terrain[x * 64 + y] = LAVA
    world.set_terrain(bytes(terrain))
    player.hunger = player.thirst = player.fatigue = player.recover = 7
    player.counts = dict.fromkeys(player.counts, 1)
    world.unlocked.clear()
    if player.sleeping:
        player.facing = (-player.facing[0], -player.facing[1])


def test_a_glance_holds_nothing_that_a_frame_does_not_show():
    assert {field.name for field in fields(Glance)} == {
        *("view", "facing", "health", "food", "drink", "energy", "sleeping", "dark", "bright", "items"),
    }


def test_every_action_is_one_of_the_games_and_every_goal_is_said_in_words(games):
    turns = [turn for _, played in games for turn in played]
    assert {action for _, _, action, _ in turns} <= set(Crafter.actions)
    goals = Counter(goal for *_, goal in turns)
    assert {"collect wood", "drink", "collect stone", "explore", "take a nap"} <= set(goals)
    assert all(goal and goal == goal.strip() for goal in goals)


def test_it_never_walks_into_lava(games):
    for env, turns in games:
        for _, seen, action, _ in turns:
            step = {"move_left": (3, 3), "move_right": (3, 5), "move_up": (2, 4), "move_down": (4, 4)}.get(action)
            assert step is None or seen.view[step[0]][step[1]] != "lava"
        assert env.ended


def test_it_plays_well_over_100_and_300_steps(games):
    by_100 = [sum(step <= 100 for step in env.unlocked().values()) for env, _ in games]
    by_300 = [len(env.unlocked()) for env, _ in games]
    assert sum(by_100) / len(by_100) >= 9  # random: 2.0
    assert sum(by_300) / len(by_300) >= 15  # random: 2.3


def test_a_decision_takes_less_than_half_a_millisecond(games):
    seen, player = [turn[1] for turn in games[0][1]], Reactive()
    best = min(_seconds(player, seen) for _ in range(3))
    assert best / len(seen) < 0.0005


def _seconds(player: Reactive, seen: list[Glance]) -> float:
    began = time.process_time()  # of this process alone, however busy the machine is
    for one in seen:
        player.decide(one)
    return time.process_time() - began

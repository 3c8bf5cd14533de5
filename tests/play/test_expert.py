"""The expert's three views: what each may know, what several actions from one frame are, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import fields

import pytest
from play_kit import begin, options, play

from app.errors import BadSnapshot, InvalidInput, UnknownName
from app.specs.policies import VIEWS
from workers.rollout import policies
from workers.rollout.envs.crafter import Crafter
from workers.rollout.envs.crafter.world import daylight_at
from workers.rollout.policies import Request
from workers.rollout.policies.scripted import Scripted
from workers.rollout.policies.scripted.kinds import KIND_OF
from workers.rollout.policies.scripted.memory import START, WIDTH, Memory
from workers.rollout.policies.scripted.player import MINDS
from workers.rollout.policies.scripted.sight import UNSEEN, Glance, glance, survey
from workers.rollout.prompts import PromptOptions

CHOSEN = options(length=300, keep_frames=False, prompt=PromptOptions(max_actions=8))


@pytest.fixture(params=sorted(MINDS))
def view(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(policy: Scripted, env: Crafter, most: int = 8) -> list[str]:
    request = Request(index=0, messages=(), options=PromptOptions(max_actions=most), actions=env.actions, env=env)
    (call,) = asyncio.run(policy.reply(request)).tool_calls
    return list(json.loads(call.arguments)["actions"])


# Which views there are.


def test_the_views_are_those_that_specs_name() -> None:
    assert set(MINDS) == set(VIEWS)


def test_a_view_is_a_variant_of_the_policy_and_tells_its_version(view: str) -> None:
    policy = policies.make(f"scripted:{view}", {"open_loop_k": 3})
    assert isinstance(policy, Scripted)
    assert policy.version.startswith("scripted-")
    assert policy.version.endswith(f"-{view}")
    assert policies.make("scripted").version == policies.make("scripted:visible").version


def test_an_unknown_view_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'reactive'"):
        Scripted(variant="reactiv")


@pytest.mark.parametrize("k", [0, 9, -1, True, 1.5, "2"])
def test_a_number_of_actions_that_cannot_be_is_refused(k: object) -> None:
    with pytest.raises(InvalidInput, match="open_loop_k must be a whole number from 1 to 8"):
        Scripted(open_loop_k=k)  # type: ignore[arg-type]


def test_more_actions_than_a_reply_may_hold_are_refused() -> None:
    env = Crafter()
    env.reset(1)
    with pytest.raises(InvalidInput, match="open_loop_k = 5 is more than max_actions = 4"):
        ask(Scripted(open_loop_k=5), env, most=4)


def test_another_views_snapshot_is_refused(view: str) -> None:
    env = Crafter()
    env.reset(1)
    policy = Scripted(variant=view)
    ask(policy, env)
    for other in set(MINDS) - {view}:
        with pytest.raises(BadSnapshot, match=f"-{view}'"):
            Scripted(variant=other).restore(policy.snapshot())


# How well they play.


def test_who_knows_more_plays_better_than_chance_by_far(view: str) -> None:
    counts = []
    for seed in range(200, 208):
        game = begin(Scripted(variant=view), CHOSEN, seed=seed)
        play(game)
        counts.append(len(game.env.unlocked()))
    assert sum(counts) / len(counts) >= 14  # chance: 2.3


def test_every_action_has_a_goal(view: str) -> None:
    game = begin(Scripted(variant=view, open_loop_k=4), CHOSEN, seed=31)
    assert all(turn.reply.notes["goal"] for turn in play(game))


# What each may know.


def test_the_reactive_player_sees_what_the_frame_shows_and_no_more() -> None:
    """Two states that differ in all that a frame does not show give the same glance."""
    env = Crafter()
    env.reset(32)
    world = env.world
    world.step = 400
    before = glance(env)
    world.unlocked["collect_wood"] = 3
    world.player.hunger, world.player.fatigue, world.player.counts["collect_wood"] = 17, 9, 4
    world.step = 700
    env._status = None
    assert daylight_at(700) == pytest.approx(daylight_at(400))
    assert glance(env) == before
    shown = {field.name for field in fields(Glance)}
    vitals = {"health", "food", "drink", "energy"}
    assert shown == vitals | {"view", "facing", "sleeping", "dark", "bright", "items"}


def test_the_reactive_player_does_not_know_where_a_sleeper_faces() -> None:
    env = Crafter()
    env.reset(33)
    while env.world.player.inventory["energy"] == 9:
        env.step("noop")
    env.step("move_left")
    assert glance(env).facing == (-1, 0)
    env.step("sleep")
    assert glance(env).sleeping
    assert glance(env).facing == UNSEEN


def test_the_reactive_player_keeps_nothing_between_turns() -> None:
    policy = Scripted(variant="reactive")
    empty = policy.snapshot()
    assert set(json.loads(empty)) == {"policy"}
    game = begin(policy, CHOSEN, seed=34)
    play(game, 80)
    assert policy.snapshot() == empty
    other = Crafter()
    other.restore(game.env.snapshot())
    assert ask(Scripted(variant="reactive"), other) == ask(policy, other)


def test_the_omniscient_player_knows_the_whole_map() -> None:
    env, memory = Crafter(), Memory()
    env.reset(35)
    for action in ("move_left", "move_left", "move_up"):
        env.step(action)
    memory.survey(survey(env))
    world = env.world
    assert memory.at == START + (world.player.y - 32) * WIDTH + world.player.x - 32
    for x in range(64):
        for y in range(64):
            cell, thing = START + (y - 32) * WIDTH + x - 32, world.thing(x, y)
            if thing is None or thing is world.player:
                assert memory.map[cell] == KIND_OF[world.material(x, y)]
                assert cell not in memory.creatures
            else:
                assert memory.creatures[cell] == thing.name
    counts = Counter(thing.name for thing in world.objects)
    assert Counter(memory.creatures.values()) == counts - Counter(["player"])


# Several actions from one frame.


def test_one_action_a_turn_is_what_it_does_unless_told_otherwise(view: str) -> None:
    game = begin(Scripted(variant=view), CHOSEN, seed=36)
    assert {len(turn.actions) for turn in play(game, 100)} == {1}


def test_a_plan_of_several_actions_saves_looks_and_costs_little(view: str) -> None:
    turns = acted = got = looked = 0
    for seed in range(210, 216):
        single = begin(Scripted(variant=view), CHOSEN, seed=seed)
        play(single)
        looked += len(single.env.unlocked())
        game = begin(Scripted(variant=view, open_loop_k=5), CHOSEN, seed=seed)
        played = play(game)
        assert max(len(turn.actions) for turn in played) == 5
        turns += len(played)
        acted += game.env.length
        got += len(game.env.unlocked())
    assert acted >= 1.2 * turns
    assert got >= 0.75 * looked


def test_a_plan_is_made_without_stepping_the_world(view: str) -> None:
    game = begin(Scripted(variant=view), CHOSEN, seed=37)
    play(game, 30)
    env, policy = game.env, Scripted(variant=view, open_loop_k=8)
    before = env.state_sha256()
    policy.observe(env)
    assert policy.decide()
    assert env.state_sha256() == before


def test_a_plan_does_not_know_what_only_the_world_decides(view: str) -> None:
    """Worlds that are alike but for the draws to come are answered alike."""
    for length in (5, 25, 45, 65):
        game = begin(Scripted(variant=view), CHOSEN, seed=38)
        play(game, length)
        answers = []
        for draws in range(3):
            other = Crafter()
            other.restore(game.env.snapshot())
            for _ in range(draws):
                other.world.rng.random()
            answers.append(ask(Scripted(variant=view, open_loop_k=8), other))
        assert answers[0] == answers[1] == answers[2]


def test_nothing_is_planned_beyond_sleep_or_with_a_foe_in_view(view: str) -> None:
    for seed in range(216, 220):
        env, policy = Crafter(length=300), Scripted(variant=view, open_loop_k=8)
        env.reset(seed)
        while not env.ended:
            names = {name for row in env.status()["view"] for name in row}
            asleep = env.status()["sleeping"] and env.status()["energy"] < 9
            actions = ask(policy, env)
            assert "sleep" not in actions[1:]
            assert "noop" not in actions[1:]
            if asleep or names & {"zombie", "skeleton", "arrow"} or actions[0] == "sleep":
                assert len(actions) == 1
            for action in actions:
                if not env.ended:
                    env.step(action)


def test_planned_actions_mostly_do_something() -> None:
    """What is planned ahead works out: hardly an action of a plan has no effect."""
    planned = idle = 0
    for seed in range(220, 224):
        env, policy = Crafter(length=300), Scripted(variant="omniscient", open_loop_k=6)
        env.reset(seed)
        while not env.ended:
            for number, action in enumerate(ask(policy, env)):
                if not env.ended:
                    changed = env.step(action).changed
                    planned += number > 0
                    idle += number > 0 and not changed
    assert planned > 200
    assert idle < 0.02 * planned


# What it can do.


def test_it_fences_its_plant_and_waits_until_it_is_ripe() -> None:
    """With all else unlocked and stones in hand, it plants, closes the four sides, and eats some 300 steps later."""
    env, policy = Crafter(length=1000), Scripted(variant="omniscient")
    env.reset(41)
    world = env.world
    world.unlocked.update({name: 0 for name in env.achievements if name != "eat_plant"})
    world.player.inventory.update({"stone": 9, "wood_pickaxe": 1, "stone_pickaxe": 1, "iron_pickaxe": 1, "iron_sword": 1})
    world.player.inventory.update({"wood_sword": 1, "stone_sword": 1})
    fenced = None
    while not env.ended and "eat_plant" not in env.unlocked():
        (action,) = ask(policy, env)
        env.step(action)
        for plant in [thing for thing in world.objects if thing.name == "plant"]:
            beside = [world.material(plant.x + dx, plant.y + dy) for dx, dy in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            if fenced is None and not {"grass", "sand", "path"} & set(beside):
                fenced = env.length
    assert fenced is not None
    assert fenced < env.unlocked()["eat_plant"] - 200

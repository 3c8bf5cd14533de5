"""Policies: found by name, repeatable anywhere, and able to go on from a snapshot. The contract holds each registered one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from app.errors import BadSnapshot, InvalidInput, UnknownName, UnknownPolicy
from app.records import EpisodeKey, Outcome, Reply
from workers.rollout import policies
from workers.rollout.actions import parse
from workers.rollout.envs.crafter import Crafter
from workers.rollout.policies import Policy, Request
from workers.rollout.policies.random import Random
from workers.rollout.policies.scripted import Scripted
from workers.rollout.policies.scripted.belief import foresee
from workers.rollout.policies.scripted.kinds import KIND_OF
from workers.rollout.policies.scripted.memory import START, WIDTH, Memory
from workers.rollout.policies.scripted.sight import look
from workers.rollout.prompts import PromptOptions

OPTIONS = PromptOptions(max_actions=8)


def request(env: Crafter, index: int, options: PromptOptions = OPTIONS) -> Request:
    return Request(index=index, messages=(), options=options, actions=env.actions, env=env)


def ask(policy: Policy, env: Crafter, index: int, options: PromptOptions = OPTIONS) -> Reply:
    return asyncio.run(policy.reply(request(env, index, options)))


def key(seed: int = 0, *, iteration: int = 0, member: int = 0) -> EpisodeKey:
    return EpisodeKey(iteration=iteration, seed=seed, member=member)


def begin(name: str, seed: int, *, length: int = 10_000, sampling_seed: int = 0, **config) -> tuple[Policy, Crafter]:
    env, policy = Crafter(length=length), policies.make(name, config)
    env.reset(seed)
    policy.begin(env, key(seed), sampling_seed=sampling_seed)
    return policy, env


def play(policy: Policy, env: Crafter, turns: int, first: int = 0) -> list[str]:
    """Play on for some turns; the actions that were carried out."""
    done = []
    for index in range(first, first + turns):
        if env.ended:
            break
        reply = ask(policy, env, index)
        parsed = parse(reply, reply_format=OPTIONS.reply_format, actions=env.actions, max_actions=8)
        assert parsed.outcome is Outcome.OK, parsed.detail
        for action in parsed.actions:
            if not env.ended:
                env.step(action)
                done.append(action)
    return done


@pytest.fixture(
    params=sorted(set(policies.POLICIES) - {"openai", "model"})
)  # which need an endpoint: test_openai.py, test_model_policy.py
def name(request) -> str:
    return request.param


# Every policy.


def test_a_policy_is_what_the_protocol_says(name):
    policy = policies.make(name)
    assert isinstance(policy, Policy)
    assert policy.name == name
    assert policy.version


@pytest.mark.parametrize("reply_format", ["tool_call", "text"])
def test_a_reply_is_in_the_format_that_was_asked_for(name, reply_format):
    policy, env = begin(name, 1)
    reply = ask(policy, env, 0, replace(OPTIONS, reply_format=reply_format))
    parsed = parse(reply, reply_format=reply_format, actions=env.actions, max_actions=8)
    assert parsed.outcome is Outcome.OK
    assert bool(reply.tool_calls) == (reply_format == "tool_call")
    assert reply.policy_version == policy.version


def test_the_same_episode_is_played_the_same_way_twice(name):
    first, second = (play(*begin(name, 3, sampling_seed=9), turns=120) for _ in range(2))
    assert first == second
    assert len(first) > 50


def test_asking_changes_nothing_in_the_world(name):
    policy, env = begin(name, 2)
    before = env.state_sha256()
    ask(policy, env, 0)
    assert env.state_sha256() == before


@pytest.mark.parametrize("turns", [0, 1, 37, 110])
def test_play_goes_on_from_a_snapshot_as_if_nothing_had_been(name, turns):
    policy, env = begin(name, 4)
    play(policy, env, turns)
    kept, world = policy.snapshot(), env.snapshot()
    rest = play(policy, env, 60, first=turns)

    other, elsewhere = policies.make(name), Crafter()
    elsewhere.restore(world)
    other.restore(kept)
    assert other.snapshot() == kept
    assert play(other, elsewhere, 60, first=turns) == rest
    assert elsewhere.state_sha256() == env.state_sha256()


def test_a_policy_that_is_used_again_remembers_nothing(name):
    policy, env = begin(name, 5)
    play(policy, env, 40)
    env.reset(6)
    policy.begin(env, key(6), sampling_seed=0)
    assert play(policy, env, 40) == play(*begin(name, 6), turns=40)


@pytest.mark.parametrize(
    "bad", [b"", b"{", b"[]", b"null", b"{}", b'{"policy": "x-9"}', b"\xff\xfe", b'{"policy": "random-1", "key": [1]}']
)
def test_bytes_that_are_no_snapshot_are_refused(name, bad):
    with pytest.raises(BadSnapshot):
        policies.make(name).restore(bad)


# Finding one.


def test_an_unknown_policy_is_refused_with_the_names_there_are():
    with pytest.raises(UnknownPolicy, match="did you mean 'scripted'"):
        policies.make("scriptd")
    assert {"random", "scripted"} <= set(policies.known())


def test_an_unknown_key_of_a_policys_config_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'actions_per_turn'"):
        policies.make("random", {"action_per_turn": 2})
    with pytest.raises(UnknownName):
        policies.make("scripted", {"speed": 2})


def test_naming_the_policies_imports_none_of_them():
    probe = "import sys, workers.rollout.policies as p; p.known(); print([m for m in sys.modules if '.policies.' in m])"
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['workers.rollout.policies.base']"


# Random.


def draws(turns: int, *, sampling_seed: int = 0, **which: int) -> list[str]:
    policy = Random()
    policy.begin(Crafter(), key(**which), sampling_seed=sampling_seed)
    return [policy.draw(turn, Crafter.actions)[0] for turn in range(turns)]


def test_every_part_of_the_key_gives_other_draws():
    base = draws(40)
    assert draws(40) == base
    for other in ({"sampling_seed": 1}, {"iteration": 1}, {"seed": 1}, {"member": 1}):
        assert draws(40, **other) != base


def test_random_is_uniform():
    counts = Counter(draws(17_000))
    assert set(counts) == set(Crafter.actions)
    # Chi-square with 16 degrees of freedom: above 39.25 once in a thousand, and the draws are fixed.
    assert sum((count - 1_000) ** 2 / 1_000 for count in counts.values()) < 39.25


def test_random_draws_as_many_actions_a_turn_as_it_is_told():
    policy, env = begin("random", 0, actions_per_turn=8)
    (call,) = ask(policy, env, 0).tool_calls
    assert len(json.loads(call.arguments)["actions"]) == 8
    with pytest.raises(InvalidInput, match="max_actions = 5"):
        ask(policy, env, 0, replace(OPTIONS, max_actions=5))


@pytest.mark.parametrize("count", [0, 9, True, 1.5, "2"])
def test_a_number_of_actions_that_cannot_be_is_refused(count):
    with pytest.raises(InvalidInput):
        policies.make("random", {"actions_per_turn": count})


# Scripted.


def act(policy: Scripted, env: Crafter) -> tuple[str, str]:
    """Let it look and decide; its action and goal."""
    policy.observe(env)
    (decision,) = policy.decide()
    policy.expect([decision[0]])
    return decision


@pytest.fixture(scope="module")
def games() -> list[tuple[Crafter, list[str], list[str]]]:
    """Ten games of 300 steps: the world at the end, the actions, the goals."""
    played = []
    for seed in range(200, 210):
        env, policy = Crafter(length=300), Scripted()
        env.reset(seed)
        policy.begin(env, key(seed), sampling_seed=0)
        actions, goals = [], []
        while not env.ended:
            action, goal = act(policy, env)
            env.step(action)
            actions.append(action)
            goals.append(goal)
        played.append((env, actions, goals))
    return played


def test_the_scripted_player_is_far_better_than_chance(games):
    counts = [len(env.unlocked()) for env, _, _ in games]
    assert sum(counts) / len(counts) >= 14  # random: 2.3
    assert sorted(counts)[1] >= 10  # one early death among ten is bad luck


def test_the_scripted_player_makes_stone_tools_in_nearly_every_world(games):
    tools = {"place_table", "make_wood_pickaxe", "collect_stone", "make_stone_pickaxe", "collect_drink"}
    assert sum(tools <= set(env.unlocked()) for env, _, _ in games) >= 9


def test_the_scripted_player_says_what_it_is_about(games):
    told = {goal for _, _, goals in games for goal in goals}
    assert all(told)
    assert {"collect wood", "drink", "collect stone", "explore"} <= told
    policy, env = begin("scripted", 0)
    assert ask(policy, env, 0).notes["goal"] in told


def test_the_scripted_player_sees_no_more_than_the_status(games):
    """Given only what ``status`` says, by something that has nothing else, it plays the same game."""

    class Keyhole:
        def __init__(self, env: Crafter) -> None:
            self.status = env.status

    actions = games[0][1]
    again, policy = Crafter(length=300), Scripted()
    again.reset(200)
    policy.begin(again, key(200), sampling_seed=0)
    for action in actions:
        assert act(policy, Keyhole(again))[0] == action  # type: ignore[arg-type]
        again.step(action)


def test_the_memory_knows_where_the_player_is():
    env, policy = Crafter(length=400), Scripted()
    env.reset(11)
    policy.begin(env, key(11), sampling_seed=0)
    memory, x0, y0 = Memory(), env.world.player.x, env.world.player.y
    while not env.ended:
        sight = look(env)
        memory.look(sight)
        x, y = env.world.player.x, env.world.player.y
        assert memory.at == START + (y - y0) * WIDTH + (x - x0)
        action, _ = act(policy, env)
        foresee(sight, memory, action)
        env.step(action)


def test_a_map_that_does_not_fit_what_is_seen_begins_anew():
    policy, env = begin("scripted", 12)
    play(policy, env, 80)
    memory = policy._mind.memory  # type: ignore[attr-defined]
    assert memory.steps == 80
    known = sum(map(bool, memory.map))
    elsewhere = Crafter()
    elsewhere.reset(13)
    for action in ["move_right"] * 12 + ["move_up"] * 12:  # away from the meadow on which every world begins
        elsewhere.step(action)
    memory.look(look(elsewhere))
    assert memory.at == START
    assert sum(map(bool, memory.map)) <= 63 < known
    dx, dy = elsewhere.status()["facing"]
    assert memory.map[START + dy * WIDTH + dx] == KIND_OF[elsewhere.status()["faces"]]


def test_a_step_that_the_player_did_not_choose_is_seen_from_what_fits_better():
    policy, env = begin("scripted", 12)
    play(policy, env, 60)  # among trees and rocks
    memory = policy._mind.memory  # type: ignore[attr-defined]
    memory.look(look(env))
    foresee(look(env), memory, "noop")
    followed = 0
    for action in ("move_left", "move_up", "move_right", "move_down") * 2:
        before, x, y = memory.at, env.world.player.x, env.world.player.y
        env.step(action)
        memory.look(look(env))
        moved = (env.world.player.y - y) * WIDTH + env.world.player.x - x
        assert memory.at - before == moved
        followed += moved != 0
    assert followed

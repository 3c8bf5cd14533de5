"""A game: what a reply does and does not do to the world, what a turn records, and how an episode ends."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from envs.corridor import Corridor
from play_kit import begin, key, options, play, turn
from play_policies import Babbler, Says

from app.errors import BadSnapshot, EpisodeOver, InvalidInput, UnknownName
from app.records import ImagePart, Message, Outcome, Reply, TextPart, ToolCall
from workers.rollout import envs
from workers.rollout.actions import format_reply
from workers.rollout.play import Game
from workers.rollout.policies.random import Random
from workers.rollout.prompts import PromptOptions
from workers.rollout.rewards import RewardOptions
from workers.transport.pixels import decode_png


def call(*actions: str) -> Reply:
    return format_reply(actions, "tool_call")


def raw_call(arguments: str) -> Reply:
    return Reply(text="I think.", tool_calls=(ToolCall(name="interact_many", arguments=arguments),))


TEXT = PromptOptions(reply_format="text")
UNREADABLE = {
    "no tool": (PromptOptions(), Reply(text="move_right, do"), Outcome.NO_TOOL_CALL),
    "no JSON": (PromptOptions(), raw_call('{"actions": ["move_right", "do"'), Outcome.PARSE_ERROR),
    "an unknown name among known ones": (PromptOptions(), call("move_right", "fly", "do"), Outcome.PARSE_ERROR),
    "too many": (PromptOptions(max_actions=1), call("move_right", "do"), Outcome.PARSE_ERROR),
    "two calls": (PromptOptions(), Reply(tool_calls=call("do").tool_calls * 2), Outcome.PARSE_ERROR),
    "prose": (TEXT, Reply(text="move_right and do"), Outcome.PARSE_ERROR),
    "nothing": (TEXT, Reply(), Outcome.PARSE_ERROR),
    "cut off": (TEXT, Reply(text="move_right mov", finish="length"), Outcome.TRUNCATED),
}
unreadable = pytest.mark.parametrize(("prompt", "reply", "outcome"), UNREADABLE.values(), ids=UNREADABLE)


# Replies.


@unreadable
def test_an_unreadable_reply_is_kept_as_it_is_and_does_one_noop(prompt: PromptOptions, reply: Reply, outcome: Outcome) -> None:
    game, twin = begin(Says(reply), options(prompt=prompt, invalid_penalty=0.25)), begin("random")
    result = twin.env.step("noop")
    played, _ = turn(game)
    assert (played.outcome, played.reply, played.actions, played.dropped) == (outcome, reply, ("noop",), ())
    assert played.detail
    assert game.env.state_sha256() == twin.env.state_sha256()
    off = {"native": result.reward, "unlocked": 0.0, "consistent": 0.0, "per_achievement": 0.0}
    assert played.rewards == {name: value - 0.25 for name, value in off.items()}
    assert played.reward == -0.25


@unreadable
def test_an_unreadable_reply_may_be_set_to_do_nothing_at_all(prompt: PromptOptions, reply: Reply, outcome: Outcome) -> None:
    game = begin(Says(reply, reply), options(prompt=prompt, invalid_reply="skip", invalid_penalty=0.5))
    before = game.env.state_sha256()
    first, second = play(game, 2)
    for played in (first, second):
        assert (played.outcome, played.reply, played.actions, played.dropped) == (outcome, reply, (), ())
        assert set(played.rewards.values()) == {-0.5}
    assert (game.env.state_sha256(), game.env.length) == (before, 0)


@pytest.mark.parametrize(("invalid_reply", "done"), [("noop", ("noop",)), ("skip", ())])
def test_an_engines_failure_is_recorded_and_not_punished(invalid_reply: str, done: tuple[str, ...]) -> None:
    # What stands in a failed reply is not carried out, however well it reads.
    reply = Reply(tool_calls=call("move_right").tool_calls, finish="error", notes={"error": "no route to host"})
    game = begin(Says(reply), options(invalid_reply=invalid_reply, invalid_penalty=1.0))
    played, _ = turn(game)
    assert (played.outcome, played.actions, played.reply) == (Outcome.ENGINE_ERROR, done, reply)
    assert "no route to host" in played.detail
    assert set(played.rewards.values()) == {0.0}


def test_actions_are_carried_out_as_they_were_said() -> None:
    said = ["move_right", "do"], ["do", "do", "do"], ["noop"], ["place_table", "sleep"]
    game, twin = begin(Says(*(call(*actions) for actions in said))), begin("random")
    for actions, played in zip(said, play(game, len(said)), strict=True):
        assert (played.outcome, list(played.actions), played.dropped) == (Outcome.OK, actions, ())
        for action in actions:
            twin.env.step(action)
    assert game.env.state_sha256() == twin.env.state_sha256()


def test_a_world_without_noop_refuses_to_answer_with_one() -> None:
    with pytest.raises(InvalidInput, match="corridor has none; write 'skip'"):
        Game.begin(options(env="corridor"), Random(), key(), Corridor())
    game = Game.begin(options(env="corridor", invalid_reply="skip"), Says(Reply(text="?")), key(), Corridor())
    played, _ = turn(game)
    assert (played.actions, game.env.length) == ((), 0)


def test_a_weight_of_an_achievement_that_the_world_lacks_is_refused() -> None:
    with pytest.raises(UnknownName, match="collect_wood"):
        begin("random", options(rewards=RewardOptions(weights={"colect_wood": 2.0})))


# Ends.


def test_actions_after_the_end_are_dropped_and_told() -> None:
    policy = Says(call("noop", "noop"), call("move_left", "do", "sleep", "move_up"))
    game = begin(policy, options(length=3))
    first, last = play(game)
    assert (first.actions, first.truncated) == (("noop", "noop"), False)
    assert (last.actions, last.dropped) == (("move_left",), ("do", "sleep", "move_up"))
    assert (last.terminated, last.truncated, game.ended, game.env.length) == (False, True, "length", 3)


def test_a_reply_that_ends_exactly_at_the_end_drops_nothing() -> None:
    game = begin(Says(call("noop", "noop", "noop")), options(length=3))
    (only,) = play(game)
    assert (only.dropped, only.truncated) == ((), True)


def test_nobody_is_asked_after_the_end() -> None:
    policy = Says(call("noop"), call("noop"), call("noop"))
    game = begin(policy, options(length=2))
    play(game)
    state = game.env.state_sha256()
    with pytest.raises(EpisodeOver, match="length"):
        turn(game)
    assert (len(policy.requests), game.totals.turns, game.env.state_sha256()) == (2, 2, state)


def test_death_ends_the_episode_in_the_middle_of_a_reply() -> None:
    deaths = 0
    for seed in range(4):
        policy = Random(actions_per_turn=8)
        game = begin(policy, options(length=2_000, keep_frames=False), seed=seed)
        turns = play(game)
        last = turns[-1]
        assert (game.ended, last.terminated, last.truncated) == ("died", True, False)
        assert not any(each.terminated or each.truncated or each.dropped for each in turns[:-1])
        assert [*last.actions, *last.dropped] == policy.draw(last.index, game.env.actions)
        assert game.env.length == sum(len(each.actions) for each in turns)
        assert game.env.inventory()["health"] <= 0
        deaths += bool(last.dropped)
    assert deaths, "no seed died in the middle of a reply, so nothing was dropped"


def test_the_limit_of_turns_is_no_end_of_the_world() -> None:
    game = begin("random", options(max_turns=5))
    turns = play(game)
    assert (len(turns), game.ended, game.env.ended) == (5, "turns", None)
    assert not any(each.terminated or each.truncated for each in turns)
    with pytest.raises(EpisodeOver, match="turns"):
        turn(game)


def test_a_world_that_ends_at_the_last_turn_tells_its_own_end() -> None:
    game = begin("random", options(max_turns=5, length=5))
    assert play(game)[-1].truncated
    assert game.ended == "length"


# Rewards and totals.


def expert_actions(count: int) -> list[str]:
    """What the scripted player does in seed 1, one action a turn."""
    game = begin("scripted", options(max_turns=count, keep_frames=False, prompt=PromptOptions(max_actions=1)))
    return [each.actions[0] for each in play(game)]


def test_a_turn_of_many_actions_sums_their_rewards_and_lists_all_their_unlocks() -> None:
    said = expert_actions(56)
    game, twin = begin(Says(*(call(*said[at : at + 8]) for at in range(0, 56, 8)))), begin("random")
    most = 0
    for played in play(game, 7):
        results = [twin.env.step(action) for action in played.actions]
        assert played.unlocked == tuple(name for result in results for name in result.unlocked)
        assert played.rewards["native"] == math.fsum(result.reward for result in results)
        assert played.rewards["unlocked"] == len(played.unlocked)
        most = max(most, len(played.unlocked))
    assert most >= 2, "no turn unlocked two, so this showed nothing"
    assert game.totals.returns["unlocked"] == len(game.env.unlocked())


@pytest.mark.parametrize("name", ["native", "unlocked", "consistent", "per_achievement"])
def test_every_reward_is_kept_and_the_named_one_counts(name: str) -> None:
    pay = RewardOptions(weight=0.5, weights={"collect_wood": 3.0, "place_table": 0.0}, k_limits={"collect_sapling": 0})
    said = expert_actions(24)
    chosen = options(reward=name, rewards=pay)
    turns = play(begin(Says(*(call(*said[at : at + 8]) for at in range(0, 24, 8))), chosen), 3)
    for played in turns:
        assert played.reward == played.rewards[name]
        assert played.rewards["consistent"] == (0.5 if played.unlocked else 0.0)
        worth = {"collect_wood": 3.0, "place_table": 0.0, "collect_sapling": 0.0}
        assert played.rewards["per_achievement"] == sum(worth.get(each, 1.0) for each in played.unlocked)
    assert {"collect_wood", "place_table", "collect_sapling"} <= {each for played in turns for each in played.unlocked}


@pytest.mark.parametrize("invalid_reply", ["noop", "skip"])
def test_totals_are_the_sums_over_the_turns(invalid_reply: str) -> None:
    game = begin(Babbler(), options(max_turns=80, invalid_reply=invalid_reply, invalid_penalty=0.1))
    turns = play(game)
    assert game.totals.turns == len(turns)
    assert [each.index for each in turns] == list(range(len(turns)))
    assert game.totals.outcomes == Counter(str(each.outcome) for each in turns)
    assert set(game.totals.outcomes) == {"ok", "no_tool_call", "engine_error"}
    for name, total in game.totals.returns.items():
        assert total == pytest.approx(math.fsum(each.rewards[name] for each in turns), abs=1e-9)
    assert set(game.totals.returns) == {"native", "unlocked", "consistent", "per_achievement"}
    for name, total in game.totals.timings.items():
        assert total == pytest.approx(sum(each.timings[name] for each in turns))
    assert set(game.totals.timings) == {"frame", "prompt", "policy", "env"}
    assert game.env.length == sum(len(each.actions) for each in turns)
    assert sorted(name for each in turns for name in each.unlocked) == sorted(game.env.unlocked())


def test_the_chain_of_hashes_tells_any_turn_from_another() -> None:
    said = [call("move_left"), call("noop"), call("do")]
    same, again = ([play(game, 3), game.totals.chain] for game in (begin(Says(*said)), begin(Says(*said))))
    assert same[1] == again[1]
    others = [
        [*said[:2], call("noop")],
        [call("noop"), *said[1:]],
        [*said[:2], Reply(text="?", tool_calls=said[2].tool_calls)],
    ]
    assert len({same[1], *map(chain_of, others)}) == 1 + len(others)


def test_what_a_policy_notes_beside_its_reply_is_no_part_of_the_play() -> None:
    said, words = call("do"), '","notes":{'
    noted = Reply(tool_calls=said.tool_calls, notes={"request_id": "r-1", "more": {"notes": words}})
    assert chain_of([noted]) == chain_of([said])
    assert chain_of([Reply(text=words)]) != chain_of([Reply(text=f"{words}a")]), (
        "words of a reply that look like its end are part of it"
    )


def test_tokens_are_part_of_the_play_and_the_last_digits_of_their_log_probabilities_are_not() -> None:
    calls = call("do").tool_calls
    told = {"tool_calls": calls, "prompt_ids": (1, 2), "output_ids": (3,)}
    same = chain_of([Reply(**told, logprobs=(-0.5,))])
    assert same == chain_of([Reply(**told, logprobs=(-0.500001,))])
    assert len({same, chain_of([Reply(**{**told, "output_ids": (4,)})]), chain_of([Reply(tool_calls=calls)])}) == 3


def chain_of(replies: list[Reply]) -> str:
    """The hash of an episode with these replies."""
    game = begin(Says(*replies))
    play(game, len(replies))
    return game.totals.chain


# Pictures.


def images(messages: tuple[Message, ...]) -> list[str]:
    return [part.sha256 for message in messages for part in message.parts if isinstance(part, ImagePart)]


@pytest.mark.parametrize("image_only", [True, False])
def test_the_picture_in_the_prompt_is_the_world_as_it_was(image_only: bool) -> None:
    policy = Says(*[call("move_right", "do")] * 5)
    game = begin(policy, options(prompt=PromptOptions(image_only_mode=image_only)))
    for _ in range(5):
        pixels = game.env.frame().copy()
        played, frame = turn(game)
        request = policy.requests[-1]
        assert frame is not None
        assert frame.sha256 == hashlib.sha256(frame.png).hexdigest() == played.frame
        assert images(played.messages) == images(request.messages) == [frame.sha256]
        assert request.frames is not None
        assert request.frames(frame.sha256) == frame.png
        assert np.array_equal(decode_png(frame.png), pixels)
        assert (frame.height, frame.width) == pixels.shape[:2]
        assert request.messages == played.messages


def test_image_only_mode_shows_the_picture_and_nothing_else() -> None:
    game = begin(Babbler(), options(prompt=PromptOptions(image_only_mode=True)))
    for played in play(game, 10):
        system, user = played.messages
        assert (system.role, user.role) == ("system", "user")
        assert user.parts == (ImagePart(sha256=played.frame or ""),)


def test_without_vision_the_prompt_has_no_picture_and_the_frame_is_kept_beside_it() -> None:
    policy = Says(call("noop"))
    game = begin(policy, options(prompt=PromptOptions(use_vision=False)))
    played, frame = turn(game)
    assert images(played.messages) == []
    assert frame is not None
    assert played.frame == frame.sha256
    (described,) = played.messages[1].parts
    assert isinstance(described, TextPart)
    assert described.text == game.env.describe(begin("random").env.status())


def test_a_model_sees_its_picture_though_no_frames_are_kept() -> None:
    policy = Says(call("noop"))
    played, frame = turn(begin(policy, options(keep_frames=False)))
    assert frame is not None
    assert policy.requests[0].frames is not None
    assert policy.requests[0].frames(played.frame or "") == frame.png


def test_no_frame_is_made_where_nobody_wants_one() -> None:
    blind = options(keep_frames=False, prompt=PromptOptions(use_vision=False))
    policy = Says(call("noop"))
    played, frame = turn(begin(policy, blind))
    assert (frame, played.frame, policy.requests[0].frames) == (None, None, None)
    assert played.messages, "a model without vision reads the text"
    played, frame = turn(begin("random", options(keep_frames=False)))
    assert (frame, played.frame, played.messages) == (None, None, ())


@pytest.mark.parametrize("name", ["random", "scripted"])
def test_what_is_kept_or_shown_does_not_change_what_is_played(name: str) -> None:
    ways = [
        options(max_turns=60),
        options(max_turns=60, keep_frames=False),
        options(max_turns=60, prompt=PromptOptions(use_vision=False, rules="full", history=0)),
        options(max_turns=60, prompt=PromptOptions(image_only_mode=True)),
    ]
    states = set()
    for way in ways:
        game = begin(name, way)
        play(game)
        states.add(game.env.state_sha256())
    assert len(states) == 1


# History in prompts.


def test_the_prompt_tells_the_last_turns_and_no_more() -> None:
    turns = play(begin(Babbler(), options(prompt=PromptOptions(history=2))), 12)
    for before, after in pairwise(turns):
        text = next(part.text for part in after.messages[1].parts if isinstance(part, TextPart))
        told = [line for line in text.partition("\n\n")[0].splitlines() if line[0].isdecimal()]
        assert len(told) == min(after.index, 2)
        assert told[-1].startswith(f"{before.index + 1}. {', '.join(before.actions)}")
        assert (before.outcome is Outcome.OK) != (f"not valid: {before.outcome}" in told[-1])


# Snapshots.


def damaged() -> dict[str, bytes]:
    whole = json.loads(zlib.decompress(begin("random").snapshot()))
    less = {name: value for name, value in whole.items() if name != "chain"}
    return {
        "nothing": b"",
        "no zlib": b"{}",
        "no JSON": zlib.compress(b"{"),
        "no object": zlib.compress(b"[]"),
        "another version": zlib.compress(json.dumps(whole | {"version": 99}).encode()),
        "a key less": zlib.compress(json.dumps(less).encode()),
        "a world that is none": zlib.compress(json.dumps(whole | {"env": "AAAA"}).encode()),
        "no base64": zlib.compress(json.dumps(whole | {"policy": "?"}).encode()),
        "cut off": begin("random").snapshot()[:-20],
    }


@pytest.mark.parametrize("how", list(damaged()))
def test_bytes_that_are_no_snapshot_of_an_episode_are_refused(how: str) -> None:
    with pytest.raises(BadSnapshot):
        Game.resume(options(), Random(), key(), damaged()[how], envs.make("crafter"))


def test_a_snapshot_of_another_policy_is_refused() -> None:
    with pytest.raises(BadSnapshot, match="random policy"):
        Game.resume(options(), Random(), key(), begin("scripted").snapshot())

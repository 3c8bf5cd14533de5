"""A trace that went over a wire is the trace that was played, and one that was tampered with is refused with a reason."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from app.errors import BadTrace
from app.records import EpisodeKey, Frame
from app.store.turns import system_text, text_sha256
from workers.rollout import policies
from workers.rollout.play import Game, PlayOptions
from workers.rollout.prompts import PromptOptions
from workers.transport import trace

Packed = dict[str, Any]


def played(*, frames: bool = True, turns: int = 12, vision: bool = True) -> trace.Trace:
    """A short episode of the random policy, in which one achievement is unlocked."""
    options = PlayOptions(
        env="crafter",
        env_config={"length": 500},
        prompt=PromptOptions(use_vision=vision),
        max_turns=turns,
        keep_frames=frames,
    )

    async def play() -> trace.Trace:
        key = EpisodeKey(iteration=0, seed=3, member=1)
        game = Game.begin(options, policies.make("random", {"actions_per_turn": 8}), key)
        kept: dict[str, Frame] = {}
        texts: dict[str, str] = {}
        while not game.ended:
            turn, frame = await game.turn()
            if frame is not None:
                kept[frame.sha256] = frame
            if text := system_text(turn):
                texts[text_sha256(text)] = text
        last = game.frame()
        if last is not None:
            kept[last.sha256] = last
        names = {"iteration": 0, "seed": 3, "member": 1, "env": "crafter", "env_version": game.env.version, "policy": "random"}
        return trace.Trace(
            episode={**names, **game.figures(), "last_frame": last.sha256 if last else None},
            rows=tuple(game.take_rows()),
            frames=tuple(kept.values()),
            texts=texts,
        )

    return asyncio.run(play())


@pytest.fixture(scope="module")
def whole() -> trace.Trace:
    return played()


@pytest.fixture
def wire(whole: trace.Trace) -> Packed:
    """A packed trace that was sent as JSON."""
    sent: Packed = json.loads(json.dumps(trace.pack(whole)))
    return sent


def test_what_is_unpacked_is_what_was_packed(whole: trace.Trace, wire: Packed) -> None:
    assert whole.episode["unlocked"] >= 1, "the episode is to have something to get wrong"
    assert trace.unpack(wire) == whole


@pytest.mark.parametrize("vision", [True, False])
def test_an_episode_that_kept_no_frames_travels_too(vision: bool) -> None:
    kept = played(frames=False, vision=vision, turns=3)

    assert kept.frames == ()
    assert trace.unpack(json.loads(json.dumps(trace.pack(kept)))) == kept


def test_an_episode_that_was_ended_before_its_first_turn_travels_too(whole: trace.Trace) -> None:
    sums = {"returns": {}, "achievements": {}, "outcomes": {}, "timings": {}}
    begun = {**whole.episode, **sums, "turns": 0, "length": 0, "unlocked": 0, "sha256": "", "last_frame": None}

    assert trace.unpack(trace.pack(trace.Trace(episode=begun, rows=()))).rows == ()


def other_png(packed: Packed) -> None:
    first, second = list(packed["frames"])[:2]
    packed["frames"][first] = packed["frames"][second]


def cut_png(packed: Packed) -> None:
    first = next(iter(packed["frames"]))
    packed["frames"][first] = base64.b64encode(base64.b64decode(packed["frames"][first])[:200]).decode()


def lost_png(packed: Packed) -> None:
    del packed["frames"][packed["turns"][0]["frame"]]


def lost_last(packed: Packed) -> None:
    packed["episode"]["last_frame"] = None


def reward_in_a_row(packed: Packed) -> None:
    rewards = json.loads(packed["turns"][3]["rewards"])
    packed["turns"][3]["rewards"] = json.dumps({**rewards, "native": 9.5})


def reply_in_a_row(packed: Packed) -> None:
    packed["turns"][3]["reply"] = packed["turns"][3]["reply"].replace('"stop"', '"length"')


def picture_of_another_turn(packed: Packed) -> None:
    turn = packed["turns"][0]
    turn["messages"] = turn["messages"].replace(turn["frame"], packed["episode"]["last_frame"])


TAMPERED: list[tuple[Callable[[Packed], Any], str]] = [
    (lambda packed: packed.update(format="other"), "is no trace"),
    (lambda packed: packed.update(version=2), "version '2'; this synthq reads 1"),
    (lambda packed: packed.update(more=1), "more: extra inputs"),
    (lambda packed: packed["turns"].pop(0), "turn 0 says that it is turn 1"),
    (lambda packed: packed["episode"].update(turns=11), r"episode.turns is '11', and its turns give '12'"),
    (lambda packed: packed["turns"].pop(), "which nothing in it names"),
    (lambda packed: packed["turns"][0].pop("reply"), "turns.0.reply: field required"),
    (lambda packed: packed["turns"][0].update(terminated=1), "turns.0.terminated: input should be a valid boolean"),
    (lambda packed: packed["turns"][0].update(outcome="fine"), "turns.0.outcome"),
    (lambda packed: packed["turns"][0].update(detail="\0"), "turns.0.detail: holds a character that cannot be stored"),
    (lambda packed: packed["turns"][0].update(detail="\ud800"), "turns.0.detail"),
    (lambda packed: packed["turns"][0].update(actions='{"no": "list"}'), "turns.0.actions holds JSON that is not its own"),
    (lambda packed: packed["turns"][0].update(rewards='{"native": NaN}'), "turns.0.rewards holds"),
    (lambda packed: packed["turns"][0].update(reply="["), "turns.0.reply holds"),
    (lambda packed: packed["episode"].update(seed=2**40), "episode.seed"),
    (lambda packed: packed["episode"].update(sha256="0" * 64), "episode.sha256"),
    (lambda packed: packed["episode"].update(terminated=True), "episode.terminated"),
    (lambda packed: packed["episode"].update(returns={}), "episode.returns"),
    (lambda packed: packed["episode"].update(unlocked=22), "episode.unlocked"),
    (lambda packed: packed["episode"]["achievements"].update(eat_cow=1), "episode.achievements"),
    (lambda packed: packed["texts"].update({"0" * 64: "other"}), "is another text"),
    (lambda packed: packed["texts"].clear(), "names the text"),
    (lambda packed: packed["frames"].update({"0" * 64: "!"}), "is not base64"),
    (lambda packed: packed["frames"].clear(), "names the frame"),
    (other_png, "holds other bytes"),
    (cut_png, "is no whole PNG"),
    (lost_png, "which it does not hold"),
    (lost_last, "which nothing in it names"),
    (reward_in_a_row, r"episode\.returns"),
    (reply_in_a_row, r"episode\.sha256"),
    (picture_of_another_turn, "not the turn's frame"),
]


@pytest.mark.parametrize(("tamper", "sentence"), TAMPERED, ids=range(len(TAMPERED)))
def test_what_does_not_agree_with_itself_is_refused(wire: Packed, tamper: Callable[[Packed], Any], sentence: str) -> None:
    tamper(wire)

    with pytest.raises(BadTrace, match=sentence):
        trace.unpack(wire)


@pytest.mark.parametrize(
    "value", [None, 1, "trace", [], {}, {"format": "synthq-trace"}, {"format": "synthq-trace", "version": 1}]
)
def test_what_is_no_trace_is_refused(value: object) -> None:
    with pytest.raises(BadTrace):
        trace.unpack(value)

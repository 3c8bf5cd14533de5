"""`eval.blank_frames`: who reads prompts is shown black pictures of the frames' size, and the trace says what was shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import play_kit
import pytest
from play_policies import Says, Seer

from app import specs
from app.compare.conditions import conditions
from app.errors import SpecProblems
from app.records import ImagePart
from app.specs import EvalSpec
from workers.rollout.play import PlayOptions
from workers.transport.pixels import decode_png


def made(**table: Any) -> EvalSpec:
    found = specs.parse("eval", {"eval": {"seeds": 1, "policies": ["model:/m"], "blank_frames": True, **table}})
    assert isinstance(found, EvalSpec)
    return found


def test_the_prompt_shows_a_black_picture_of_the_same_size_and_the_turn_names_it() -> None:
    seen, blank = (play_kit.begin(Seer(), replace(play_kit.options(), blank_frames=is_blank)) for is_blank in (False, True))
    for _ in range(3):
        (turn, frame), (other, black) = play_kit.turn(seen), play_kit.turn(blank)
        assert frame is not None
        assert black is not None
        assert (black.width, black.height) == (frame.width, frame.height)
        assert not np.any(decode_png(black.png))
        assert np.any(decode_png(frame.png))
        shown = [part.sha256 for message in other.messages for part in message.parts if isinstance(part, ImagePart)]
        assert shown == [other.frame] == [black.sha256] != [turn.frame]
        assert other.reply.notes["seen"] == [black.sha256], "those are the bytes that it was given"
        assert (other.rewards, other.actions) == (turn.rewards, turn.actions), "the world is the same"
    last = blank.frame()
    assert last is not None
    assert np.any(decode_png(last.png)), "nobody was shown the end"


def test_who_reads_no_prompt_is_played_and_stored_as_ever() -> None:
    game = play_kit.begin("scripted", replace(play_kit.options(), blank_frames=True))
    _, frame = play_kit.turn(game)
    assert frame is not None
    assert np.any(decode_png(frame.png))
    assert Says().needs_messages


def test_the_key_reaches_play_and_old_specs_have_it_off() -> None:
    assert PlayOptions.of(made()).blank_frames
    resolved = specs.resolved(made())
    del resolved["eval"]["blank_frames"]
    again = specs.parse("eval", resolved)
    assert isinstance(again, EvalSpec)
    assert not PlayOptions.of(again).blank_frames


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"policy_config": {"use_vision": False}}, "there is no picture that could be black"),
        (
            {"policies": ["openai:m"], "policy_config": {"provider": "groq"}, "task_app_url": "http://there"},
            "a task app makes its pictures itself",
        ),
    ],
)
def test_where_no_picture_can_be_black_it_is_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecProblems, match=said):
        made(**table)


def test_where_nobody_looks_that_is_said_and_a_comparison_tells_who_was_blind() -> None:
    (caution,) = [text for text in specs.warnings(made(policies=["scripted"])) if "blank_frames" in text]
    assert caution == "eval.blank_frames: only models look at pictures, not scripted"
    table = specs.resolved(made())["eval"]
    assert conditions(table, "model:/m", ["1"])["blank_frames"] is True
    assert "blank_frames" not in conditions(table, "scripted", ["1"])
    del table["blank_frames"]
    assert conditions(table, "model:/m", ["1"])["blank_frames"] is False

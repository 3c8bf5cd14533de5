"""From play to samples: the very tokens, log-probabilities and pixels, and what is no sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core.kit import write
from sqlmodel import select

pytest.importorskip("torch", reason="the trainer needs the extra 'model'")

from tokenizers import Tokenizer
from trainer.rl_kit import BASE, Stage, begun, changed, held, spec_of

from app import db
from app.errors import StepFailed
from app.models import Episode
from app.records import EpisodeKey
from workers.model.images import ImageReader
from workers.rollout import envs
from workers.trainer.rl.collect import Collected, collect
from workers.trainer.rl.options import TILES, Options

pytestmark = [pytest.mark.usefixtures("sqlite_store"), pytest.mark.vision]


@pytest.fixture
def played(tiny_model: Path, own_home: Path, sqlite_store: str) -> Stage:
    """An iteration that was played by version 1."""
    return begun(tiny_model, own_home)


def collected(of: Stage, *, version: int = 1, iteration: int = 0) -> Collected:
    play = Options.of(of.spec).play
    return collect(of.job.id, iteration, play, version=version, images=ImageReader.of(of.base), image_id=image_id(of.base))


def image_id(base: Path) -> int:
    """The token that stands for a piece of a picture."""
    told: int = json.loads((base / "config.json").read_text())["image_token_id"]
    return told


@pytest.fixture(params=["as stored", "upscaled", "with text"])
def any_play(request: pytest.FixtureRequest, tiny_model: Path, sqlite_store: str) -> Stage:
    """Play of pictures as they are, of larger ones, and with words around them."""
    rollout = BASE["rollout"]
    tables: dict[str, dict[str, Any]] = {
        "as stored": {},
        "upscaled": {"rollout": {"env_config": {"image_size": 63, "upscale_to": 126}}},
        "with text": {
            "rollout": {"policy_config": rollout["policy_config"] | {"image_only_mode": False, "rules": "short", "history": 2}}
        },
    }[request.param]
    made = Stage(tiny_model, spec_of(tiny_model, **tables))
    made.begin(held())
    made.play(0)
    return made


def test_samples_are_what_the_engine_read_and_said_to_the_byte(any_play: Stage) -> None:
    found, turns = collected(any_play), any_play.turns()
    assert len(found.samples) == len(turns) == 8 * 4
    keys = {f"turn {turn.index} of episode {turn.episode_id}": turn for turn in turns}
    read = _read_by_episode(any_play)
    for sample in found.shown.of(found.samples):
        turn = keys[sample.key]
        asked = read[turn.episode_id][turn.index]
        assert list(sample.ids) == [*(turn.prompt_ids or ()), *(turn.output_ids or ())] == [*asked.ids, *(turn.output_ids or ())]
        assert sample.targets == tuple(range(len(asked.ids), len(sample.ids)))
        assert sample.logprobs is not None
        assert [float(np.float32(value)) for value in turn.logprobs or ()] == sample.logprobs.tolist() == turn.logprobs
        assert [each.sha256 for each in sample.pictures] == [each.sha256 for each in asked.pictures]
        for mine, theirs in zip(sample.pictures, asked.pictures, strict=True):
            assert mine.grid == theirs.grid
            assert mine.patches.tobytes() == theirs.patches.tobytes()


def _read_by_episode(of: Stage) -> dict[str, dict[int, Any]]:
    """What the engine read, by episode and turn."""
    found: dict[str, dict[int, Any]] = {}
    with db.reading() as session:
        for episode in session.exec(select(Episode).where(Episode.job_id == of.job.id)):
            key = EpisodeKey(iteration=episode.iteration, seed=episode.seed, member=episode.member)
            found[episode.id] = {index: asked for (its, index), asked in of.prompts.items() if its == key}
    return found


def test_a_reply_in_tokens_that_no_tokeniser_would_write_stays_so(played: Stage) -> None:
    tokenizer = Tokenizer.from_file(str(played.base / "tokenizer.json"))
    turn = played.turns()[0]
    letters = [tokenizer.encode(letter, add_special_tokens=False).ids[0] for letter in "noop"]
    assert tokenizer.encode("noop", add_special_tokens=False).ids != letters
    assert tokenizer.decode(letters) == "noop"
    with changed(turn) as row:
        row.output_ids, row.logprobs = letters, [-1.5, -0.25, -2.0, -0.125]
    sample = collected(played).samples[0]
    assert list(sample.ids[-4:]) == letters
    assert sample.logprobs is not None
    assert sample.logprobs.tolist() == [-1.5, -0.25, -2.0, -0.125]


def test_a_reply_that_cannot_be_read_is_a_sample(played: Stage) -> None:
    turns = played.turns()
    unread = {f"turn {turn.index} of episode {turn.episode_id}" for turn in turns if turn.outcome in ("parse_error", "truncated")}
    assert unread, "an untrained model says something that is no action"
    found = collected(played)
    assert unread <= {sample.key for sample in found.samples}
    assert found.figures["invalid_share"] == len(unread) / len(turns)


def test_turns_without_tokens_are_left_out_and_counted_and_their_rewards_stay(played: Stage) -> None:
    turns = played.turns()
    with changed(turns[0]) as row:
        row.outcome, row.policy_version = "engine_error", ""
        row.prompt_ids = row.output_ids = row.logprobs = None
    with changed(turns[5]) as row:
        row.prompt_ids = None
    found = collected(played)
    assert len(found.samples) == len(turns) - 2
    assert found.left_out == {"engine_error": 1, "no_tokens": 1}
    assert (found.figures["left_out/engine_error"], found.figures["left_out/no_tokens"]) == (1.0, 1.0)
    assert [len(rewards) for group in found.groups for rewards in group.rewards] == [4] * 8
    assert found.places[0].turn == 1


@pytest.mark.parametrize(("staleness", "stale"), [(0, 32), (1, 32), (2, 0)])
def test_what_is_older_than_the_bound_is_dropped_and_counted(played: Stage, staleness: int, stale: int) -> None:
    played.spec = spec_of(played.base, training={"staleness": staleness})
    found = collected(played, version=3)
    assert found.left_out.get("stale", 0) == stale == found.figures["left_out/stale"]
    assert len(found.samples) == 32 - stale
    if not stale:
        assert found.figures["staleness/2"] == 32.0


def test_groups_are_the_episodes_of_a_seed_by_member(played: Stage) -> None:
    found, turns = collected(played), played.turns()
    assert [len(group.rewards) for group in found.groups] == [4, 4]
    assert np.concatenate([r for group in found.groups for r in group.rewards]).tolist() == [turn.reward for turn in turns]
    assert [(place.group, place.episode, place.turn) for place in found.places] == [
        (group, member, turn) for group in range(2) for member in range(4) for turn in range(4)
    ]
    assert {states[0] for states in found.groups[0].states} == {turns[0].frame}, "members begin in one state"


def test_figures_say_how_it_went(played: Stage) -> None:
    found, turns = collected(played), played.turns()
    assert found.figures["return"] == pytest.approx(sum(turn.reward for turn in turns) / 8)
    assert found.figures["return/unlocked"] == pytest.approx(sum(turn.rewards["unlocked"] for turn in turns) / 8)
    assert (found.figures["episodes"], found.figures["turns"], found.figures["samples"]) == (8.0, 4.0, 32.0)
    assert found.figures["tokens/reply"] == sum(len(turn.output_ids or ()) for turn in turns)


def test_a_picture_that_lost_a_token_is_told_with_its_turn(played: Stage) -> None:
    turn = played.turns()[3]
    image = image_id(played.base)
    with changed(turn) as row:
        ids = list(row.prompt_ids or ())
        ids.remove(image)
        row.prompt_ids = ids
    wanted = rf"the prompt of turn 3 of episode {turn.episode_id} has 8 image tokens, and its 1 pictures are 9"
    with pytest.raises(StepFailed, match=wanted):
        collected(played)


def test_a_log_probability_too_few_is_told_with_its_turn(played: Stage) -> None:
    turn = next(turn for turn in played.turns() if len(turn.logprobs or ()) > 1)
    with changed(turn) as row:
        row.logprobs = (row.logprobs or [])[:-1]
    with pytest.raises(StepFailed, match=rf"turn {turn.index} of episode {turn.episode_id} has \d tokens and \d log-prob"):
        collected(played)


def test_frames_that_are_gone_or_changed_are_told(played: Stage) -> None:
    frame = played.turns()[0].frame
    other = played.turns()[1].frame
    write("UPDATE frame SET png = (SELECT png FROM frame WHERE sha256 = :other) WHERE sha256 = :frame", frame=frame, other=other)
    with pytest.raises(StepFailed, match=f"stored bytes of frame {frame} have sha256 {other}"):
        collected(played)
    write("DELETE FROM frame WHERE sha256 = :frame", frame=frame)
    with pytest.raises(StepFailed, match=rf"turn 0 of episode ep_\w+ shows frame {frame}, and it is not stored"):
        collected(played)


@pytest.mark.parametrize("answered", ["scripted-1", "job_000000000000-v1@0123456789ab"])
def test_only_the_jobs_own_adapter_is_learnt_from(played: Stage, answered: str) -> None:
    with changed(played.turns()[0]) as row:
        row.policy_version = answered
    with pytest.raises(
        StepFailed, match=f"was answered by '{answered}', which is no version of the adapter that {played.job.id}"
    ):
        collected(played)


def test_episodes_that_did_not_end_are_counted_and_not_learnt_from(played: Stage) -> None:
    write("UPDATE episode SET state = 'failed' WHERE member = 2")
    found = collected(played)
    assert [len(group.rewards) for group in found.groups] == [3, 3]
    assert found.figures["episodes_missing"] == 2.0
    write("DELETE FROM episode")
    assert collected(played).samples == ()


def test_the_upscale_is_told_the_environments_tiles() -> None:
    assert getattr(envs.make("crafter"), "tiles", None) == TILES

"""A round of DAgger in the trainer: it imitates what the expert says, from the prompts that were played, and so does whoever
computes it again; what is no lesson is counted; and the first update from rewards begins with an optimizer of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core.kit import write
from sqlmodel import select

pytest.importorskip("torch", reason="the trainer needs the extra 'model'")

from safetensors.numpy import load_file
from trainer.rl_kit import Stage, begun, changed, held

from app import artifacts, db
from app.errors import ArtifactDamaged, StepFailed
from app.models import Artifact
from app.settings import get_settings
from benchmarks import rl_play
from workers.trainer.child.held import Cancelled, Held
from workers.trainer.child.ranks import Alone
from workers.trainer.learner import Learner
from workers.trainer.rl import imitate, update
from workers.trainer.rl.imitate import Lessons, gather
from workers.trainer.rl.options import Options, settings
from workers.trainer.rl.runs import Runs
from workers.trainer.sft.training import imitation
from workers.transport import chat

pytestmark = [pytest.mark.usefixtures("sqlite_store"), pytest.mark.vision]

ROUNDS = {"rounds": 2, "epochs": 1, "batch_size": 16, "learning_rate": 1e-2}
TURNS = 32
"""Of the iteration that was played: eight episodes of four turns."""


@pytest.fixture
def stage(tiny_model: Path, own_home: Path, sqlite_store: str) -> Callable[..., Stage]:
    """Makes a job whose first iteration was played; tables may say anything but how."""
    return partial(begun, tiny_model, own_home, dagger=ROUNDS)


def ask(of: Stage, iteration: int = 0, members: int | None = None) -> None:
    """Have the expert asked about an iteration."""
    done = rl_play.ask(of.job.id, of.spec, iteration, members=members)
    assert done.state == "succeeded", done.reason


def file_of(of: Stage, iteration: int = 0) -> Artifact:
    with db.reading() as session:
        found = session.exec(select(Artifact).where(Artifact.job_id == of.job.id, Artifact.kind == "labels")).all()
        session.expunge_all()
        return next(row for row in found if row.data["iteration"] == iteration)


def words(of: Stage, iteration: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifacts.read_artifact(file_of(of, iteration)).splitlines()]


def lessons(of: Stage, learner: Learner, iteration: int = 0) -> Lessons:
    options = Options.of(of.spec)
    return gather(of.job.id, iteration, options.imitate, options.play, learner.loaded)


def learner_of(of: Stage, hand: Held, iteration: int = -1) -> Learner:
    """The job's learner as it stood after an update."""
    return hand.learner(settings(of.spec, str(of.base), ""), Runs(of.job.id).state(iteration))


def loss(learner: Learner, found: Lessons) -> float:
    samples = found.shown.of(found.samples)
    return learner.measure(samples, imitation, scale=1 / sum(len(sample.targets) for sample in samples)).loss


def put_aside(of: Stage, iteration: int, name: str) -> Path:
    """Have an update not done, and what it came to elsewhere."""
    folder = Runs(of.job.id).at(iteration)
    return folder.rename(folder.with_name(name))


def test_a_lesson_is_the_prompt_that_was_played_and_the_experts_reply_with_its_end(stage: Callable[..., Stage]) -> None:
    of = stage()
    ask(of)
    learner = learner_of(of, held())
    found, turns, told = lessons(of, learner), of.turns(), words(of)
    tokenizer: Any = learner.loaded.tokenizer
    assert len(found.samples) == len(turns) == len(told) == TURNS
    for sample, turn, word in zip(found.samples, turns, told, strict=True):
        asked = turn.prompt_ids or []
        assert sample.key == f"turn {turn.index} of episode {turn.episode_id}"
        assert list(sample.ids[: len(asked)]) == asked, "token by token what the model read"
        assert sample.targets == tuple(range(len(asked), len(sample.ids))), "nothing but the reply is learnt"
        assert tokenizer.decode(sample.ids[len(asked) :]) == word["actions"][0] + chat.END
        assert sample.logprobs is None
    (shown,) = found.shown.of(found.samples[:1])
    assert [picture.sha256 for picture in shown.pictures] == [turns[0].frame]


def test_a_round_learns_what_the_expert_says_and_tells_its_figures(stage: Callable[..., Stage]) -> None:
    of, hand = stage(), held()
    ask(of)
    before = loss(learner_of(of, hand), lessons(of, learner_of(of, hand)))
    told = of.update(0, held())
    figures = told["figures"]
    assert told["sha256"] != of.result(-1)["sha256"]
    assert (figures["lessons"], figures["samples_trained"], figures["optimizer_steps"]) == (TURNS, TURNS, 2.0)
    assert figures["learning_rate"] == ROUNDS["learning_rate"], "its own, without warm-up"
    assert figures["agreement"] == np.mean([word["said"] == word["actions"] for word in words(of)])
    assert "agreement/first" not in figures, "a reply holds one action"
    assert figures["entropy"] > 1.0
    assert 0 <= figures["accuracy"] <= 1
    assert figures["parity/kl"] < 1e-3, "engine and trainer are held to each other as ever"
    assert figures["kl_update"] > figures["parity/kl"]
    assert {"return", "achievements", "invalid_share", "seconds/train", "grad_norm", "tokens_per_s"} <= set(figures)
    assert (told["stop"], told["warnings"]) == (None, [])
    after = learner_of(of, hand, 0)
    assert loss(after, lessons(of, after)) < before


@pytest.mark.parametrize(("aggregate", "count"), [(True, 2 * TURNS), (False, TURNS)])
def test_a_later_round_learns_from_the_earlier_ones_too(stage: Callable[..., Stage], aggregate: bool, count: int) -> None:
    of, hand = stage(dagger={**ROUNDS, "aggregate": aggregate}), held()
    ask(of)
    of.update(0, hand)
    of.play(1)
    ask(of, 1)
    figures = of.update(1, hand)["figures"]
    assert (figures["lessons"], figures["samples"]) == (count, TURNS)
    assert figures["optimizer_steps"] == count / ROUNDS["batch_size"]
    found = lessons(of, learner_of(of, hand, 1), 1)
    seeds = {*of.spec.seeds_of(1), *(of.spec.seeds_of(0) if aggregate else ())}
    with db.reading() as session:
        query = "SELECT id FROM episode WHERE seed IN (" + ",".join(map(str, seeds)) + ")"
        episodes = {id for (id,) in session.connection().exec_driver_sql(query)}
    assert {sample.key.rpartition(" ")[2] for sample in found.samples} == episodes


def test_whoever_computes_it_again_comes_to_the_same_weights(stage: Callable[..., Stage]) -> None:
    """By a child that goes on, by a new one, and by one that was stopped half way; the files are equal byte by byte."""
    of, stop = stage(dagger={**ROUNDS, "epochs": 2}), threading.Event()
    ask(of)
    calm = held()
    learner_of(of, calm)
    undisturbed = of.update(0, calm)
    aside = put_aside(of, 0, "undisturbed")

    def stop_at_the_second_step(event: dict[str, Any]) -> None:
        if event["phase"] == "train" and event["done"]:
            stop.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.trainer.rl.phases.TOLD_S", 0.0)
        hand = Held(Alone(), stop)
        with pytest.raises(Cancelled):
            update.run(of.args(iteration=0, version=1), stop_at_the_second_step, hand)
    assert Runs(of.job.id).result(0) is None
    stop.clear()
    assert update.run(of.args(iteration=0, version=1), of.told.append, hand)["sha256"] == undisturbed["sha256"]
    for name in ("state/weights.safetensors", "state/optimizer.safetensors", "adapter/adapter_model.safetensors"):
        assert (Runs(of.job.id).at(0) / name).read_bytes() == (aside / name).read_bytes()
    write("DELETE FROM turn")
    assert of.update(0, held())["sha256"] == undisturbed["sha256"], "what is done is told, and not done again"


def test_the_first_update_from_rewards_has_an_optimizer_of_its_own(stage: Callable[..., Stage]) -> None:
    of, hand = stage(dagger={**ROUNDS, "rounds": 1}, training={"learning_rate": 3e-4}), held()
    ask(of)
    of.update(0, hand)
    state = Runs(of.job.id).state(0)
    assert {float(value) for name, value in load_file(state / "optimizer.safetensors").items() if name.endswith(":step")} == {2.0}
    of.play(1)
    figures = of.update(1, hand)["figures"]
    assert figures["learning_rate"] == 3e-4
    assert {"groups", "flat_share", "ratio_mean"} <= set(figures), "it learns from rewards"
    assert "agreement" not in figures
    state = Runs(of.job.id).state(1)
    assert {float(value) for name, value in load_file(state / "optimizer.safetensors").items() if name.endswith(":step")} == {1.0}
    aside = put_aside(of, 1, "undisturbed")
    assert of.update(1, held())["sha256"] == json.loads((aside / "result.json").read_text())["sha256"]


def test_turns_that_cannot_be_learnt_from_are_left_out_and_counted(stage: Callable[..., Stage]) -> None:
    of = stage()
    first, second, *_ = of.turns()
    with changed(first) as row:  # no engine answered
        row.outcome, row.prompt_ids, row.output_ids, row.logprobs = "engine_error", None, None, None
    with changed(second) as row:
        row.outcome = "parse_error"
    ask(of, members=3)
    told = of.update(0, held())
    figures = told["figures"]
    assert (figures["left_out/unasked"], figures["left_out/unlabelled"], figures["left_out/too_long"]) == (1.0, 8.0, 0.0)
    assert figures["lessons"] == TURNS - 9, "a turn whose reply could not be read is a lesson like any other"
    assert told["warnings"] == ["8 turns have no word of the expert's, and are left out"]
    said = [word["said"] == word["actions"] for word in words(of) if word["said"] is not None]
    assert len(said) == TURNS - 9
    assert figures["agreement"] == np.mean(said)


def test_a_reply_that_play_would_cut_off_is_not_taught(stage: Callable[..., Stage], tiny_model: Path) -> None:
    of = stage(rollout={"reply_format": "tool_call"})
    ask(of)
    assert words(of)[0]["message"]["tool_calls"][0]["function"]["name"] == "interact_many"
    sentence = r"32 replies of the expert, of up to \d\d tokens, do not fit: rollout\.policy_config\.max_tokens is 3, .* raise it"
    with pytest.raises(StepFailed, match=sentence):
        of.update(0, held())
    assert Runs(of.job.id).result(0) is None


def test_where_nothing_was_asked_nothing_is_learnt_and_it_is_said(stage: Callable[..., Stage]) -> None:
    told = stage().update(0, held())
    figures = told["figures"]
    assert (figures["lessons"], figures["optimizer_steps"], figures["left_out/unlabelled"]) == (0.0, 0.0, TURNS)
    assert told["warnings"] == [
        "32 turns have no word of the expert's, and are left out",
        "update 0 has nothing to imitate; the adapter stays as it is",
    ]
    assert "agreement" not in figures


def test_words_that_were_changed_are_not_learnt(stage: Callable[..., Stage]) -> None:
    of = stage()
    ask(of)
    (file,) = Path(get_settings().artifacts).rglob("*labels-0-0.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"do"', b'"up"'))
    with pytest.raises(ArtifactDamaged):
        of.update(0, held())


def test_gates_on_what_moves_do_not_end_a_round(stage: Callable[..., Stage]) -> None:
    of = stage(gates={"min_entropy": 50.0, "max_kl": 1e-9, "max_invalid_share": 0.01})
    ask(of)
    told = of.update(0, held())
    assert told["figures"]["invalid_share"] > 0.01
    assert told["stop"] is None


@pytest.mark.parametrize(
    ("said", "whole", "first"), [(("do", "do"), 1.0, 1.0), (("do",), 0.0, 1.0), (("noop", "do"), 0.0, 0.0), ((), 0.0, 0.0)]
)
def test_where_a_reply_may_hold_several_actions_its_first_is_compared_too(said: Any, whole: float, first: float) -> None:
    stored = type("Turn", (), {"episode_id": "e", "index": 0})()
    word = imitate.Word(message={}, actions=("do", "do"), said=said)
    told = imitate._agreement([stored], {("e", 0): word}, several=True)
    assert told == {"agreement": whole, "agreement/first": first}

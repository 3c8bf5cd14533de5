"""One update: it is what its samples and its checkpoint say, whoever computes it and however often; and what stops it."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core.kit import write

pytest.importorskip("torch", reason="the trainer needs the extra 'model'")

from safetensors.numpy import load_file
from trainer.rl_kit import Stage, begun, changed, held, spec_of

from app.errors import StepFailed
from app.model_folder import adapter_sha256
from workers.model.images import ImageReader
from workers.trainer.child.held import Cancelled, Held
from workers.trainer.child.ranks import Alone
from workers.trainer.objective.advantages import estimate
from workers.trainer.objective.values import OTHER
from workers.trainer.rl import past, update
from workers.trainer.rl.collect import collect
from workers.trainer.rl.doubts import distance, spread
from workers.trainer.rl.options import Options, settings
from workers.trainer.rl.runs import Runs
from workers.trainer.samples import Sample

pytestmark = [pytest.mark.usefixtures("sqlite_store"), pytest.mark.vision]

SHORT = {"rules": "none", "max_actions": 1, "max_tokens": 1, "image_only_mode": True}
EXACT = 1e-3
"""Most KL between engine and trainer of the same weights, on a CPU in float32; 1e-12 is what is measured."""


@pytest.fixture
def stage(tiny_model: Path, own_home: Path, sqlite_store: str) -> Callable[..., Stage]:
    """Makes a job whose first iteration was played; tables may say anything but how."""
    return partial(begun, tiny_model, own_home)


def weights(told: dict[str, Any]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(Path(told["path"]) / "adapter_model.safetensors")
    return found


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two adapters' weights."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def test_training_begins_with_an_adapter_that_changes_nothing(tiny_model: Path) -> None:
    of = Stage(tiny_model, spec_of(tiny_model))
    told = of.begin(held())
    assert told["sha256"] == adapter_sha256(Path(told["path"]))
    assert not any(weight.any() for name, weight in weights(told).items() if ".lora_B." in name)
    assert of.begin(held()) == told, "asked twice, it is told again"
    assert sorted(path.name for path in Path(told["path"]).parents[0].iterdir()) == ["adapter", "result.json", "state"]


def test_training_begins_with_the_adapter_that_it_is_given(tiny_model: Path, stage: Callable[..., Stage]) -> None:
    made = stage().update(0, held())
    of = Stage(tiny_model, spec_of(tiny_model))
    told = update.begin(of.args(adapter=made["path"]), of.told.append, held())
    assert apart(told, made) == 0.0


def test_an_update_learns_and_tells_its_figures(stage: Callable[..., Stage]) -> None:
    of = stage()
    begun, made = of.result(-1), of.update(0, held())
    figures = made["figures"]
    assert made["sha256"] == adapter_sha256(Path(made["path"])) != begun["sha256"]
    assert figures["parity/kl"] < EXACT
    assert figures["parity/difference_max"] < 1e-4
    assert (figures["optimizer_steps"], figures["samples"], figures["groups"]) == (1.0, 32.0, 2.0)
    assert figures["grad_norm"] > 0
    assert figures["clip_share"] == 0.0, "nothing has moved before the first step"
    assert figures["ratio_mean"] == pytest.approx(1.0, abs=1e-4)
    assert figures["entropy"] > 1.0
    assert figures["blank_difference"] > 1e-6
    assert figures["kl_update"] > figures["parity/kl"], "the step moved the policy"
    assert {"seconds/load", "seconds/collect", "seconds/check", "seconds/train", "seconds/save", "memory/peak_mib"} <= set(
        figures
    )
    assert (made["stop"], made["warnings"]) == (None, [])
    assert {event["phase"] for event in of.told} >= {"load", "collect", "check", "train", "save"}


def test_what_did_better_than_expected_becomes_likelier(stage: Callable[..., Stage]) -> None:
    of, hand = stage(), held()
    options, images = Options.of(of.spec), ImageReader.of(of.base)
    learner = hand.learner(settings(of.spec, str(of.base), ""))
    found = collect(of.job.id, 0, options.play, version=1, images=images, image_id=learner.loaded.image_id)
    worth = [estimate(options.estimator, group, options.advantages) for group in found.groups]
    signs = np.array([worth[place.group].advantages[place.episode][place.turn] for place in found.places])
    seen = found.shown.of(found.samples)
    then = np.array([values.sum() for values in learner.logprobs(seen)])
    of.update(0, hand)
    now = np.array([values.sum() for values in hand.learner(learner.settings, Runs(of.job.id).state(0)).logprobs(seen)])
    assert (signs * (now - then)).sum() > 0


def test_play_may_be_valued_by_the_states_that_the_model_saw(stage: Callable[..., Stage]) -> None:
    of = stage(algorithm={"estimator": "gae", "discount": 0.9, "gae_lambda": 1.0})
    made = of.update(0, held())
    figures = made["figures"]
    assert figures["value_explained"] < 1.0
    assert figures["seconds/value"] > 0
    assert (figures["optimizer_steps"], figures["samples_trained"]) == (1.0, 32.0)
    state = Runs(of.job.id).state(0)
    (kept,) = past.read(state, 0.9)
    assert (kept.states.shape[0], kept.turns.max()) == (32, 3)
    assert set(kept.togo) - {OTHER} == set(kept.had), "what a turn unlocked came with its reward"
    assert past.read(state, 0.8) == [], "rewards that are discounted otherwise are other rewards"
    write('UPDATE turn SET prompt_ids = NULL WHERE "index" = 1')
    again = Stage(of.base, of.spec, of.job)
    Runs(of.job.id).at(0).rename(Runs(of.job.id).at(0).with_name("whole"))
    fewer = again.update(0, held())["figures"]
    assert (fewer["left_out/no_tokens"], fewer["samples_trained"]) == (8.0, 24.0), (
        "a turn without a sample has the last one's state"
    )


def test_an_update_that_is_done_is_told_and_not_done_again(stage: Callable[..., Stage]) -> None:
    of = stage()
    told = of.update(0, held())
    write("DELETE FROM turn")
    assert of.update(0, held()) == told


def test_a_child_that_was_killed_goes_on_to_the_same_weights(stage: Callable[..., Stage]) -> None:
    """Acceptance: weights after update 1 are equal, to the hash, with and without a new process between."""
    calm, hand = stage(), held()
    calm.update(0, hand)
    calm.play(1)
    undisturbed = calm.update(1, hand)
    final = Runs(calm.job.id).at(1)
    final.rename(final.with_name("undisturbed"))
    again = calm.update(1, held())
    assert again["sha256"] == undisturbed["sha256"]
    state = "state/weights.safetensors", "state/optimizer.safetensors"
    for name in state:
        assert (final / name).read_bytes() == (final.with_name("undisturbed") / name).read_bytes()


def test_what_broke_off_while_it_was_saved_is_done_anew(stage: Callable[..., Stage]) -> None:
    of = stage()
    broken = Runs(of.job.id).at(0).with_name(".iter-0") / "state"
    broken.mkdir(parents=True)
    (broken / "weights.safetensors").write_bytes(b"half")
    assert of.update(0, held())["figures"]["optimizer_steps"] == 1.0


def test_an_update_that_was_stopped_half_way_is_done_anew_from_its_checkpoint(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    of, stop = stage(training={"updates_per_iteration": 4}), threading.Event()
    hand = Held(Alone(), stop)
    args = of.args(iteration=0, version=1)

    def stop_at_the_second_step(event: dict[str, Any]) -> None:
        if event["phase"] == "train" and event["done"]:
            stop.set()

    monkeypatch.setattr("workers.trainer.rl.phases.TOLD_S", 0.0)
    with pytest.raises(Cancelled):
        update.run(args, stop_at_the_second_step, hand)
    assert Runs(of.job.id).result(0) is None
    stop.clear()
    again = update.run(args, of.told.append, hand)
    final = Runs(of.job.id).at(0)
    final.rename(final.with_name("again"))
    assert of.update(0, held())["sha256"] == again["sha256"]


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 4}, {"tokens_per_pass": 64}])
def test_how_samples_are_cut_changes_nothing_that_is_learnt(stage: Callable[..., Stage], changes: dict[str, Any]) -> None:
    of = stage()
    told = of.update(0, held())
    final = Runs(of.job.id).at(0)
    final.rename(final.with_name("whole"))
    told = {**told, "path": str(final.with_name("whole") / "adapter")}
    of.spec = spec_of(of.base, training=changes)
    cut = of.update(0, held())
    assert cut["figures"]["loss"] == pytest.approx(told["figures"]["loss"], rel=1e-4, abs=1e-7)
    assert cut["figures"]["grad_norm"] == pytest.approx(told["figures"]["grad_norm"], rel=1e-4)
    # Adam's first step is the sign of the gradient, so that what is all but 0 may turn; nearly all else agrees
    one, other = weights(told), weights(cut)
    far = np.concatenate([np.abs(one[name] - other[name]).ravel() > 1e-4 for name in one])
    assert far.mean() < 0.01


@pytest.mark.parametrize(("count", "wanted"), [(1, 1.0), (2, 2.0), (4, 4.0)])
def test_an_iteration_is_cut_into_as_many_steps_as_the_spec_says(stage: Callable[..., Stage], count: int, wanted: float) -> None:
    of = stage(training={"updates_per_iteration": count, "passes": 1})
    assert of.update(0, held())["figures"]["optimizer_steps"] == wanted


def test_a_second_pass_meets_a_policy_that_has_moved(stage: Callable[..., Stage]) -> None:
    of = stage(training={"passes": 4, "learning_rate": 0.05})
    figures = of.update(0, held())["figures"]
    assert figures["optimizer_steps"] == 4.0
    assert figures["clip_share"] > 0.0
    assert figures["ratio_max"] > 1.28


def test_where_all_did_alike_nothing_is_learnt_and_it_is_said(stage: Callable[..., Stage]) -> None:
    of = stage()
    write("UPDATE turn SET reward = 0.25")
    told = of.update(0, held())
    assert apart(told, of.result(-1)) == 0.0
    assert told["figures"]["optimizer_steps"] == 0.0
    assert told["figures"]["flat_share"] == 1.0
    assert told["warnings"] == [
        "update 0 has nothing to learn from: in all 2 groups every turn did as well as was expected; the adapter stays as it is"
    ]


def test_where_all_is_stale_nothing_is_learnt_and_nothing_waits(stage: Callable[..., Stage]) -> None:
    of = stage()
    of.update(0, held())
    of.play(1, number=1)  # by an adapter that is one update old, and the bound is 0
    told = of.update(1, held())
    assert told["sha256"] == of.result(0)["sha256"]
    assert told["figures"]["left_out/stale"] == 32.0
    assert told["warnings"] == ["update 1 has nothing to learn from: no samples (32 stale); the adapter stays as it is"]


def test_stale_samples_within_the_bound_are_weighed_by_the_trainers_own_probabilities(stage: Callable[..., Stage]) -> None:
    of = stage(training={"staleness": 1})
    of.update(0, held())
    of.play(1, adapter=Path(of.result(-1)["path"]), number=1)
    told = of.update(1, held())
    assert told["figures"]["staleness/1"] == 32.0
    assert told["figures"]["seconds/score"] > 0.0, "the sampler's are another policy's"
    assert told["figures"]["ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert told["figures"]["kl_sampler_k3"] > 1e-5
    assert "parity/kl" not in told["figures"], "there is nothing that both sides have the same weights for"


def shift(of: Stage, by: float, iteration: int = 0) -> None:
    """Have the sampler tell other log-probabilities than it had."""
    for turn in of.turns(iteration):
        with changed(turn) as row:
            row.logprobs = [value + by * (-1) ** at for at, value in enumerate(row.logprobs or ())]


def test_an_engine_that_serves_another_model_stops_the_job_before_its_first_update(stage: Callable[..., Stage]) -> None:
    of = stage()
    shift(of, 0.7)
    with pytest.raises(StepFailed, match=r"engine and trainer do not agree: KL 0\.\d+ .* gates\.parity_stop = 0\.1"):
        of.update(0, held())
    assert Runs(of.job.id).result(0) is None


def test_later_a_difference_is_an_alarm(stage: Callable[..., Stage]) -> None:
    of = stage()
    of.update(0, held())
    of.play(1)
    shift(of, 0.7, iteration=1)
    told = of.update(1, held())
    assert told["figures"]["parity/kl"] > 0.1
    assert [warning.partition(":")[0] for warning in told["warnings"]] == ["engine and trainer do not agree"]
    assert told["figures"]["seconds/score"] > 0.0, "the sampler's word is not taken then"


def test_a_small_difference_is_told_from_the_first_update_on(stage: Callable[..., Stage]) -> None:
    of = stage()
    shift(of, 0.25)
    told = of.update(0, held())
    assert 0.015 < told["figures"]["parity/kl"] < 0.1
    assert "from gates.parity_warn = 0.015 it is told" in told["warnings"][0]


@pytest.mark.parametrize(
    ("gates", "sentence"),
    [
        ({"min_entropy": 50.0}, r"the mean entropy of a token is \d\.\d+, below gates\.min_entropy = 50"),
        ({"max_kl": 1e-9}, r"the distance \(KL\) of the new policy .* is .*, above gates\.max_kl = 1e-09"),
        ({"max_invalid_share": 0.01}, r"the share of replies that cannot be read is .*, above gates\.max_invalid_share = 0\.01"),
    ],
)
def test_gates_say_why_training_should_stop(stage: Callable[..., Stage], gates: dict[str, float], sentence: str) -> None:
    told = stage(gates=gates).update(0, held())
    assert re.fullmatch(sentence, told["stop"])


def test_the_distance_from_the_base_is_measured_where_it_counts(stage: Callable[..., Stage]) -> None:
    of = stage(algorithm={"kl_beta": 0.01}, training={"passes": 2})
    figures = of.update(0, held())["figures"]
    assert figures["kl_base"] > 0.0
    assert figures["samples_trained"] == 64.0, "with it, what did as expected has a gradient too"


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo", "gspo", "gigpo"])
def test_every_estimator_learns(stage: Callable[..., Stage], estimator: str) -> None:
    told = stage(algorithm={"estimator": estimator}).update(0, held())
    assert told["figures"]["grad_norm"] > 0.0


def test_a_trainer_that_is_blind_does_not_train(stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    of = stage()
    monkeypatch.setattr("workers.trainer.rl.doubts._black", lambda picture, images: picture)
    with pytest.raises(StepFailed, match="the trainer does not see what it is shown, and would learn blind"):
        of.update(0, held())


def test_only_the_newest_states_are_kept_and_every_adapter(stage: Callable[..., Stage]) -> None:
    of, hand = stage(training={"iterations": 3}, checkpoint={"keep": 2}), held()
    for iteration in range(3):
        if iteration:
            of.play(iteration)
        of.update(iteration, hand)
    runs = Runs(of.job.id)
    assert [runs.state(i).is_dir() for i in range(-1, 3)] == [False, False, True, True]
    assert all(runs.adapter(i).is_dir() for i in range(-1, 3))
    assert runs.updates == 3


def sample(key: str, sampled: list[float]) -> Sample:
    count = len(sampled)
    ids, targets = tuple(range(1 + count)), tuple(range(1, 1 + count))
    return Sample(key=key, ids=ids, targets=targets, logprobs=np.array(sampled, np.float32))


def test_a_distance_is_between_the_samples_own_and_others() -> None:
    told = distance([sample("a", [-1.0, -2.0]), sample("b", [-0.5])], [np.array([-1.5, -2.0]), np.array([-0.25])])
    assert told is not None
    assert dataclasses.asdict(told) == pytest.approx(
        {
            "k1": (0.5 - 0.25) / 3,
            "k3": (np.exp(-0.5) - 1 + 0.5 + np.exp(0.25) - 1 - 0.25) / 3,
            "mean": 0.25,
            "largest": 0.5,
            "tokens": 3,
        }
    )
    assert distance([], []) is None
    assert spread([sample(str(i), [-1.0]) for i in range(5)], 3)[1].key == "2"


@pytest.mark.slow
def test_what_is_rewarded_comes_more_often(tiny_model: Path) -> None:
    """Twelve iterations of play and update. An adapter can only turn what this model says, which is near to uniform: the share
    that is rewarded rises from 1/2 to 2/3, and not beyond."""
    tables: dict[str, dict[str, Any]] = {
        "rollout": {"episodes_per_batch": 16, "max_concurrent_rollouts": 16, "policy_config": SHORT},
        "training": {"iterations": 12, "group_size": 8, "batch_size": 16, "passes": 2, "learning_rate": 0.03},
        "algorithm": {"discount": 0.01},
    }
    of, hand = Stage(tiny_model, spec_of(tiny_model, **tables)), held()
    of.begin(hand)
    shares = []
    for iteration in range(12):
        shares.append(of.play(iteration))
        of.update(iteration, hand)
    assert np.mean(shares[-4:]) > 0.6 > np.mean(shares[:2]), shares

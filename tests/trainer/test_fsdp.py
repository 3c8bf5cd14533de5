"""Two processes that train one model are one that trains it alone, whether each holds it whole or it is dealt out over them.

Two real processes, started as a trainer starts them, speak over gloo; what they come to is held to one learner in this process.
They are the same for all tests but those that end them, which come last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from core.kit import until, use_settings

from app.errors import ChildDied, ChildFailed, InvalidInput
from app.supervisor.state import identity
from workers.runner import Drain
from workers.trainer.resident import Resident

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="processes that train together need the extra 'model'")
pytest.importorskip("peft")

from learner_kit import imitate, train_together  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from sft_kit import Trained, lines, written  # noqa: E402
from shard_targets import CHOICES, STEPS, samples_of, scores, settings, trained  # noqa: E402

from app import model_folder  # noqa: E402
from workers.trainer.learner import Learner, Settings  # noqa: E402
from workers.trainer.learner.checkpoint import MOMENTS, WEIGHTS  # noqa: E402

TARGETS = "trainer.shard_targets"
TESTS = Path(__file__).resolve().parents[1]
LOSS, NORM, LOGPROB, WEIGHT = 1e-5, 1e-4, 2e-3, 2e-4
"""Tolerances: of loss and gradient norm relative, of log-probabilities and weights after three steps absolute. Sums over passes
are added in another order; Adam makes much of the smallest gradients."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Resident]:
    """A child of two processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS / "trainer"), str(TESTS), str(TESTS.parent)]))
        resident = Resident()
        yield resident
        resident.stop()


@pytest.fixture(autouse=True)
def two_devices(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What this process's settings ask for; no GPU, for two processes need two."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with use_settings(SYNTHQ_TRAINER_DEVICES="2"):
        yield


@dataclass(frozen=True)
class Two:
    """Has the two processes do something with a learner."""

    resident: Resident
    base: Path

    def __call__(self, target: str, mode: str, *, sharding: str = "fsdp", more: Any = None, **changes: Any) -> dict[str, Any]:
        args = {"base": str(self.base), "mode": mode, "changes": {"sharding": sharding, **changes}, **(more or {})}
        with self.resident.child() as child:
            return child.call(f"{TARGETS}:{target}", args)


@pytest.fixture
def two(pair: Resident, tiny_model: Path) -> Two:
    return Two(pair, tiny_model)


@pytest.fixture(scope="module")
def alone(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One process's training, by mode: what it told, its folder, and the gradients of an accumulation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for mode in CHOICES:
        folder = tmp_path_factory.mktemp(f"alone-{mode}")
        one = Learner(settings(tiny_model, mode))
        told = trained(one, range(STEPS))
        told["logprobs"] = scores(one)
        one.save(folder / "checkpoint")
        one.export(folder / "exported")
        found[mode] = {"told": told, "folder": folder, "bytes": one.bytes_held}
    yield found
    torch.set_num_threads(threads)


@pytest.mark.parametrize("mode", list(CHOICES))
def test_two_processes_learn_what_one_does(two: Two, tiny_model: Path, tmp_path: Path, mode: str) -> None:
    torch.set_num_threads(1)
    alone = train_together(tiny_model, mode, tmp_path / "alone")
    first, second = two("together", mode, more={"folder": str(tmp_path / "both")})["each"]
    assert first == second
    assert first["steps"] == alone["steps"] == 3
    for mine, theirs in zip(alone["tallies"], first["tallies"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4)
    for mine, theirs in zip(alone["told"], first["told"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3)
    for mine, theirs in zip(alone["logprobs"], first["logprobs"], strict=True):
        assert theirs == pytest.approx(mine, abs=2e-3)
    assert alone["error"] == first["error"]


@pytest.mark.parametrize("mode", list(CHOICES))
def test_it_learns_what_one_process_and_two_whole_ones_learn(two: Two, alone: dict[str, Any], tmp_path: Path, mode: str) -> None:
    wanted, steps = alone[mode]["told"], {"steps": STEPS}
    whole = two("learn", mode, sharding="none", more=steps | {"folder": str(tmp_path / "whole")})
    dealt = two("learn", mode, more=steps | {"folder": str(tmp_path / "dealt")}, gradient_checkpointing=True)
    for told, folder in ((whole, tmp_path / "whole"), (dealt, tmp_path / "dealt")):
        for mine, theirs in zip(wanted["tallies"], told["tallies"], strict=True):
            assert theirs == pytest.approx(mine, rel=LOSS, abs=LOSS)
        for mine, theirs in zip(wanted["told"], told["told"], strict=True):
            assert theirs == pytest.approx(mine, rel=NORM)
        for mine, theirs in zip(wanted["logprobs"], told["logprobs"], strict=True):
            assert theirs == pytest.approx(mine, abs=LOGPROB)
        assert told["norm_of_nothing"] == 0
        for name in (WEIGHTS, MOMENTS):
            _near(alone[mode]["folder"] / "checkpoint" / name, folder / "checkpoint" / name)
    if mode == "lora":
        assert dealt["sha256"] == whole["sha256"], "an adapter's gradients are added up alike"
    _loads(tmp_path / "dealt" / "exported", mode)


def _near(one: Path, other: Path) -> None:
    """The same tensors, whole, in another checkpoint."""
    mine, theirs = load_file(one), load_file(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.shape == theirs[name].shape, name
        assert torch.allclose(tensor, theirs[name], rtol=1e-2, atol=WEIGHT * (1 + float(tensor.abs().max()))), name


def _loads(folder: Path, mode: str) -> None:
    """What came out is a plain folder, as the one of a process alone is."""
    from peft import PeftConfig
    from transformers import Qwen3VLForConditionalGeneration

    found = model_folder.read(folder)
    assert isinstance(found, model_folder.BaseFolder if mode == "full" else model_folder.AdapterFolder)
    if mode == "lora":
        assert PeftConfig.from_pretrained(str(folder)).r == 4
        return
    model, report = Qwen3VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert type(next(model.parameters())) is torch.nn.Parameter


@pytest.mark.parametrize("mode", list(CHOICES))
def test_gradients_are_those_of_one_process_and_memory_is_about_half(
    two: Two, alone: dict[str, Any], tiny_model: Path, tmp_path: Path, mode: str
) -> None:
    told = two("look", mode, more={"file": str(tmp_path / "grads.pt")})
    one = Learner(settings(tiny_model, mode))
    one.accumulate(samples_of(one, 2), imitate, scale=1 / 15)
    wanted = {name: weight.grad for name, weight in one.loaded.model.named_parameters() if weight.grad is not None}
    found = torch.load(tmp_path / "grads.pt")
    weights = dict(one.loaded.model.named_parameters())
    if mode == "full":  # an adapter's are added up when the step is taken
        assert found.keys() == wanted.keys()
        most = max(float(grad.abs().max()) for grad in wanted.values())
        for name, grad in wanted.items():
            assert torch.allclose(found[name], grad, rtol=1e-4, atol=1e-6 * most), name
    expected = {name for name in weights if mode == "full" or not ("lora_" in name or "visual" in name)}
    assert set(told["dealt"]) == expected
    _about_half(told["bytes"], one, alone[mode]["bytes"], expected)


def _about_half(told: dict[str, int], one: Learner, alone: dict[str, int], dealt: set[str]) -> None:
    """What two processes hold of what is dealt out, to the bytes that a weight of an odd number of rows has more."""
    weights = dict(one.loaded.model.named_parameters())
    whole = sum(weight.nbytes for name, weight in weights.items() if name not in dealt)
    parts = sum(-(-weight.shape[0] // 2) * (weight[0].nbytes) for name, weight in weights.items() if name in dealt)
    assert told["weights"] == whole + parts
    assert told["weights"] < 0.75 * alone["weights"]
    if whole == 0:
        assert told["gradients"] == parts
        assert told["optimizer"] < 0.51 * alone["optimizer"]


@pytest.mark.parametrize("mode", list(CHOICES))
def test_a_training_that_goes_on_from_a_checkpoint_is_one_that_was_never_stopped(two: Two, tmp_path: Path, mode: str) -> None:
    def learn(steps: int, folder: str, at: str = "") -> dict[str, Any]:
        return two("learn", mode, more={"steps": steps, "folder": str(tmp_path / folder), "at": at and str(tmp_path / at)})

    undisturbed = learn(3, "whole")
    learn(1, "part")
    resumed = learn(3, "rest", at="part/checkpoint")

    assert resumed["tallies"] == undisturbed["tallies"][1:]
    assert resumed["told"] == undisturbed["told"][1:]
    assert resumed["sha256"] == undisturbed["sha256"]
    for name in (WEIGHTS, MOMENTS):
        assert (tmp_path / "rest/checkpoint" / name).read_bytes() == (tmp_path / "whole/checkpoint" / name).read_bytes()


def test_one_process_goes_on_from_the_checkpoint_of_two(
    two: Two, alone: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    two("learn", "full", more={"steps": 2, "folder": str(tmp_path)})
    one = Learner(settings(tiny_model, "full"))
    one.restore(tmp_path / "checkpoint")
    told = trained(one, range(2, 3))
    assert told["tallies"][0] == pytest.approx(alone["full"]["told"]["tallies"][2], rel=1e-3)


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_a_job_is_trained_as_by_one_is_stopped_and_goes_on(
    pair: Resident, tiny_model: Path, tmp_path: Path, sharding: str
) -> None:
    train = written(tmp_path / "train.jsonl", lines(16))
    table: dict[str, Any] = {"max_steps": 4, "checkpoint_steps": 1, "tokens_per_pass": 64, "validation": {"fraction": 0.25}}
    alone = Trained(tiny_model, train, tmp_path / "alone", **table)
    alone.run()
    both = Trained(tiny_model, train, tmp_path / "both", sharding=sharding, **table)

    def stop() -> None:
        if any("checkpoint" in event for event in both.told):
            raise Drain("enough for now")

    with pair.child() as child, pytest.raises(Drain):
        child.call("workers.trainer.sft.loop:run", both.args, on_event=both.told.append, check=stop)
    with pair.child() as child:
        result = child.call("workers.trainer.sft.loop:run", both.args, on_event=both.told.append)
    assert (result["processes"], result["sharding"], result["resumed_at"] > 0) == (2, sharding, True)
    for scope in ("train", "val"):
        wanted, found = alone.rows(scope), both.rows(scope)
        assert sorted(found) == sorted(wanted)
        for step, row in wanted.items():
            assert found[step]["loss"] == pytest.approx(row["loss"], rel=1e-4)
            assert found[step]["accuracy"] == pytest.approx(row["accuracy"])


def test_an_error_in_all_of_them_leaves_a_learner_that_goes_on(two: Two, tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="ValueError: no good"):
        two("stumble", "lora")
    again = two("learn", "lora", more={"steps": 1, "folder": str(tmp_path)})
    assert again["told"]


def test_an_error_in_one_of_them_ends_the_other_that_waits(two: Two) -> None:
    with pytest.raises(ChildDied, match=r"it was at trainer\.shard_targets:stumble"):
        two("stumble", "lora", more={"rank": 1})


def test_one_that_dies_in_the_middle_of_a_layer_ends_the_other_and_is_told(two: Two, pair: Resident) -> None:
    with pair.child() as child:
        before = child.call("trainer.child_targets:count")["pid"]
    with pytest.raises(ChildDied):
        two("die", "full")
    until(lambda: identity(before) is None, 30, "the one that waited is gone")


def test_one_process_alone_is_refused_and_so_are_weights_of_4_bits(tiny_model: Path) -> None:
    with pytest.raises(InvalidInput, match=r"trains on one; give it more \(SYNTHQ_TRAINER_DEVICES\)"):
        Learner(settings(tiny_model, "lora", sharding="fsdp"))
    with pytest.raises(InvalidInput, match="cannot deal out weights of 4 bits"):
        Settings(base=str(tiny_model), mode="qlora", sharding="fsdp")

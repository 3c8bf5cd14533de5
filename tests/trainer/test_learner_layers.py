"""An adapter changes layers of the language model, those that are asked for, and never the vision tower."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from learner_kit import imitate, learner, mixed  # noqa: E402

from app.errors import InvalidInput, NotHere  # noqa: E402
from workers.model.adapters import language_layers  # noqa: E402
from workers.trainer.learner import Learner, Lora  # noqa: E402


def changed(one: Learner) -> set[str]:
    """Layers with an adapter."""
    return {name.partition(".lora_")[0] for name, _ in one.loaded.model.named_parameters() if "lora_" in name}


def every(one: Learner, *parts: str) -> set[str]:
    return {name for name in language_layers(one.loaded.model.config) if name.endswith(parts)}


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ("all-linear", ("_proj",)),
        (("q_proj", "v_proj"), ("q_proj", "v_proj")),
        (("self_attn.o_proj",), ("o_proj",)),
        ("gate_proj", ("gate_proj",)),
        (r".*language_model.*\.(q|k)_proj", ("q_proj", "k_proj")),
    ],
)
def test_the_layers_that_are_asked_for_are_changed(tiny_model: Path, asked: Any, parts: tuple[str, ...]) -> None:
    one = learner(tiny_model, lora=Lora(r=2, alpha=2, target_modules=asked))
    assert changed(one) == every(one, *parts)


def test_single_layers_may_be_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    one = learner(tiny_model, lora=Lora(r=2, alpha=2, target_modules=("layers.1.mlp.up_proj", "k_proj")))
    assert changed(one) == every(one, "k_proj") | {"model.language_model.layers.1.mlp.up_proj"}
    one.export(tmp_path / "adapter")
    assert changed(learner(tiny_model, adapter=str(tmp_path / "adapter"))) == changed(one)


@pytest.mark.parametrize(("depths", "meant"), [((-1,), {3}), ((0, 2), {0, 2}), ((3, -2), {2, 3})])
def test_only_layers_of_some_depths_may_be_asked_for(tiny_model: Path, depths: tuple[int, ...], meant: set[int]) -> None:
    one = learner(tiny_model, lora=Lora(r=2, alpha=2, layers_to_transform=depths))
    assert changed(one) == {name for name in every(one, "_proj") if int(name.split(".")[3]) in meant}


def test_the_last_layer_alone_learns_and_comes_back(tiny_model: Path, tmp_path: Path) -> None:
    one = learner(tiny_model, lora=Lora(r=2, alpha=2, layers_to_transform=(-1,)))
    samples = mixed(one.loaded)
    before = one.logprobs(samples)
    one.accumulate(samples, imitate)
    one.step()
    after = one.logprobs(samples)
    assert max(float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True)) > 1e-4
    one.export(tmp_path / "adapter")
    again = learner(tiny_model, adapter=str(tmp_path / "adapter")).logprobs(samples)
    assert max(float(np.abs(a - b).max()) for a, b in zip(again, after, strict=True)) < 1e-6


@pytest.mark.parametrize(("depth", "said"), [(4, "4 is none of this model's 4 layers, -4 to 3"), (-5, "-5 is none of")])
def test_a_layer_that_is_not_there_is_refused(tiny_model: Path, depth: int, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        learner(tiny_model, lora=Lora(layers_to_transform=(depth,)))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("q_proj", "qkv"), "'qkv' names model.visual.blocks.0.attn.qkv of the vision tower"),
        (("linear_fc1",), "of the vision tower"),
        (".*", "of the vision tower"),
        (r".*\.(q_proj|proj)", "of the vision tower"),
        (("lm_head",), "'lm_head' names lm_head; adapters are for"),
        (r".*language_model.*", "names model.language_model; adapters are for"),
        (("q_porj",), "'q_porj' names no layer"),
        ("(", "neither a name nor a regular expression"),
        ((), "target_modules is empty"),
    ],
)
def test_what_no_adapter_may_change_is_refused(tiny_model: Path, asked: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as told:
        learner(tiny_model, lora=Lora(target_modules=asked))
    assert said in str(told.value)


def test_four_bits_without_their_package_are_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(NotHere, match=r"needs the package bitsandbytes.*'\.\[qlora\]'"):
        learner(tiny_model, mode="qlora")


def test_an_adapter_beside_weights_of_four_bits_learns(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="trainer mode qlora needs bitsandbytes")
    one = learner(tiny_model, mode="qlora", dtype="float32")
    samples = mixed(one.loaded)
    base = np.concatenate(one.logprobs(samples))
    whole = np.concatenate(learner(tiny_model).logprobs(samples))
    assert 0 < np.abs(base - whole).mean() < 0.5, "weights of four bits are near those that they are made from, and not the same"
    losses = []
    for _ in range(8):
        losses.append(one.accumulate(samples, imitate, scale=1 / 25).loss)
        one.step()
    assert losses[-1] < 0.6 * losses[0]
    assert np.array_equal(np.concatenate(one.logprobs(samples, base=True)), base)
    one.save(tmp_path / "checkpoint")
    again = learner(tiny_model, mode="qlora", dtype="float32")
    again.restore(tmp_path / "checkpoint")
    assert again.export(tmp_path / "again") == one.export(tmp_path / "adapter")
    assert changed(learner(tiny_model, adapter=str(tmp_path / "adapter"))) == changed(one)

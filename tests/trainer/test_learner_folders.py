"""A learner that is stopped and restored goes on as if nothing had happened; what it exports is what others read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from learner_kit import TOLERANCE, imitate, learner, mixed, plain_logprobs, sample  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration  # noqa: E402

from app import model_folder, weights  # noqa: E402
from app.errors import BadModel, InvalidInput  # noqa: E402
from workers.model.loading import load  # noqa: E402
from workers.trainer.learner import Learner, Lora, checkpoint  # noqa: E402


def train(one: Learner, plain: Any, steps: range) -> list[dict[str, float]]:
    """Steps whose samples depend on their number alone; one picture comes in all of them, beside others each time."""
    told = []
    for step in steps:
        one.accumulate([sample(plain, 1), *(sample(plain, 50 + i) for i in range(step % 3))], imitate)
        for half in range(2):
            one.accumulate([sample(plain, 100 * step + 10 * half + i, tokens=10 + 5 * i) for i in range(3)], imitate)
        told.append(one.step())
    return told


SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"mode": "lora", "lora": Lora(r=4, alpha=8, dropout=0.3), "weight_decay": 0.01},
    "full": {"mode": "full", "learning_rate": 1e-3, "weight_decay": 0.01},
}
SCHEDULE: dict[str, Any] = {"warmup_steps": 2, "total_steps": 6, "schedule": "cosine", "tokens_per_pass": 60}


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_restored_learner_takes_the_same_steps_to_the_bit(tiny_model: Path, plain: Any, tmp_path: Path, mode: str) -> None:
    undisturbed = learner(tiny_model, **SETTINGS[mode], **SCHEDULE)
    train(undisturbed, plain, range(3))
    undisturbed.save(tmp_path / "three", {"epoch": 1, "seen": ["a"]})
    assert len(undisturbed._sights.cache) == 0, "a restored one computes anew what this one would take as it was computed"
    rest = train(undisturbed, plain, range(3, 6))

    restored = learner(tiny_model, **SETTINGS[mode], **SCHEDULE)
    train(restored, plain, range(7, 8))  # whatever it did before is gone
    restored.accumulate([sample(plain, 1)], imitate)
    assert restored.restore(tmp_path / "three") == {"epoch": 1, "seen": ["a"]}
    assert restored.steps == 3
    assert train(restored, plain, range(3, 6)) == rest
    assert restored.export(tmp_path / "restored") == undisturbed.export(tmp_path / "undisturbed")
    undisturbed.save(tmp_path / "six")
    restored.save(tmp_path / "six again")
    for file in sorted((tmp_path / "six").iterdir()):
        assert file.read_bytes() == (tmp_path / "six again" / file.name).read_bytes(), file.name


def test_what_is_saved_is_whole_under_its_name_alone(
    tiny_model: Path, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = learner(tiny_model)
    train(one, plain, range(1))
    monkeypatch.setattr(checkpoint, "settle", _fail)
    with pytest.raises(OSError, match="the disk is gone"):
        one.save(tmp_path / "here")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    one.save(tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "learner.json",
        "optimizer.safetensors",
        "weights.safetensors",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    with pytest.raises(InvalidInput, match="is not empty"):
        one.save(tmp_path / "here")


def test_gradients_that_wait_for_a_step_are_not_saved(tiny_model: Path, plain: Any, tmp_path: Path) -> None:
    one = learner(tiny_model)
    one.accumulate([sample(plain, 1)], imitate)
    with pytest.raises(InvalidInput, match="step before saving"):
        one.save(tmp_path / "here")


def test_a_learner_before_its_first_step_can_be_saved(tiny_model: Path, plain: Any, tmp_path: Path) -> None:
    learner(tiny_model, seed=3).save(tmp_path / "here")
    other = learner(tiny_model, seed=4)
    assert other.restore(tmp_path / "here") == {}
    assert other.export(tmp_path / "one") == learner(tiny_model, seed=3).export(tmp_path / "other")


def _of_another_rank(folder: Path, tiny: Path) -> dict[str, Any]:
    return {"lora": Lora(r=8, alpha=16)}


def _of_another_scale(folder: Path, tiny: Path) -> dict[str, Any]:
    return {"lora": Lora(r=4, alpha=16)}


def _of_other_layers(folder: Path, tiny: Path) -> dict[str, Any]:
    return {"lora": Lora(r=4, alpha=8, target_modules=("q_proj",))}


def _of_another_mode(folder: Path, tiny: Path) -> dict[str, Any]:
    return {"mode": "full"}


def _cut_short(folder: Path, tiny: Path) -> dict[str, Any]:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return {}


def _of_another_base(folder: Path, tiny: Path) -> dict[str, Any]:
    facts = json.loads((folder / "learner.json").read_text())
    (folder / "learner.json").write_text(json.dumps(facts | {"base_sha256": "00"}))
    return {}


def _without_facts(folder: Path, tiny: Path) -> dict[str, Any]:
    (folder / "learner.json").unlink()
    return {}


def _of_a_later_release(folder: Path, tiny: Path) -> dict[str, Any]:
    facts = json.loads((folder / "learner.json").read_text())
    (folder / "learner.json").write_text(json.dumps(facts | {"format": 99}))
    return {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_of_another_rank, r"is \[4, \d+\] there and \[8, \d+\] here"),
        (_of_another_scale, "its scale is 2.0, and here it is 4.0"),
        (_of_other_layers, "weights are in one of the two only"),
        (_of_another_mode, "its mode is 'lora', and here it is 'full'"),
        (_of_another_base, "its base_sha256 is '00'"),
        (_cut_short, "is damaged: .* it was cut short"),
        (_without_facts, "has no learner.json"),
        (_of_a_later_release, "format is 99, and this release reads 1"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(
    tiny_model: Path, plain: Any, tmp_path: Path, change: Callable[[Path, Path], dict[str, Any]], said: str
) -> None:
    one = learner(tiny_model)
    train(one, plain, range(1))
    one.save(tmp_path / "here")
    other = learner(tiny_model, **{"lora": Lora(r=4, alpha=8), **change(tmp_path / "here", tiny_model)})
    before = {name: weight.clone() for name, weight in other.loaded.model.named_parameters()}
    with pytest.raises(BadModel, match=said):
        other.restore(tmp_path / "here")
    assert all(torch.equal(weight, before[name]) for name, weight in other.loaded.model.named_parameters())


def test_an_exported_adapter_is_what_plain_peft_reads(tiny_model: Path, plain: Any, tmp_path: Path) -> None:
    one, samples = learner(tiny_model), mixed(plain)
    train(one, plain, range(3))
    sha256 = one.export(tmp_path / "adapter")
    assert sha256 == model_folder.adapter_sha256(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8, True)
    base = load(tiny_model, device="cpu")
    theirs = PeftModel.from_pretrained(base.model, tmp_path / "adapter").eval()
    for each, told in zip(samples, one.logprobs(samples), strict=True):
        assert np.abs(told - plain_logprobs(theirs.base_model.model, base, each)).max() < TOLERANCE
    assert np.abs(one.logprobs(samples)[0] - plain_logprobs(plain.model, plain, samples[0])).max() > 0.01
    one.accumulate([sample(plain, 1)], imitate)  # it trains on afterwards
    assert one.step()["grad_norm"] > 0


def test_an_adapter_that_changes_nothing_yet_is_exported_too(tiny_model: Path, plain: Any, tmp_path: Path) -> None:
    one = learner(tiny_model)
    one.export(tmp_path / "adapter")
    held = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(held) == 4 * 7 * 2
    assert all(not bool(weight.any()) for name, weight in held.items() if "lora_B" in name)
    with pytest.raises(InvalidInput, match="is not empty"):
        one.export(tmp_path / "adapter")


def test_a_learner_that_begins_from_an_adapter_is_where_that_was(tiny_model: Path, plain: Any, tmp_path: Path) -> None:
    first = learner(tiny_model, lora=Lora(r=4, alpha=6, target_modules=("q_proj", "down_proj")))
    train(first, plain, range(2))
    sha256 = first.export(tmp_path / "adapter")
    first.forget_seen()  # a picture that was seen beside others may differ in the last digit
    samples = mixed(plain)
    second = learner(tiny_model, adapter=str(tmp_path / "adapter"), lora=Lora(r=32, alpha=1))
    assert all(np.array_equal(a, b) for a, b in zip(first.logprobs(samples), second.logprobs(samples), strict=True))
    assert second.export(tmp_path / "again") == sha256
    second.accumulate(samples, imitate)
    second.step()
    assert second.export(tmp_path / "later") != sha256
    for now, then in zip(second.logprobs(samples, base=True), samples, strict=True):
        assert np.abs(now - plain_logprobs(plain.model, plain, then)).max() < TOLERANCE


def test_an_adapter_with_weights_of_the_vision_tower_is_no_beginning(tiny_model: Path, plain: Any, tmp_path: Path) -> None:
    learner(tiny_model).export(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    held = load_file(path)
    held["base_model.model.model.visual.blocks.0.attn.qkv.lora_A.weight"] = torch.zeros(4, 32)
    save_file(held, path, metadata={"format": "pt"})
    with pytest.raises(BadModel, match="changes the vision tower"):
        learner(tiny_model, adapter=str(tmp_path / "adapter"))


def test_an_exported_model_is_what_plain_transformers_reads(tiny_model: Path, plain: Any, tmp_path: Path) -> None:
    one, samples = learner(tiny_model, mode="full", learning_rate=1e-3), mixed(plain)
    train(one, plain, range(2))
    sha256 = one.export(tmp_path / "model")
    assert sha256 == weights.sha256(tmp_path / "model")
    assert sha256 != plain.sha256
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab() == plain.tokenizer.get_vocab()
    theirs = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    for each, told in zip(samples, one.logprobs(samples), strict=True):
        assert np.abs(told - plain_logprobs(theirs, plain, each)).max() < TOLERANCE
    held, base = weights.tensors(tmp_path / "model"), weights.tensors(tiny_model)
    assert held == base
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "preprocessor_config.json", "generation_config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (tiny_model / name).read_bytes(), name
    again = learner(tmp_path / "model", mode="full")
    assert all(np.array_equal(a, b) for a, b in zip(one.logprobs(samples), again.logprobs(samples), strict=True))
    lineage = json.loads((tmp_path / "model" / "synthq.json").read_text())
    assert (lineage["kind"], lineage["optimizer_steps"], lineage["sha256"]) == ("trained", 2, sha256)
    assert lineage["base"]["sha256"] == plain.sha256


def test_a_model_is_exported_in_its_base_s_own_precision(tiny_model: Path, plain: Any, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(tiny_model, half)
    loaded = load(tiny_model, device="cpu")
    loaded.model.to(torch.bfloat16).save_pretrained(half)
    one = learner(half, mode="full", learning_rate=1e-3)
    train(one, plain, range(1))
    one.export(tmp_path / "model")
    assert {tensor.dtype for tensor in weights.tensors(tmp_path / "model").values()} == {"BF16"}
    again = load(tmp_path / "model", device="cpu", dtype="auto")
    assert model_folder.read(again.path).dtype == "bfloat16"


def _fail(folder: Path) -> None:
    raise OSError("the disk is gone")

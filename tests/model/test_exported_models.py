"""Models written as folders of their own; an adapter merged into its base computes what the two compute together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from core.kit import submit_noop
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from app import db, model_folder, weights
from app.errors import ArtifactNotFound, BadFlag, BadModel, InvalidInput
from app.models import Artifact
from app.settings import get_settings
from workers.model.export import export

TARGETS = r"^.*language_model.*\.(q|k|v|o|gate|up|down)_proj$"


def train(model: Qwen3VLForConditionalGeneration, folder: Path, **config: object) -> Path:
    """An adapter that changes something: its B is drawn, where peft begins with zeros."""
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": TARGETS, **config}))  # type: ignore[arg-type]
    drawn = torch.Generator().manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1, generator=drawn)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    return train(Qwen3VLForConditionalGeneration.from_pretrained(tiny_model), tmp_path / "adapter")


def logits(model: Any, **picture: torch.Tensor) -> torch.Tensor:
    """Of a few tokens, after a picture if there is one; float32 [tokens, vocab]."""
    ids = torch.tensor([[model.config.image_token_id] * 9 + list(range(40)) if picture else list(range(40))])
    types = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        found: torch.Tensor = model(
            input_ids=ids, mm_token_type_ids=types, attention_mask=torch.ones_like(ids), **picture
        ).logits[0]
    return found


def picture() -> dict[str, torch.Tensor]:
    """A frame of noise, 9 tokens long."""
    return {
        "pixel_values": torch.randn(81, 294, generator=torch.Generator().manual_seed(2)),
        "image_grid_thw": torch.tensor([[1, 9, 9]]),
    }


def test_a_merged_model_computes_what_base_and_adapter_compute(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    done = export(str(adapter), tmp_path / "merged", merge=True)
    assert (done.kind, done.layers) == ("merged", 4 * 7)
    base = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model)
    before = logits(base)
    together = logits(PeftModel.from_pretrained(base, adapter))
    merged = logits(Qwen3VLForConditionalGeneration.from_pretrained(done.path))
    torch.testing.assert_close(merged, together, atol=1e-4, rtol=1e-4)
    assert (merged - before).abs().max() > 0.05


def test_only_what_the_adapter_changes_is_changed(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    done = export(str(adapter), tmp_path / "merged", merge=True)
    before, after = load_file(tiny_model / "model.safetensors"), load_file(done.path / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    for file in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "preprocessor_config.json",
        "generation_config.json",
    ):
        assert (done.path / file).read_bytes() == (tiny_model / file).read_bytes()


def test_half_precision_is_rounded_once(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    Qwen3VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(base)
    folder = train(Qwen3VLForConditionalGeneration.from_pretrained(base), tmp_path / "adapter", use_rslora=True)
    done = export(str(folder), tmp_path / "merged", merge=True)
    before, after = load_file(base / "model.safetensors"), load_file(done.path / "model.safetensors")
    halves = load_file(folder / "adapter_model.safetensors")
    name = "model.language_model.layers.2.mlp.up_proj"
    down, up = (halves[f"base_model.model.{name}.lora_{half}.weight"].float() for half in "AB")
    exact = before[f"{name}.weight"].float() + 12 / 4**0.5 * (up @ down)
    torch.testing.assert_close(after[f"{name}.weight"].float(), exact, atol=1e-4, rtol=2**-8)
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert model_folder.read(done.path).dtype == "bfloat16"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "all-linear"},
        {"use_dora": True},
        {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"target_modules": ["q_proj"], "modules_to_save": ["visual.merger"]},
    ],
)
def test_adapters_that_no_engine_serves_can_be_merged(tiny_model: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    folder = train(Qwen3VLForConditionalGeneration.from_pretrained(tiny_model), tmp_path / "adapter", **config)
    done = export(str(folder), tmp_path / "merged", merge=True)
    seen = picture()
    together = PeftModel.from_pretrained(Qwen3VLForConditionalGeneration.from_pretrained(tiny_model), folder)
    merged = Qwen3VLForConditionalGeneration.from_pretrained(done.path)
    torch.testing.assert_close(logits(merged, **seen), logits(together, **seen), atol=1e-4, rtol=1e-4)


def test_a_merged_model_tells_what_it_was_made_of(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    done = export(str(adapter), tmp_path / "merged", merge=True)
    told = json.loads((done.path / "synthq.json").read_text())
    assert told["kind"] == "merged"
    assert told["adapter"] == {"ref": str(adapter), "sha256": model_folder.adapter_sha256(adapter)}
    assert told["base"] == {"ref": str(tiny_model), "sha256": weights.sha256(tiny_model)}
    assert told["sha256"] == done.sha256 == weights.sha256(done.path)
    assert told["before"]["kind"] == "tiny"


def test_an_adapter_is_copied_with_what_it_is(adapter: Path, tmp_path: Path) -> None:
    (adapter / "optimizer.pt").write_bytes(b"not part of it")
    done = export(str(adapter), tmp_path / "copy")
    assert done.kind == "adapter"
    assert model_folder.adapter_sha256(done.path) == model_folder.adapter_sha256(adapter) == done.sha256
    assert not (done.path / "optimizer.pt").exists()
    assert done.bytes == sum(file.stat().st_size for file in done.path.iterdir())


def test_a_whole_model_is_copied(tiny_model: Path, tmp_path: Path) -> None:
    done = export(str(tiny_model), tmp_path / "copy")
    assert done.kind == "base"
    assert done.sha256 == weights.sha256(tiny_model)
    assert model_folder.facts(model_folder.read(done.path)) | {"path": ""} == model_folder.facts(
        model_folder.read(tiny_model)
    ) | {"path": ""}


def test_another_base_is_taken_where_it_is_named(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(BadModel, match="does not name the model that it was trained on; say which with --base"):
        export(str(adapter), tmp_path / "merged", merge=True)
    assert export(str(adapter), tmp_path / "merged", merge=True, base=str(tiny_model)).kind == "merged"


def test_what_cannot_be_merged_is_told_and_leaves_nothing(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BadModel, match="is a whole model already"):
        export(str(tiny_model), out, merge=True)
    with pytest.raises(BadModel, match="is an adapter itself"):
        export(str(adapter), out, merge=True, base=str(adapter))
    with pytest.raises(BadFlag, match="is for merging; add --merge"):
        export(str(adapter), out, base=str(tiny_model))
    with pytest.raises(BadModel, match="there is no folder"):
        export(str(adapter), out, merge=True, base=str(tmp_path / "gone"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    held = load_file(adapter / "adapter_model.safetensors")
    save_file({f"{name}.of.another": weight for name, weight in held.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(BadModel, match=r"does not fit .*: \d+ weights without a place there"):
        export(str(adapter), out, merge=True)
    save_file({name: weight[:3] for name, weight in held.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(BadModel, match=r"does not fit"):
        export(str(adapter), out, merge=True)
    save_file(held, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": ["lm_head"]}))
    with pytest.raises(BadModel, match=r"holds lm_head as a whole, and in .* one weight is both embedding and output"):
        export(str(adapter), out, merge=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(BadModel, match="no file of weights"):
        export(str(adapter), out, merge=True)
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_folder_with_anything_in_it_is_left_as_it_is(tiny_model: Path, adapter: Path) -> None:
    before = sorted(path.name for path in adapter.iterdir())
    with pytest.raises(InvalidInput, match="is not empty"):
        export(str(tiny_model), adapter)
    assert sorted(path.name for path in adapter.iterdir()) == before


def test_an_artifact_is_exported_by_its_id(adapter: Path, tmp_path: Path, sqlite_store: str) -> None:
    job = submit_noop().id
    about: dict[str, Any] = {"job_id": job, "step_id": "s", "sha256": "0" * 64, "bytes": 1, "created_at": 1.0}
    shutil.copytree(adapter, Path(get_settings().artifacts) / job / "lora")
    (Path(get_settings().artifacts) / job / "stats.json").write_text("{}")
    with db.writing() as session:
        session.add(Artifact(id="art_000000000000", kind="adapter", name="lora", path=f"{job}/lora", **about))
        session.add(Artifact(id="art_000000000001", kind="report", name="stats.json", path=f"{job}/stats.json", **about))
    done = export("art_000000000000", tmp_path / "copy")
    assert done.sha256 == model_folder.adapter_sha256(adapter)
    assert json.loads((done.path / "synthq.json").read_text())["source"] == "art_000000000000"
    assert export("art_000000000000", tmp_path / "merged", merge=True).kind == "merged"
    with pytest.raises(BadModel, match="artifact art_000000000001 is a report, and no folder"):
        export("art_000000000001", tmp_path / "other")
    with pytest.raises(ArtifactNotFound, match="no artifact matches 'art_000000000002'"):
        export("art_000000000002", tmp_path / "other")

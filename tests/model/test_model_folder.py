"""Folders of models are looked at without loading them; what is wrong is told as a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import Qwen3VLForConditionalGeneration

from app import model_folder
from app.errors import BadModel
from app.model_folder import AdapterFolder, BaseFolder


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be broken."""
    return Path(shutil.copytree(tiny_model, tmp_path / "base"))


@pytest.fixture(scope="module")
def make_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(**config: Any) -> Path:
        folder = tmp_path_factory.mktemp("adapter")
        model = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model)
        get_peft_model(model, LoraConfig(**config)).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def language_adapter(make_adapter: Callable[..., Path]) -> Path:
    return make_adapter(r=4, lora_alpha=8, target_modules=r"^.*language_model.*\.(q|v)_proj$")


@pytest.fixture
def adapter(language_adapter: Path, tmp_path: Path) -> Path:
    """A copy of an adapter that may be broken."""
    return Path(shutil.copytree(language_adapter, tmp_path / "adapter"))


def change(path: Path, **keys: Any) -> None:
    told = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (told | keys).items() if value is not None}))


def test_a_whole_model_tells_its_sizes(tiny_model: Path) -> None:
    folder = model_folder.read(tiny_model)
    assert isinstance(folder, BaseFolder)
    model = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model)
    assert folder.parameters == sum(weight.numel() for weight in model.parameters())
    assert (folder.patch, folder.merge, folder.temporal) == (7, 3, 2)
    assert (folder.min_pixels, folder.max_pixels) == (441, 504 * 504)
    assert folder.vocab == model.config.text_config.vocab_size
    assert (folder.max_length, folder.dtype, folder.kind) == (4096, "float32", "base")


def test_a_sharded_model_tells_the_same(tiny_model: Path, base: Path) -> None:
    (base / "model.safetensors").unlink()
    model = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model)
    model.save_pretrained(base, max_shard_size="1MB")
    assert len(list(base.glob("model-*.safetensors"))) > 1
    told, whole = model_folder.read(base), model_folder.read(tiny_model)
    assert told.parameters == whole.parameters
    first = min(base.glob("model-*.safetensors"))
    first.unlink()
    with pytest.raises(BadModel, match=rf"lacks 1 of the \d files that model.safetensors.index.json names, {first.name} first"):
        model_folder.read(base)


def test_tied_weights_that_were_saved_twice_count_once(tiny_model: Path, base: Path) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(base / "model.safetensors")
    twice = held["model.language_model.embed_tokens.weight"].clone()
    save_file({**held, "lm_head.weight": twice}, base / "model.safetensors")
    assert model_folder.read(base).parameters == model_folder.read(tiny_model).parameters


def test_an_adapter_tells_what_it_is_for(language_adapter: Path, tiny_model: Path) -> None:
    folder = model_folder.read(language_adapter)
    assert isinstance(folder, AdapterFolder)
    assert (folder.kind, folder.base, folder.rank, folder.alpha) == ("adapter", str(tiny_model), 4, 8.0)
    assert folder.targets == (r"^.*language_model.*\.(q|v)_proj$",)
    assert folder.parameters == 4 * 4 * ((128 + 128) + (128 + 64))
    assert not folder.touches_vision
    assert not folder.dora
    assert json.loads(json.dumps(model_folder.facts(folder)))["path"] == str(language_adapter)


def test_an_adapter_on_the_vision_tower_is_known_by_its_weights(make_adapter: Callable[..., Path]) -> None:
    every = model_folder.read(make_adapter(r=2, target_modules="all-linear"))
    assert isinstance(every, AdapterFolder)
    assert every.touches_vision
    spared = model_folder.read(make_adapter(r=2, target_modules=r"^(?!.*visual).*\.q_proj$"))
    assert isinstance(spared, AdapterFolder)
    assert not spared.touches_vision


def test_the_rank_is_that_of_the_widest_layer(make_adapter: Callable[..., Path]) -> None:
    folder = model_folder.read(make_adapter(r=2, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 8}))
    assert isinstance(folder, AdapterFolder)
    assert folder.rank == 8


def test_weights_of_dora_and_whole_layers_are_told(make_adapter: Callable[..., Path]) -> None:
    folder = model_folder.read(make_adapter(r=2, target_modules=["q_proj"], use_dora=True, modules_to_save=["lm_head"]))
    assert isinstance(folder, AdapterFolder)
    assert folder.dora
    assert folder.saved_modules == ("lm_head",)


def test_an_adapters_sha256_is_of_all_that_it_does_and_of_no_more(language_adapter: Path, adapter: Path) -> None:
    told = model_folder.adapter_sha256(language_adapter)
    change(adapter / "adapter_config.json", base_model_name_or_path="/moved/elsewhere", inference_mode=False)
    assert model_folder.adapter_sha256(adapter) == told
    change(adapter / "adapter_config.json", lora_alpha=16)
    assert model_folder.adapter_sha256(adapter) != told
    change(adapter / "adapter_config.json", lora_alpha=8)
    weights = bytearray((adapter / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (adapter / "adapter_model.safetensors").write_bytes(weights)
    assert model_folder.adapter_sha256(adapter) != told


@pytest.mark.parametrize(
    ("file", "keys", "sentence"),
    [
        (
            "config.json",
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
            "is a LlamaForCausalLM; synthq works with",
        ),
        ("config.json", {"model_type": "qwen3_vl_moe", "architectures": None}, "is a model_type 'qwen3_vl_moe'; synthq works"),
        ("config.json", {"vision_config": None}, "has no vision_config"),
        ("config.json", {"text_config": {"vocab_size": 0}}, "max_position_embeddings must be a whole number above 0, not 'None'"),
        ("preprocessor_config.json", {"patch_size": 16}, "differ: 7 and 16 for patch_size"),
        ("preprocessor_config.json", {"size": None}, "min_pixels must be a whole number above 0"),
    ],
)
def test_a_config_that_cannot_be_right_is_told(base: Path, file: str, keys: dict[str, Any], sentence: str) -> None:
    change(base / file, **keys)
    with pytest.raises(BadModel, match=sentence):
        model_folder.read(base)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("config.json", "is no model: it has neither config.json"),
        ("tokenizer.json", "has no tokenizer"),
        ("preprocessor_config.json", "has no preprocessor_config.json"),
        ("model.safetensors", "has no weights: neither model.safetensors nor"),
    ],
)
def test_a_file_that_is_missing_is_told(base: Path, file: str, sentence: str) -> None:
    (base / file).unlink()
    with pytest.raises(BadModel, match=sentence):
        model_folder.read(base)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_none_is_told(base: Path, content: bytes) -> None:
    (base / "config.json").write_bytes(content)
    with pytest.raises(BadModel, match=r"is not JSON|holds no JSON object"):
        model_folder.read(base)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 1000, -1])
def test_weights_that_were_cut_short_are_told(base: Path, keep: int) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadModel, match=r"only a piece of one|not JSON|it was cut short"):
        model_folder.read(base)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ("not json", "header is not JSON"),
        ("[1, 2]", "does not describe tensors"),
        ('{"a": {"shape": [2], "dtype": "F32"}}', "does not describe tensors"),
        ('{"a": {"shape": "x", "dtype": "F32", "data_offsets": [0, 8]}}', "does not describe tensors"),
        ('{"a": {"shape": [2], "dtype": "F32", "data_offsets": [0, 4]}}', "there is more behind it"),
    ],
)
def test_a_header_that_cannot_be_right_is_told(base: Path, told: str, sentence: str) -> None:
    (base / "model.safetensors").write_bytes(len(told).to_bytes(8, "little") + told.encode() + bytes(8))
    with pytest.raises(BadModel, match=sentence):
        model_folder.read(base)


@pytest.mark.parametrize(
    ("weight_map", "sentence"),
    [
        (None, "has no weight_map"),
        ({}, "has no weight_map"),
        ({"a": "../secret.safetensors"}, "which is not a file beside it"),
        ({"nowhere": "one.safetensors"}, "names 'nowhere', and none of the files has it"),
    ],
)
def test_an_index_that_cannot_be_right_is_told(base: Path, weight_map: Any, sentence: str) -> None:
    (base / "model.safetensors").rename(base / "one.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadModel, match=sentence):
        model_folder.read(base)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"peft_type": "IA3"}, "peft_type must be 'LORA', not 'IA3'"),
        ({"lora_alpha": "much"}, "lora_alpha must be a number, not 'much'"),
    ],
)
def test_an_adapter_that_cannot_be_right_is_told(adapter: Path, keys: dict[str, Any], sentence: str) -> None:
    change(adapter / "adapter_config.json", **keys)
    with pytest.raises(BadModel, match=sentence):
        model_folder.read(adapter)


def test_an_adapter_without_weights_of_one_is_told(adapter: Path, tiny_model: Path) -> None:
    shutil.copyfile(tiny_model / "model.safetensors", adapter / "adapter_model.safetensors")
    with pytest.raises(BadModel, match="no weights of a LoRA adapter"):
        model_folder.read(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(BadModel, match=r"has no adapter_model\.safetensors"):
        model_folder.read(adapter)


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="there is no folder"):
        model_folder.read(tmp_path / "nowhere")
    with pytest.raises(BadModel, match="is no model"):
        model_folder.read(tmp_path)


def test_it_needs_no_torch() -> None:
    probe = "import sys, app.model_folder; print({'torch', 'transformers', 'safetensors', 'numpy'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"

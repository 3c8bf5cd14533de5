"""Adapters that peft saved are read as peft means them; whatever an engine could not serve exactly is refused with a sentence."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration  # noqa: E402

from app.errors import BadModel  # noqa: E402
from app.model_folder import adapter_sha256  # noqa: E402
from workers.model.adapters import language_layers, read_adapter  # noqa: E402

LANGUAGE = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
Q = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model() -> Any:
    """Small, and every width its own, so that no two layers can be taken for one another."""
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 40,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    text = {
        "hidden_size": 40,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]},
    }
    torch.manual_seed(0)
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, text_config=text)).eval()


def trained(model: Any, folder: Path, **options: Any) -> Any:
    """A copy of the model with an adapter that peft made, every weight of it random; saved."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": LANGUAGE, **options})
    wrapped = peft.get_peft_model(copy.deepcopy(model), config)
    torch.manual_seed(1)
    for name, weight in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "plain"
    trained(model, folder)
    return folder


@pytest.fixture
def adapter(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def settle(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), encoding="utf-8")


def change(folder: Path, act: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    act(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"r": 3, "lora_alpha": 5}, {"target_modules": r".*layers\.1\.mlp\.up_proj"}]
)
def test_with_it_the_base_says_what_peft_says(model, tmp_path, options):
    wrapped = trained(model, tmp_path, **options)
    adapter = read_adapter(tmp_path, model)
    merged = copy.deepcopy(model)
    with torch.no_grad():
        for name, (down, up) in adapter.weights.items():
            merged.get_submodule(name).weight += adapter.scale * up @ down
        ids = torch.arange(30)[None]
        wanted, plain = wrapped(input_ids=ids).logits, model(input_ids=ids).logits
        given = merged(input_ids=ids).logits
    assert (wanted - plain).abs().max() > 1e-2
    assert (given - wanted).abs().max() < 1e-4


def test_it_tells_what_it_is(model, saved):
    adapter = read_adapter(saved, model)
    assert (adapter.rank, adapter.scale, adapter.base) == (4, 3.0, "")
    assert adapter.sha256 == adapter_sha256(saved)
    assert set(adapter.weights) == set(language_layers(model.config))
    settled = read_adapter(saved, model, max_rank=4).weights["model.language_model.layers.1.mlp.down_proj"]
    assert [tuple(part.shape) for part in settled] == [(4, 72), (40, 4)]


def test_it_names_the_model_that_it_was_trained_on(model, adapter):
    settle(adapter, base_model_name_or_path="Qwen/Qwen3-VL-4B-Instruct")
    assert read_adapter(adapter, model).base == "Qwen/Qwen3-VL-4B-Instruct"


def test_the_layers_that_may_be_changed_are_those_of_the_model(model):
    for name, sizes in language_layers(model.config).items():
        layer = model.get_submodule(name)
        assert (layer.in_features, layer.out_features) == sizes
    linear = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    assert {name for name in linear if "visual" not in name and name != "lm_head"} == set(language_layers(model.config))


def test_one_that_reaches_the_vision_tower_is_refused(model, tmp_path):
    trained(model, tmp_path, target_modules="all-linear")
    with pytest.raises(
        BadModel, match=r"changes the vision tower \('base_model.model.model.visual.*what was trained would not be"
    ):
        read_adapter(tmp_path, model)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"use_dora": True}, "use_dora is 'True': the adapter is DoRA"),
        ({"lora_bias": True}, "lora_bias is 'True': the adapter trains biases"),
        ({"bias": "lora_only", "target_modules": LANGUAGE}, "bias must be 'none', not 'lora_only'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is .*lm_head.*holds whole layers beside its matrices"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is .* gives layers ranks of their own"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern is .* gives layers scales of their own"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora', which changes the base's weights too"),
        ({"target_modules": ["lm_head"]}, r"holds '.*(lm_head|embed_tokens)\..*which is neither A nor B"),
        (
            {"target_modules": ["embed_tokens"]},
            r"holds '.*embed_tokens\..*which is neither A nor B of a LoRA adapter on a linear",
        ),
        ({"r": 32}, r"r is 32, and the highest rank that is served here is 16 \(vllm.max_lora_rank\)"),
    ],
)
def test_one_that_peft_saved_and_no_engine_serves_exactly_is_refused(model, tmp_path, options, sentence):
    trained(model, tmp_path, **options)
    with pytest.raises(BadModel, match=sentence):
        read_adapter(tmp_path, model, max_rank=16)


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal"])
def test_how_it_began_does_not_matter_when_the_base_stayed_as_it_was(model, adapter, start):
    settle(adapter, init_lora_weights=start)
    assert read_adapter(adapter, model).rank == 4


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"peft_type": "IA3"}, "peft_type must be 'LORA', not 'IA3'"),
        ({"r": 0}, "r must be a whole number above 0, not '0'"),
        ({"r": "8"}, "r must be a whole number above 0, not '8'"),
        ({"lora_alpha": None}, "lora_alpha must be a number, not 'None'"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a number, not 'nan'"),
        ({"r": 8}, r"lora_A of model.language_model.* is \[4, 72\], and for this base and rank 8 it must be \[8, 72\]"),
        ({"target_parameters": ["a.b"]}, "changes parameters that are no layers"),
        ({"alora_invocation_tokens": [1]}, "acts only after certain tokens"),
    ],
)
def test_settings_that_mean_something_else_are_refused(model, adapter, values, sentence):
    settle(adapter, **values)
    with pytest.raises(BadModel, match=sentence):
        read_adapter(adapter, model)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda t: t.pop(f"{Q}.lora_A.weight"), "has no lora_A for 'model.language_model.layers.0.self_attn.q_proj'"),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "has no lora_B for"),
        (lambda t: t.update({f"{Q}.lora_magnitude_vector.weight": torch.ones(2)}), "which is DoRA"),
        (lambda t: t.update({f"{Q}.weight": torch.ones(2)}), "which is neither A nor B"),
        (lambda t: t.update({"something": torch.ones(2)}), "holds 'something', which is neither"),
        (lambda t: t.update({k.replace("layers.0", "layers.7"): t.pop(k) for k in list(t)}), "which this model does not have"),
        (
            lambda t: t.update({k.replace("model.language_model.", ""): t.pop(k) for k in list(t)}),
            "which this model does not have",
        ),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 41)}), r"is \[4, 41\].*must be \[4, 40\].*another model's"),
        (lambda t: t.update({f"{Q}.lora_B.weight": torch.ones(64, 4, 1)}), r"is \[64, 4, 1\].*must be \[64, 4\]"),
        (lambda t: t.update({f"{Q}.lora_B.weight": torch.ones(64, 4).int()}), "is in torch.int32"),
        (lambda t: t[f"{Q}.lora_B.weight"].fill_(float("inf")), "holds numbers that are not finite"),
        (lambda t: t.clear(), "holds no weights"),
    ],
)
def test_weights_that_are_not_those_of_such_an_adapter_are_refused(model, adapter, act, sentence):
    change(adapter, act)
    with pytest.raises(BadModel, match=sentence):
        read_adapter(adapter, model)


def test_a_file_that_was_cut_is_refused_wherever_the_cut_is(model, adapter):
    path = adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    for keep in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(BadModel, match=r"no file of weights|cut short"):
            read_adapter(adapter, model)


def test_a_folder_without_weights_or_with_a_pickle_is_refused(model, adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(BadModel, match=r"has no adapter_model.safetensors, only adapter_model.bin, which can hold programs"):
        read_adapter(adapter, model)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(BadModel, match=r"has no adapter_config.json"):
        read_adapter(adapter, model)

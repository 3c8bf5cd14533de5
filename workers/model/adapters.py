"""Reads a LoRA adapter in peft's format: strictly, because what is left out or misread would change what a model says, unseen.

An engine serves adapters on the linear layers of the language model and nowhere else (vLLM only warns of the others), so one
that changes anything more, or in another way than ``W + scale * B A``, is refused with a sentence that says why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from app import weights
from app.errors import BadModel, cut
from app.geometry import projections
from app.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, VISION, adapter_sha256

MEANT: Final = "adapters are for the language model's layers q, k, v, o, gate, up and down _proj"
_NAME: Final = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_REFUSED: Final = {
    "use_dora": "is DoRA, which scales whole columns of the base's weights; train it as plain LoRA",
    "lora_bias": "trains biases beside its matrices",
    "modules_to_save": "holds whole layers beside its matrices",
    "trainable_token_indices": "trains single tokens",
    "target_parameters": "changes parameters that are no layers",
    "layer_replication": "repeats layers of the base",
    "alora_invocation_tokens": "acts only after certain tokens",
    "arrow_config": "chooses between adapters by itself",
    "fan_in_fan_out": "is for layers whose weights lie transposed",
    "use_bdlora": "has matrices of blocks",
    "use_qalora": "is for a quantised base",
    "kasa_config": "changes the base's weights when it is loaded",
    "rank_pattern": "gives layers ranks of their own",
    "alpha_pattern": "gives layers scales of their own",
}
"""Keys of an adapter's config under which its matrices mean something else, and what they say of it."""
_STARTS: Final = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Ways to begin an adapter, by name, that leave the base's weights as they are."""
_NUMBERS: Final = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterWeights:
    """An adapter: each layer's output becomes ``W x + scale * B (A x)``."""

    path: Path
    weights: Mapping[str, tuple[Tensor, Tensor]]
    """A [rank, in] and B [out, rank] by the name of the layer in the whole model, such as
    ``model.language_model.layers.0.self_attn.q_proj``; on the CPU, in the file's precision."""
    rank: int
    scale: float
    """alpha / rank; alpha / sqrt(rank) under rslora."""
    base: str
    """Folder or hub id of the model that it was trained on, as its config has it; empty when it says nothing."""
    sha256: str
    """As ``app.model_folder.adapter_sha256`` tells it."""


def read_adapter(path: str | Path, model: Any, *, max_rank: int | None = None) -> AdapterWeights:
    """The adapter in a folder, for a ``Qwen3VLForConditionalGeneration`` (of which only the config is read).

    Raises BadModel for one that is not whole, not for such a model, of a higher rank than ``max_rank``, or that changes more
    than the language model's linear layers.
    """
    folder = Path(path)
    config = weights.read_json(folder / ADAPTER_CONFIG)
    rank, scale = _settings(folder, config, max_rank)
    found = _tensors(folder)
    pairs = _pairs(folder, found)
    shapes = language_layers(model.config)
    for name, (down, up) in pairs.items():
        _check(folder, name, down, up, shapes, rank)
    return AdapterWeights(
        path=folder,
        weights=pairs,
        rank=rank,
        scale=scale,
        base=str(config.get("base_model_name_or_path") or ""),
        sha256=adapter_sha256(folder),
    )


def language_layers(config: Any) -> dict[str, tuple[int, int]]:
    """(in, out) of every layer that an adapter may change, by its name in the whole model: of a Qwen3-VL's config."""
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    parts = projections(text.hidden_size, text.num_attention_heads, text.num_key_value_heads, head, text.intermediate_size)
    return {
        f"model.language_model.layers.{layer}.{part}": sizes
        for layer in range(text.num_hidden_layers)
        for part, sizes in parts.items()
    }


def _settings(folder: Path, config: Mapping[str, Any], max_rank: int | None) -> tuple[int, float]:
    """Rank and scale. Raises BadModel for settings under which the matrices mean something else."""
    where = folder / ADAPTER_CONFIG
    if (kind := config.get("peft_type")) != "LORA":
        raise BadModel(f"{where}: peft_type must be 'LORA', not {cut(str(kind))}")
    for key, meaning in _REFUSED.items():
        if config.get(key):
            raise BadModel(f"{where}: {key} is {cut(str(config[key]))}: the adapter {meaning}, and engines do not serve that")
    if (bias := config.get("bias", "none")) != "none":
        raise BadModel(f"{where}: bias must be 'none', not {cut(str(bias))}; engines serve no trained biases")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _STARTS:
        raise BadModel(
            f"{where}: init_lora_weights is {cut(start)}, which changes the base's weights too; convert it to a plain adapter "
            "(peft's path_initial_model_for_weight_conversion)"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise BadModel(f"{where}: r must be a whole number above 0, not {cut(str(rank))}")
    if max_rank is not None and rank > max_rank:
        raise BadModel(f"{where}: r is {rank}, and the highest rank that is served here is {max_rank} (vllm.max_lora_rank)")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise BadModel(f"{where}: lora_alpha must be a number, not {cut(str(alpha))}")
    return rank, alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        pickled = ", only adapter_model.bin, which can hold programs and is not read" if _pickled(folder) else ""
        raise BadModel(f"{folder} has no {ADAPTER_WEIGHTS}{pickled}")
    weights.header(path)
    try:
        found: dict[str, Tensor] = load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise BadModel(f"{path} cannot be read: {error}") from error
    return found


def _pickled(folder: Path) -> bool:
    return (folder / "adapter_model.bin").is_file()


def _pairs(folder: Path, found: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each layer. Raises BadModel for every tensor that is neither, and for one without the other."""
    path, halves = folder / ADAPTER_WEIGHTS, dict[str, dict[str, Tensor]]()
    for key, tensor in found.items():
        if VISION in key:
            raise BadModel(
                f"{path} changes the vision tower ({cut(key)}), and engines serve that without adapters: what was trained would "
                f"not be what plays; {MEANT}"
            )
        if (match := _NAME.fullmatch(key)) is None:
            what = "DoRA" if "lora_magnitude_vector" in key else "neither A nor B of a LoRA adapter on a linear layer"
            raise BadModel(f"{path} holds {cut(key)}, which is {what}")
        halves.setdefault(match[1], {})[match[2]] = tensor
    for name, half in halves.items():
        if missing := {"A", "B"} - half.keys():
            raise BadModel(f"{path} has no lora_{missing.pop()} for {cut(name)}, only the other half")
    if not halves:
        raise BadModel(f"{path} holds no weights")
    return {name: (half["A"], half["B"]) for name, half in halves.items()}


def _check(folder: Path, name: str, down: Tensor, up: Tensor, shapes: Mapping[str, tuple[int, int]], rank: int) -> None:
    """One layer's matrices fit the base and are numbers. Raises BadModel."""
    path = folder / ADAPTER_WEIGHTS
    if name not in shapes:
        raise BadModel(f"{path} is for a layer {cut(name)}, which this model does not have or no adapter may change; {MEANT}")
    entering, leaving = shapes[name]
    for half, tensor, wanted in (("A", down, (rank, entering)), ("B", up, (leaving, rank))):
        if tuple(tensor.shape) != wanted:
            raise BadModel(
                f"{path}: lora_{half} of {name} is {list(tensor.shape)}, and for this base and rank {rank} it must be "
                f"{list(wanted)}; the adapter may be another model's"
            )
        if tensor.dtype not in _NUMBERS:
            raise BadModel(f"{path}: lora_{half} of {name} is in {tensor.dtype}; it must be float32, bfloat16 or float16")
        if not bool(torch.isfinite(tensor).all()):
            raise BadModel(f"{path}: lora_{half} of {name} holds numbers that are not finite")

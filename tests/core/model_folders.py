"""Folders of models as small as they can be: every file that is looked at when a job is submitted, a few numbers in each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "text_config": {"max_position_embeddings": 4096, "vocab_size": 512, "dtype": "float32"},
    "vision_config": {"patch_size": 7, "spatial_merge_size": 3, "temporal_patch_size": 2},
}
PICTURES = {"patch_size": 7, "merge_size": 3, "size": {"shortest_edge": 441, "longest_edge": 441000}}
LAYER = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


def write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], byte: int = 0) -> None:
    """A file of weights (safetensors) with these tensors."""
    told, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        told[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(told).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes([byte]) * at)


def base(folder: Path) -> Path:
    """A whole model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    (folder / "tokenizer.json").write_text("{}")
    write_weights(folder / "model.safetensors", {"model.language_model.embed_tokens.weight": (512, 2)})
    return folder


def adapter(folder: Path, on: object, *, layer: str = LAYER, rank: int = 4, byte: int = 0, **config: Any) -> Path:
    """An adapter on a base."""
    folder.mkdir(parents=True)
    told = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": str(on)}
    (folder / "adapter_config.json").write_text(json.dumps({**told, **config}))
    shapes = {f"{layer}.lora_A.weight": (rank, 2), f"{layer}.lora_B.weight": (2, rank)}
    write_weights(folder / "adapter_model.safetensors", shapes, byte)
    return folder

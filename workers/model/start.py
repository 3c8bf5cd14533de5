"""Weights to begin training from, drawn at random and written to files, a tensor at a time.

The same for the same seed and name, in whatever order they are made: each tensor has a generator of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from app.command_line import Tick
from app.weights import FILE, INDEX

LOGIT_STD: Final = 0.45
"""How far logits spread at the start: near enough to uniform that everything is tried."""
POSITION_STD: Final = 0.2
"""Of the vision tower's position embeddings, beside patches of about 0.7."""
SHARD_BYTES: Final = 2 * 10**9
"""Weights of more than this go to several files, of about this each; it is also what is held in memory."""
_DRAWN: Final = 1 << 22
"""Numbers that are drawn at once."""


def skeleton(config: Qwen3VLConfig) -> dict[str, torch.Size]:
    """Name and shape of every weight; tied ones once. Takes no memory."""
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    return {name: weight.shape for name, weight in model.named_parameters()}


def write(folder: Path, config: Qwen3VLConfig, *, seed: int, tick: Tick) -> int:
    """Write new weights, in the config's dtype, and the config; gives how many parameters there are. ``tick`` is told of them."""
    shapes = skeleton(config)
    dtype = cast(torch.dtype, config.dtype)
    shards = _shards({name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}, SHARD_BYTES)
    names = {f"model-{i:05}-of-{len(shards):05}.safetensors": held for i, held in enumerate(shards, 1)}
    for file, held in (names if len(shards) > 1 else {FILE: shards[0]}).items():
        weights: dict[str, torch.Tensor] = {}
        for name in held:
            weights[name] = start(name, shapes[name], config, seed=seed, dtype=dtype)
            tick(weights[name].numel())
        save_file(weights, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(folder.stat().st_mode & 0o666)  # it is written for its owner alone
    parameters = sum(map(math.prod, shapes.values()))
    if len(shards) > 1:
        index = {
            "metadata": {"total_parameters": parameters, "total_size": parameters * dtype.itemsize},
            "weight_map": {name: file for file, held in names.items() for name in held},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config.save_pretrained(folder)
    return parameters


def _shards(sizes: dict[str, int], most: int) -> list[list[str]]:
    """Names in their order, in groups of at most ``most`` bytes, or of one that has more."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if shards[-1] and held + size > most:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def start(name: str, shape: torch.Size, config: Qwen3VLConfig, *, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """A weight to begin training with, by its name in a Qwen3-VL.

    Norms are 1, biases 0. A linear layer keeps the size of what it is given; those that write into the residual stream are
    smaller the more layers there are, so that the sum stays of one size.
    """
    if name.endswith(".bias"):
        return torch.zeros(shape, dtype=dtype)
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    vision, text = cast(Any, config.vision_config), cast(Any, config.text_config)
    spread = _spread(name, shape, vision.depth if ".visual." in name else text.num_hidden_layers)
    made = torch.empty(math.prod(shape), dtype=dtype)
    drawn = _generator(name, seed)
    for piece in made.split(_DRAWN):
        piece.copy_(torch.from_numpy(drawn.standard_normal(len(piece), dtype=np.float32)).mul_(spread))
    return made.view(shape)


def _spread(name: str, shape: torch.Size, depth: int) -> float:
    if "pos_embed" in name:
        return POSITION_STD
    std = 1 / math.sqrt(math.prod(shape[1:]))
    if "embed_tokens" in name or "lm_head" in name:  # one weight where they are tied
        return LOGIT_STD * std
    writes = name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.linear_fc2.weight"))
    return std / math.sqrt(2 * depth) if writes else std


def _generator(name: str, seed: int) -> np.random.Generator:
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16]
    return np.random.default_rng(int.from_bytes(key, "little"))

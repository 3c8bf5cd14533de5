"""Random numbers to start a model from: the same for the same seed and name, in whatever order weights are made."""

from __future__ import annotations

import hashlib
import math
from typing import Final

import numpy as np
import torch

LOGIT_STD: Final = 0.45
"""How far logits spread at the start: near enough to uniform that everything is tried."""
POSITION_STD: Final = 0.2
"""Of the vision tower's position embeddings, beside patches of about 0.7."""


def start(name: str, shape: torch.Size, *, seed: int, depth: int) -> torch.Tensor:
    """A float32 weight to begin training with, by its name in a Qwen3-VL.

    Norms are 1, biases 0. A linear layer keeps the size of what it is given; those that write into the residual stream of
    ``depth`` layers are smaller, so that the sum stays of one size.
    """
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    return torch.from_numpy(_normal(name, tuple(shape), seed)).mul_(_spread(name, shape, depth))


def _spread(name: str, shape: torch.Size, depth: int) -> float:
    if "pos_embed" in name:
        return POSITION_STD
    std = 1 / math.sqrt(math.prod(shape[1:]))
    if "embed_tokens" in name or "lm_head" in name:  # one weight where they are tied
        return LOGIT_STD * std
    writes = name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.linear_fc2.weight"))
    return std / math.sqrt(2 * depth) if writes else std


def _normal(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little")
    return np.random.default_rng(key).standard_normal(shape, dtype=np.float32)

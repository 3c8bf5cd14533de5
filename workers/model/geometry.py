"""How wide and deep a Qwen3-VL is: the published sizes, and the tiny ones of this product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Tokenizer
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from workers.model import tokenizer as own

TEMPORAL: Final = 2
"""Frames that a patch spans, in every Qwen3-VL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The sizes that make up a config."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vision_hidden: int
    vision_depth: int
    vision_heads: int
    vision_intermediate: int
    deepstack: tuple[int, ...]
    """Layers of the vision tower whose features also enter the language model's first layers."""
    patch: int = 16
    """Side of a patch in pixels."""
    merge: int = 2
    """Patches along each side that become one token."""
    positions: int = 48
    """Side of the square of learned positions; those of another grid are interpolated."""
    vocab: int | None = 151_936
    """Rows of the embedding; None: as many as the tokenizer has tokens."""
    tied: bool = True
    """The embedding is the output's weights too."""
    mrope: tuple[int, int, int] = (24, 20, 20)
    """How a head's frequencies are shared out between time, height and width."""
    theta: float = 5_000_000.0
    max_length: int = 262_144
    """Most tokens of a prompt and its reply together."""
    dtype: str = "bfloat16"


_SMALL_TOWER: Final[dict[str, Any]] = {
    "vision_hidden": 1024,
    "vision_depth": 24,
    "vision_heads": 16,
    "vision_intermediate": 4096,
    "deepstack": (5, 11, 17),
}
_LARGE_TOWER: Final[dict[str, Any]] = {
    "vision_hidden": 1152,
    "vision_depth": 27,
    "vision_heads": 16,
    "vision_intermediate": 4304,
    "deepstack": (8, 16, 24),
}


def _published(tower: dict[str, Any], hidden: int, layers: int, heads: int, intermediate: int, *, tied: bool) -> Geometry:
    return Geometry(
        hidden=hidden, layers=layers, heads=heads, kv_heads=8, head_dim=128, intermediate=intermediate, tied=tied, **tower
    )


PUBLISHED: Final = {
    "qwen3-vl-2b": _published(_SMALL_TOWER, 2048, 28, 16, 6144, tied=True),
    "qwen3-vl-4b": _published(_SMALL_TOWER, 2560, 36, 32, 9728, tied=True),
    "qwen3-vl-8b": _published(_LARGE_TOWER, 4096, 36, 32, 12_288, tied=False),
    "qwen3-vl-32b": _published(_LARGE_TOWER, 5120, 64, 64, 25_600, tied=False),
}
"""The dense models that Qwen has published."""

_TINY: Final[dict[str, Any]] = {
    "head_dim": 32,
    "mrope": (6, 5, 5),
    "theta": 10_000.0,
    "max_length": 4096,
    "dtype": "float32",
    "vocab": None,
}
TINY: Final = {
    "1m": Geometry(
        hidden=128,
        layers=4,
        heads=4,
        kv_heads=2,
        intermediate=256,
        vision_hidden=32,
        vision_depth=2,
        vision_heads=2,
        vision_intermediate=64,
        deepstack=(0,),
        **_TINY,
    ),
    "3m": Geometry(
        hidden=192,
        layers=5,
        heads=6,
        kv_heads=2,
        intermediate=512,
        vision_hidden=48,
        vision_depth=3,
        vision_heads=3,
        vision_intermediate=96,
        deepstack=(0, 1),
        **_TINY,
    ),
}
"""Sizes by their number of parameters. A head is 32 wide, the least that vLLM's kernels for CPU take."""


def config_of(geometry: Geometry, tokenizer: Tokenizer) -> Qwen3VLConfig:
    """A config as transformers and vLLM read it, with the tokenizer's ids."""
    end, pad = tokenizer.token_to_id(own.END), tokenizer.token_to_id(own.PAD)
    rope = {
        "rope_type": "default",
        "rope_theta": geometry.theta,
        "mrope_section": list(geometry.mrope),
        "mrope_interleaved": True,
    }
    text = {
        "vocab_size": geometry.vocab or tokenizer.get_vocab_size(),
        "hidden_size": geometry.hidden,
        "intermediate_size": geometry.intermediate,
        "num_hidden_layers": geometry.layers,
        "num_attention_heads": geometry.heads,
        "num_key_value_heads": geometry.kv_heads,
        "head_dim": geometry.head_dim,
        "max_position_embeddings": geometry.max_length,
        "rope_parameters": rope,
        "tie_word_embeddings": geometry.tied,
        "bos_token_id": pad,
        "eos_token_id": end,
        "pad_token_id": pad,
    }
    vision = {
        "depth": geometry.vision_depth,
        "hidden_size": geometry.vision_hidden,
        "num_heads": geometry.vision_heads,
        "intermediate_size": geometry.vision_intermediate,
        "patch_size": geometry.patch,
        "spatial_merge_size": geometry.merge,
        "temporal_patch_size": TEMPORAL,
        "out_hidden_size": geometry.hidden,
        "num_position_embeddings": geometry.positions**2,
        "deepstack_visual_indexes": list(geometry.deepstack),
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=geometry.tied,
        architectures=[Qwen3VLForConditionalGeneration.__name__],
        dtype=geometry.dtype,
        **_picture_ids(tokenizer),
    )


def _picture_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ids of the tokens that stand around and for pictures, by their keys in a config."""
    return {
        "image_token_id": tokenizer.token_to_id(own.IMAGE),
        "video_token_id": tokenizer.token_to_id(own.VIDEO),
        "vision_start_token_id": tokenizer.token_to_id(own.VISION_START),
        "vision_end_token_id": tokenizer.token_to_id(own.VISION_END),
    }

"""The sizes of this product's own tiny models, and configs as transformers has them of any sizes."""

from __future__ import annotations

from typing import Any, Final

from tokenizers import Tokenizer
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from app.geometry import TEMPORAL, Geometry
from workers.model import tokenizer as own

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

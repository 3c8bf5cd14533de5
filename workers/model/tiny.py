"""Makes a Qwen3-VL of one to three million parameters, at random, with a tokenizer of its own.

All of the real thing but its size: transformers and vLLM load the folder as they load the published models. A patch is 7 pixels
and 3 x 3 of them become one token, so a frame of 63 x 63 pixels is 9 tokens, and one patch is one tile of Crafter's picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from app.errors import InvalidInput, UnknownName
from workers.model import tokenizer as own
from workers.model.folder import LINEAGE, sha256_of, whole, write_json
from workers.model.start import start

MAX_LENGTH: Final = 4096
"""Tokens of a prompt and its reply together."""
MAX_SIDE_PX: Final = 504
"""A square picture up to this side keeps its size; a larger one is shrunk."""
VOCAB: Final = 1280


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Widths and depths. Every head of the language model is 32 wide, the least that vLLM's kernels for CPU take."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vision_hidden: int
    vision_depth: int
    vision_heads: int
    deepstack: tuple[int, ...]
    """Layers of the vision tower whose features also enter the language model's first layers."""


SIZES: Final = {
    "1m": Size(
        hidden=128,
        layers=4,
        heads=4,
        kv_heads=2,
        intermediate=256,
        vision_hidden=32,
        vision_depth=2,
        vision_heads=2,
        deepstack=(0,),
    ),
    "3m": Size(
        hidden=192,
        layers=5,
        heads=6,
        kv_heads=2,
        intermediate=512,
        vision_hidden=48,
        vision_depth=3,
        vision_heads=3,
        deepstack=(0, 1),
    ),
}
HEAD_DIM: Final = 32
MROPE: Final = (6, 5, 5)
"""How a head's 16 frequencies are shared out between time, height and width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was made."""

    path: Path
    parameters: int
    frame_tokens: int
    """Image tokens of one frame."""
    vocab: int
    weights_sha256: str


def init_tiny(
    directory: Path,
    texts: Iterable[str],
    *,
    seed: int = 0,
    size: str = "1m",
    frame_px: int = 63,
    patch: int = 7,
    merge: int = 3,
    vocab: int = VOCAB,
    words: Sequence[str] = (),
) -> Made:
    """Write a new model to ``directory``, whole or not at all.

    ``texts`` are what the tokenizer is trained on: prompts and replies as the chat template renders them. ``words`` become
    one token each. ``frame_px`` is the side of the frames it is for; others are read too. The same arguments give the same
    ``model.safetensors`` and ``tokenizer.json``, byte for byte. Raises InvalidInput and UnknownName.
    """
    if size not in SIZES:
        raise UnknownName("size of a tiny model", size, SIZES)
    _check(seed=seed, frame_px=frame_px, patch=patch, merge=merge)
    with whole(directory) as draft:
        shown = list(texts)
        tokenizer = own.train(shown, vocab=vocab, words=words)
        config = _config(SIZES[size], tokenizer, frame_px=frame_px, patch=patch, merge=merge)
        parameters = write_weights(draft, config, seed=seed)
        own.save(tokenizer, draft, max_length=MAX_LENGTH)
        write_settings(draft, config, tokenizer, most_px=max(MAX_SIDE_PX, frame_px))
        made = Made(
            path=directory,
            parameters=parameters,
            frame_tokens=(frame_px // (patch * merge)) ** 2,
            vocab=tokenizer.get_vocab_size(),
            weights_sha256=sha256_of(draft / "model.safetensors"),
        )
        _tell(draft, made, shown, seed=seed, size=size, frame_px=frame_px, patch=patch, merge=merge)
    return made


def _check(*, seed: int, frame_px: int, patch: int, merge: int) -> None:
    if seed < 0:
        raise InvalidInput(f"seed must be 0 or more, not {seed}")
    for name, value in (("patch", patch), ("merge", merge)):
        if not 1 <= value <= 64:
            raise InvalidInput(f"{name} must be 1 to 64, not {value}")
    step = patch * merge
    if frame_px < step or frame_px % step:
        near = max(step, round(frame_px / step) * step)
        raise InvalidInput(f"frame_px must be a multiple of patch x merge = {step}, such as {near}, not {frame_px}")


def _config(size: Size, tokenizer: Tokenizer, *, frame_px: int, patch: int, merge: int) -> Qwen3VLConfig:
    end, pad = tokenizer.token_to_id(own.END), tokenizer.token_to_id(own.PAD)
    text = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": MAX_LENGTH,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": list(MROPE),
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "bos_token_id": pad,
        "eos_token_id": end,
        "pad_token_id": pad,
    }
    vision = {
        "depth": size.vision_depth,
        "hidden_size": size.vision_hidden,
        "num_heads": size.vision_heads,
        "intermediate_size": 2 * size.vision_hidden,
        "patch_size": patch,
        "spatial_merge_size": merge,
        "temporal_patch_size": 2,
        "out_hidden_size": size.hidden,
        "num_position_embeddings": (frame_px // patch) ** 2,
        "deepstack_visual_indexes": list(size.deepstack),
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **image_ids(tokenizer))


def image_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ids of the tokens that stand around and for pictures, by the keys that a Qwen3-VL's config has for them."""
    return {
        "image_token_id": tokenizer.token_to_id(own.IMAGE),
        "video_token_id": tokenizer.token_to_id(own.VIDEO),
        "vision_start_token_id": tokenizer.token_to_id(own.VISION_START),
        "vision_end_token_id": tokenizer.token_to_id(own.VISION_END),
    }


def write_weights(folder: Path, config: Qwen3VLConfig, *, seed: int) -> int:
    """Write new float32 weights and the config; gives how many parameters there are."""
    config.dtype = torch.float32
    config.architectures = [Qwen3VLForConditionalGeneration.__name__]
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    text, vision = cast(Any, config.text_config), cast(Any, config.vision_config)
    weights = {
        name: start(name, tensor.shape, seed=seed, depth=vision.depth if ".visual." in name else text.num_hidden_layers)
        for name, tensor in model.named_parameters()  # a tied weight is named once
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # it is written for its owner alone
    return sum(weight.numel() for weight in weights.values())


def write_settings(folder: Path, config: Qwen3VLConfig, tokenizer: Tokenizer, *, most_px: int) -> None:
    """Write how pictures are read and how text is generated. Up to a side of ``most_px``, pictures that fit keep their size."""
    vision: Any = config.vision_config
    step = vision.patch_size * vision.spatial_merge_size
    pictures = {
        "size": {"shortest_edge": step * step, "longest_edge": most_px * most_px},  # areas in pixels, in spite of the names
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
    }
    write_json(folder / "preprocessor_config.json", {**pictures, "image_processor_type": "Qwen2VLImageProcessorFast"})
    write_json(folder / "video_preprocessor_config.json", {**pictures, "video_processor_type": "Qwen3VLVideoProcessor"})
    end, pad = tokenizer.token_to_id(own.END), tokenizer.token_to_id(own.PAD)
    generation = {"do_sample": True, "temperature": 1.0, "bos_token_id": pad, "eos_token_id": [end, pad], "pad_token_id": pad}
    write_json(folder / "generation_config.json", generation)


def _tell(folder: Path, made: Made, texts: Sequence[str], **arguments: Any) -> None:
    """Write where the model comes from, for programs and for people."""
    lineage = {
        "kind": "tiny",
        "arguments": arguments,
        "geometry": asdict(SIZES[arguments["size"]]),
        "parameters": made.parameters,
        "frame_tokens": made.frame_tokens,
        "vocab": made.vocab,
        "texts": {"count": len(texts), "sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest()},
        "sha256": {"model.safetensors": made.weights_sha256, "tokenizer.json": sha256_of(folder / "tokenizer.json")},
    }
    write_json(folder / LINEAGE, lineage)
    (folder / "README.md").write_text(CARD.format(made=made, **arguments), encoding="utf-8")


CARD: Final = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [synthq, qwen3_vl, untrained]
---
# A tiny Qwen3-VL, untrained

A `Qwen3VLForConditionalGeneration` of {made.parameters:,} parameters with random weights (seed {seed}, size {size}),
for trying things out on any computer: it knows nothing until it is trained. A frame of {frame_px} x {frame_px} pixels is
{made.frame_tokens} image tokens (patches of {patch} pixels, {merge} x {merge} merged). The tokenizer has {made.vocab} tokens:
byte-level BPE trained on synthq's own prompts and replies, and the control tokens of the Qwen family.

Made by `synthq models init-tiny`; `synthq.json` tells from what.
"""

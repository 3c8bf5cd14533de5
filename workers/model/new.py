"""What makes a folder of a new model, of whatever size: weights, tokenizer, settings, and where it comes from."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from tokenizers import Tokenizer
from transformers import Qwen3VLConfig

from app import weights
from app.command_line import Tick, no_tick, size
from app.errors import InvalidInput
from app.geometry import Geometry
from workers.model import start
from workers.model import tokenizer as own
from workers.model.folder import LINEAGE, whole, write_json
from workers.model.geometry import config_of

VOCAB: Final = 1280
"""Most tokens of the tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was made."""

    path: Path
    parameters: int
    vocab: int
    """Tokens of the tokenizer."""
    sha256: str
    """Of the weights, as ``app.weights.sha256`` tells it."""
    frame_px: int
    """Side of a frame that it is for."""
    frame_tokens: int
    """Image tokens of such a frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A model that is to be made."""

    kind: str
    name: str
    """Of its size."""
    geometry: Geometry
    frame_px: int
    least_px: int
    """Square pictures of a smaller side are enlarged to this one."""
    most_px: int
    """And larger ones shrunk to this one."""


def make(
    directory: Path,
    plan: Plan,
    texts: Iterable[str],
    *,
    seed: int = 0,
    vocab: int = VOCAB,
    words: Sequence[str] = (),
    tick: Tick = no_tick,
) -> Made:
    """Write the model to ``directory``, whole or not at all.

    ``texts`` are what the tokenizer is trained on: prompts and replies as the chat template renders them; it has at most
    ``vocab`` tokens. ``words`` become one token each. ``tick`` is told of parameters as they are drawn. The same arguments give
    the same weights and the same ``tokenizer.json``, byte for byte. Raises InvalidInput.
    """
    if seed < 0:
        raise InvalidInput(f"seed must be 0 or more, not {seed}")
    with whole(directory) as draft:
        shown = list(texts)
        tokenizer = own.train(shown, vocab=vocab, words=words)
        config = config_of(plan.geometry, tokenizer)
        _check_room(draft, config)
        parameters = start.write(draft, config, seed=seed, tick=tick)
        own.save(tokenizer, draft, max_length=plan.geometry.max_length)
        _write_settings(draft, plan, tokenizer)
        made = Made(
            path=directory,
            parameters=parameters,
            vocab=tokenizer.get_vocab_size(),
            sha256=weights.sha256(draft),
            frame_px=plan.frame_px,
            frame_tokens=(plan.frame_px // (plan.geometry.patch * plan.geometry.merge)) ** 2,
        )
        _tell(draft, plan, made, shown, seed=seed)
    return made


def _check_room(folder: Path, config: Qwen3VLConfig) -> None:
    wanted = sum(shape.numel() for shape in start.skeleton(config).values()) * cast(Any, config.dtype).itemsize
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise InvalidInput(f"the weights take {size(wanted)}, and there are {size(free)} free in {folder.parent}")


def _write_settings(folder: Path, plan: Plan, tokenizer: Tokenizer) -> None:
    """How pictures are read, and how text is generated."""
    pictures = {
        "size": {"shortest_edge": plan.least_px**2, "longest_edge": plan.most_px**2},  # areas, in spite of their names
        "patch_size": plan.geometry.patch,
        "temporal_patch_size": 2,
        "merge_size": plan.geometry.merge,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
    }
    write_json(folder / "preprocessor_config.json", {**pictures, "image_processor_type": "Qwen2VLImageProcessorFast"})
    write_json(folder / "video_preprocessor_config.json", {**pictures, "video_processor_type": "Qwen3VLVideoProcessor"})
    end, pad = tokenizer.token_to_id(own.END), tokenizer.token_to_id(own.PAD)
    generation = {"do_sample": True, "temperature": 1.0, "bos_token_id": pad, "eos_token_id": [end, pad], "pad_token_id": pad}
    write_json(folder / "generation_config.json", generation)


def _tell(folder: Path, plan: Plan, made: Made, texts: Sequence[str], *, seed: int) -> None:
    """Where the model comes from, for programs and for people."""
    lineage: Mapping[str, Any] = {
        "kind": plan.kind,
        "size": plan.name,
        "seed": seed,
        "geometry": asdict(plan.geometry),
        "parameters": made.parameters,
        "frame": {"px": made.frame_px, "tokens": made.frame_tokens},
        "tokenizer": {
            "tokens": made.vocab,
            "texts": len(texts),
            "texts_sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest(),
            "sha256": weights.file_sha256(folder / "tokenizer.json"),
        },
        "sha256": made.sha256,
    }
    write_json(folder / LINEAGE, lineage)
    (folder / "README.md").write_text(CARD.format(made=made, plan=plan, seed=seed, geometry=plan.geometry), encoding="utf-8")


CARD: Final = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [synthq, qwen3_vl, untrained]
---
# An untrained Qwen3-VL ({plan.name})

A `Qwen3VLForConditionalGeneration` of {made.parameters:,} parameters with random weights (seed {seed}), for trying things
out: it knows nothing until it is trained. A frame of {plan.frame_px} x {plan.frame_px} pixels is {made.frame_tokens} image
tokens (patches of {geometry.patch} pixels, {geometry.merge} x {geometry.merge} merged). The tokenizer has {made.vocab} tokens:
byte-level BPE trained on synthq's own prompts and replies, and the control tokens of the Qwen family.

Made by `synthq models init-{plan.kind}`; `synthq.json` tells from what.
"""

"""A whole Qwen3-VL into memory, ready to be served or trained on: from a folder, or from the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration
from transformers.utils import logging as progress

from app import model_folder, weights
from app.errors import BadModel, InvalidInput, Unavailable, UnknownName
from app.model_folder import BaseFolder
from workers.model.hub import find
from workers.model.images import ImageReader

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that is in memory, and what has to be known of it."""

    ref: str
    """What was asked for: a folder or a hub id."""
    path: Path
    """The folder that it is in."""
    model: Qwen3VLForConditionalGeneration
    """In eval mode; no weight asks for gradients."""
    tokenizer: PreTrainedTokenizerBase
    images: ImageReader
    image_id: int
    """Of the token that stands for a piece of a picture."""
    video_id: int
    vision_start_id: int
    vision_end_id: int
    eos_ids: tuple[int, ...]
    """Any of these ends a reply."""
    patch: int
    """Side of a patch in pixels."""
    merge: int
    """Patches along each side that become one token."""
    temporal: int
    """Frames that one patch spans; a picture stands in it as many times."""
    vocab: int
    """Width of the logits; the tokenizer may have fewer tokens."""
    max_length: int
    """Most tokens of a prompt and its reply together."""
    device: torch.device
    dtype: torch.dtype
    sha256: str
    """Of the weights, as ``app.weights.sha256`` tells it."""


def load(ref: str | Path, *, device: str = "auto", dtype: str = "auto", views: bool = False) -> Loaded:
    """Load a whole model.

    ``device`` is auto (a GPU where there is one), cpu, cuda or cuda:N; ``dtype`` auto (float32 on a CPU, on a GPU the model's
    own), float32, bfloat16 or float16. A hub id is fetched unless it is in the hub's cache; HF_TOKEN opens what is private,
    and HF_HUB_OFFLINE=1 keeps to the cache. ``views``: weights on a CPU that are in their own precision stay in the file, for a
    caller that copies them soon. Raises BadModel for what is no whole Qwen3-VL, Unavailable when the hub does not answer, and
    InvalidInput for a device or dtype that there is not.
    """
    on = _device(device)
    path = find(str(ref))
    facts = model_folder.read(path)
    if not isinstance(facts, BaseFolder):
        raise BadModel(
            f"{ref} is an adapter for {facts.base or 'a model that it does not name'}; load that, and the adapter on it"
        )
    numbers = _dtype(dtype, facts.dtype, on)
    tokenizer = _tokenizer(path)
    model: Any = _model(path, numbers, on, views=views)
    config = model.config
    _check_tokens(path, tokenizer, config, facts.vocab)
    return Loaded(
        ref=str(ref),
        path=path,
        model=model,
        tokenizer=tokenizer,
        images=ImageReader.of(path),
        image_id=config.image_token_id,
        video_id=config.video_token_id,
        vision_start_id=config.vision_start_token_id,
        vision_end_id=config.vision_end_token_id,
        eos_ids=_eos_ids(model, tokenizer),
        patch=facts.patch,
        merge=facts.merge,
        temporal=facts.temporal,
        vocab=facts.vocab,
        max_length=facts.max_length,
        device=on,
        dtype=numbers,
        sha256=weights.sha256(path),
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InvalidInput(f"device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidInput(f"there is no device {name!r} here; this machine has {torch.cuda.device_count()} GPUs that torch sees")
    return device


def _dtype(name: str, own: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else DTYPES.get(own, torch.bfloat16)
    if name not in DTYPES:
        raise UnknownName("dtype", name, [*DTYPES, "auto"])
    return DTYPES[name]


def _tokenizer(path: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare exceptions for files that it cannot read
        raise BadModel(f"{path}: its tokenizer cannot be read: {_line(error)}") from error
    return tokenizer


def _model(path: Path, dtype: torch.dtype, device: torch.device, *, views: bool) -> Qwen3VLForConditionalGeneration:
    progress.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        config.fusion_config = None  # workers.model.vision reads the patch embedding as it is in the file
        loaded: Any = Qwen3VLForConditionalGeneration.from_pretrained(
            path, config=config, dtype=dtype, attn_implementation="sdpa", local_files_only=True, output_loading_info=True
        )
        model, report = loaded
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise BadModel(f"{path} cannot be loaded: {_line(error)}") from error
    if missing := sorted(report["missing_keys"]):  # transformers would begin them at random
        raise BadModel(f"{path} lacks {len(missing)} weights, {missing[0]} first")
    try:
        ready: Qwen3VLForConditionalGeneration = model.eval().requires_grad_(False).to(device)
        if device.type == "cpu" and not views:
            _take_in(ready)
    except torch.OutOfMemoryError as error:
        raise Unavailable(f"{path} does not fit into the memory that is free on {device}: {_line(error)}") from error
    return ready


def _take_in(model: Qwen3VLForConditionalGeneration) -> None:
    """Copy the weights, which are views of the file until then: whoever writes over it would change the model that is served."""
    for weight in model.parameters():
        weight.data = weight.data.clone()


def _line(error: Exception) -> str:
    """An error of a library in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def _check_tokens(path: Path, tokenizer: PreTrainedTokenizerBase, config: Any, vocab: int) -> None:
    """The tokenizer and the config must mean the same tokens. Raises BadModel."""
    if len(tokenizer) > vocab:
        raise BadModel(f"{path}: the tokenizer has {len(tokenizer)} tokens and the model knows {vocab}")
    named = {
        "image_token_id": "<|image_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    for key, token in named.items():
        has, wants = tokenizer.convert_tokens_to_ids(token), getattr(config, key)
        if has != wants:
            raise BadModel(f"{path}: {key} is {wants}, and in the tokenizer {token} is {has}")


def _eos_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    told = model.generation_config.eos_token_id
    ids = told if isinstance(told, list) else [told]
    return tuple(dict.fromkeys(int(id) for id in (*ids, tokenizer.eos_token_id) if id is not None))

"""What a folder with a model in it says of itself: a whole model (a base), or a LoRA adapter for one. Nothing is loaded.

Every file that is needed to serve the model is looked at, and the first thing that is wrong is told as a sentence, so that a job
is refused when it is submitted and not when an engine has started.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from app import weights
from app.errors import BadModel, cut
from app.weights import read_json

CONFIG: Final = "config.json"
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
ARCHITECTURE: Final = "Qwen3VLForConditionalGeneration"
MODEL_TYPE: Final = "qwen3_vl"
VISION: Final = "visual"
"""What the name of every part of the vision tower has in it, its mergers included."""
SERVED: Final = "adapter-"
"""What the name begins with under which an adapter is served that never changes."""
_SHAPES_AN_ADAPTER: Final = (
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
)
"""Keys of an adapter's config without which the same weights would mean something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFolder:
    """A whole model."""

    path: Path
    architecture: str
    parameters: int
    """Tied weights counted once."""
    patch: int
    """Side of a patch in pixels."""
    merge: int
    """Patches along each side that become one token."""
    temporal: int
    """Frames that one patch spans; a picture stands in it as many times."""
    min_pixels: int
    """Area that smaller pictures are enlarged to."""
    max_pixels: int
    """Area that larger pictures are shrunk to."""
    max_length: int
    """Most tokens of a prompt and its reply together."""
    vocab: int
    """Rows of the embedding; the tokenizer may have fewer tokens."""
    dtype: str
    """Of the weights, as its config has it: ``bfloat16``; empty when it says nothing."""
    kind: Literal["base"] = "base"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """A LoRA adapter, in peft's format."""

    path: Path
    base: str
    """Folder or hub id of the model that it was trained on, as its config has it; empty when it says nothing."""
    rank: int
    """The largest of its layers."""
    alpha: float
    targets: tuple[str, ...]
    """Names of layers, or one regular expression."""
    parameters: int
    touches_vision: bool
    """A weight of it is in the vision tower, which engines serve without adapters. Targets do not tell: they may be a pattern."""
    dora: bool
    saved_modules: tuple[str, ...]
    """Layers that were trained as a whole beside it."""
    sha256: str
    """Of what it is: its weights and the settings that shape them."""
    kind: Literal["adapter"] = "adapter"


ModelFolder = BaseFolder | AdapterFolder


def read(path: Path) -> ModelFolder:
    """What the folder says. Raises BadModel with what is missing or wrong."""
    if not path.is_dir():
        raise BadModel(f"there is no folder {str(path)!r}; a model is a folder with {CONFIG} or {ADAPTER_CONFIG} in it")
    if (path / CONFIG).is_file():
        return _base(path)
    if (path / ADAPTER_CONFIG).is_file():
        return _adapter(path)
    raise BadModel(f"{path} is no model: it has neither {CONFIG} (a whole model) nor {ADAPTER_CONFIG} (an adapter)")


def facts(folder: ModelFolder) -> dict[str, Any]:
    """The same as plain JSON values."""
    return dataclasses.asdict(folder) | {"path": str(folder.path)}


def _base(path: Path) -> BaseFolder:
    config = read_json(path / CONFIG)
    architecture = architecture_of(path, config)
    text, vision = _table(path, config, "text_config"), _table(path, config, "vision_config")
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise BadModel(f"{path} has no tokenizer: neither tokenizer.json nor vocab.json is there")
    pictures = image_processor(path)
    patch, merge = _number(path / CONFIG, vision, "patch_size"), _number(path / CONFIG, vision, "spatial_merge_size")
    for key, wanted in (("patch_size", patch), ("merge_size", merge)):
        if key in pictures and pictures[key] != wanted:
            raise BadModel(f"{path}: {CONFIG} and the image processor differ: {wanted} and {pictures[key]!r} for {key}")
    tied = bool(config.get("tie_word_embeddings"))
    found = weights.tensors(path)
    return BaseFolder(
        path=path,
        architecture=architecture,
        parameters=sum(tensor.count for name, tensor in found.items() if not (tied and name.startswith("lm_head."))),
        patch=patch,
        merge=merge,
        temporal=_number(path / CONFIG, vision, "temporal_patch_size"),
        min_pixels=_area(path, pictures, "min_pixels", "shortest_edge"),
        max_pixels=_area(path, pictures, "max_pixels", "longest_edge"),
        max_length=_number(path / CONFIG, text, "max_position_embeddings"),
        vocab=_number(path / CONFIG, text, "vocab_size"),
        dtype=str(config.get("dtype") or text.get("dtype") or config.get("torch_dtype") or ""),
    )


def architecture_of(path: Path, config: Mapping[str, Any]) -> str:
    """The architecture that a config names. Raises BadModel for one that synthq does not work with."""
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    kind = config.get("model_type")
    if kind != MODEL_TYPE or architecture not in ("", ARCHITECTURE):
        said = architecture or f"model_type {kind!r}"
        raise BadModel(
            f"{path} is a {cut(said)[1:-1] if architecture else said}; synthq works with {ARCHITECTURE}, the dense Qwen3-VL"
        )
    return ARCHITECTURE


def image_processor(path: Path) -> dict[str, Any]:
    """What the folder says of its image processor. Raises BadModel."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (path / name).is_file():
            told = read_json(path / name)
            inner = told.get("image_processor", told)
            if isinstance(inner, dict):
                return inner
    raise BadModel(f"{path} has no preprocessor_config.json, so how it reads pictures is not known")


def _table(path: Path, config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    if not isinstance(found, dict):
        raise BadModel(f"{path / CONFIG} has no {key}, which a Qwen3-VL has")
    return found


def _number(path: Path, table: Mapping[str, Any], key: str) -> int:
    found = table.get(key)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise BadModel(f"{path}: {key} must be a whole number above 0, not {cut(str(found))}")
    return found


def _area(path: Path, pictures: Mapping[str, Any], key: str, edge: str) -> int:
    size = pictures.get("size")
    found = pictures.get(key) or (size.get(edge) if isinstance(size, dict) else None)
    return _number(path / "preprocessor_config.json", {key: found}, key)


def _adapter(path: Path) -> AdapterFolder:
    config = read_json(path / ADAPTER_CONFIG)
    if (kind := config.get("peft_type")) != "LORA":
        raise BadModel(f"{path / ADAPTER_CONFIG}: peft_type must be 'LORA', not {cut(str(kind))}")
    if not (path / ADAPTER_WEIGHTS).is_file():
        raise BadModel(f"{path} has no {ADAPTER_WEIGHTS}")
    found = weights.header(path / ADAPTER_WEIGHTS)
    ranks = {tensor.shape[0] for name, tensor in found.items() if ".lora_A." in name and tensor.shape}
    if not ranks:
        raise BadModel(f"{path / ADAPTER_WEIGHTS} has no weights of a LoRA adapter (none named lora_A)")
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise BadModel(f"{path / ADAPTER_CONFIG}: lora_alpha must be a number, not {cut(str(alpha))}")
    return AdapterFolder(
        path=path,
        base=str(config.get("base_model_name_or_path") or ""),
        rank=max(ranks),
        alpha=float(alpha),
        targets=_names(config.get("target_modules")),
        parameters=sum(tensor.count for tensor in found.values()),
        touches_vision=any(VISION in name for name in found),
        dora=bool(config.get("use_dora")) or any("lora_magnitude_vector" in name for name in found),
        saved_modules=_names(config.get("modules_to_save")),
        sha256=adapter_sha256(path),
    )


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(sorted(str(name) for name in value)) if isinstance(value, list) else ()


def served_as(sha256: str) -> str:
    """Name under which the adapter of this sha256 is served: that of its content, so that it never comes to mean another."""
    return f"{SERVED}{sha256[:16]}"


def adapter_sha256(path: Path) -> str:
    """What tells one adapter from another: the sha256 of its weights and of the settings that say how strongly they count.

    Wherever an adapter's sha256 is written down or compared, it is this one. Raises BadModel.
    """
    config = read_json(path / ADAPTER_CONFIG)
    shaping = {key: config[key] for key in _SHAPES_AN_ADAPTER if config.get(key)}
    hashed = hashlib.sha256(json.dumps(shaping, sort_keys=True, separators=(",", ":")).encode())
    try:
        with (path / ADAPTER_WEIGHTS).open("rb") as file:
            while piece := file.read(1 << 20):
                hashed.update(piece)
    except OSError as error:
        raise BadModel(f"{path / ADAPTER_WEIGHTS} cannot be read: {error.strerror or error}") from error
    return hashed.hexdigest()

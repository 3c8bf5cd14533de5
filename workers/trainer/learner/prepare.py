"""Loads a model and makes of it what trains: with an adapter beside its weights, or as a whole."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from app import model_folder
from app.errors import InvalidInput, NotHere
from workers.model.adapters import AdapterWeights, language_layers, read_adapter
from workers.model.hub import find
from workers.model.loading import DTYPES, Loaded, load
from workers.trainer.learner import ranks
from workers.trainer.learner.layers import chosen, pattern
from workers.trainer.learner.settings import Settings
from workers.trainer.learner.shards import Shards, Whole

ADAPTER: Final = "default"
"""peft's name of the one adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model, some or all of whose weights train."""

    loaded: Loaded
    adapted: Any
    """peft's model around it; None where the model trains as a whole."""
    dtype: torch.dtype
    """What it computes in."""
    shards: Whole
    """Where its weights are."""

    @property
    def scale(self) -> float:
        """How strongly the adapter counts: alpha / r. 1 where there is none."""
        if self.adapted is None:
            return 1.0
        config = self.adapted.peft_config[ADAPTER]
        return float(config.lora_alpha / config.r)


def prepare(settings: Settings) -> Prepared:
    """Load the base and begin. Raises what ``workers.model.loading.load`` and ``read_adapter`` do, InvalidInput and NotHere."""
    device = _device(settings.device)
    if settings.sharding == "fsdp":
        return _dealt_out(settings, device)
    if settings.mode == "qlora" and (lacks := no_qlora()):
        raise NotHere(f"{lacks}; or take trainer mode 'lora'")
    loaded = load(settings.base, device=device, dtype=_held_in(settings, device))
    model: Any = loaded.model
    if loaded.dtype is torch.float16:  # small gradients are 0 in it
        loaded = replace(loaded, model=model.to(torch.bfloat16), dtype=torch.bfloat16)
    if settings.mode == "full":
        model.requires_grad_(True)
        return Prepared(loaded=loaded, adapted=None, dtype=_computed_in(settings, loaded), shards=Whole())
    if settings.mode == "qlora":
        _quantise(loaded)
    return Prepared(loaded=loaded, adapted=_adapted(loaded, settings), dtype=loaded.dtype, shards=Whole())


def _dealt_out(settings: Settings, device: str) -> Prepared:
    """The same with weights dealt out: read from their files where they lie, and never whole on a device."""
    if ranks.world()[1] == 1:
        raise InvalidInput(
            "sharding 'fsdp' deals a model out over several devices, and this trainer trains on one; give it more "
            "(SYNTHQ_TRAINER_DEVICES), or take sharding 'none'"
        )
    facts = model_folder.read(find(settings.base))
    own = facts.dtype if isinstance(facts, model_folder.BaseFolder) and facts.dtype in DTYPES else "bfloat16"
    on = torch.device(device if device.startswith("cuda") else "cpu")
    name = _held_in(settings, device)
    if name == "auto":
        name = "float32" if on.type == "cpu" else own
    name = "bfloat16" if name == "float16" else name
    full = settings.mode == "full"
    # layers are taken one by one into the precision that a model trains in; an adapter begins in that of its base
    loaded = load(settings.base, device="cpu", dtype=own if full else name, views=True)
    loaded = replace(loaded, device=on, dtype=DTYPES[name])
    model: Any = loaded.model.requires_grad_(full)
    adapted = None if full else _adapted(loaded, settings)
    kept = {weight for weight in model.parameters() if weight.requires_grad and not full}
    shards = Shards(model, device=on, dtype=DTYPES[name], kept=kept)
    dtype = _computed_in(settings, loaded) if full else loaded.dtype
    return Prepared(loaded=loaded, adapted=adapted, dtype=dtype, shards=shards)


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Have torch draw from a seed within a block, and go on as before after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _device(name: str) -> str:
    if name == "auto" and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}" if ranks.world()[1] > 1 else "cuda"
    return name


def _held_in(settings: Settings, device: str) -> str:
    """The precision that weights are loaded in."""
    if settings.mode == "full":
        return "float32"
    wide = settings.mode == "qlora" and settings.dtype == "auto" and device.startswith("cuda")
    return "bfloat16" if wide else settings.dtype


def _computed_in(settings: Settings, loaded: Loaded) -> torch.dtype:
    """What a model computes in that trains as a whole."""
    if settings.dtype != "auto":
        return DTYPES[settings.dtype]
    folder = model_folder.read(loaded.path)
    own = folder.dtype if isinstance(folder, model_folder.BaseFolder) else ""
    return torch.float32 if loaded.device.type == "cpu" or own == "float32" else torch.bfloat16


def _adapted(loaded: Loaded, settings: Settings) -> Any:
    """The model with an adapter on it, a new one or the one to begin from."""
    from peft import LoraConfig, TaskType, get_peft_model

    lora, model = settings.lora, loaded.model
    begun: AdapterWeights | None = None
    if settings.adapter:
        begun = read_adapter(Path(settings.adapter).expanduser(), model)
        rank, alpha, names = begun.rank, begun.scale * begun.rank, sorted(begun.weights)
    else:
        rank, alpha, names = lora.r, lora.alpha, chosen(lora.target_modules, model, lora.layers_to_transform)
    whole: Any = int(alpha) if alpha == int(alpha) else alpha
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=whole,
        lora_dropout=lora.dropout,
        target_modules=pattern(names, model),
    )
    with drawing(settings.seed, loaded.device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft asks by the older name
        adapted: Any = get_peft_model(model, config)
    config.base_model_name_or_path = settings.base
    if begun is not None:
        _begin_from(model, begun)
    return adapted


def _begin_from(model: nn.Module, begun: AdapterWeights) -> None:
    with torch.no_grad():
        for name, (down, up) in begun.weights.items():
            layer: Any = model.get_submodule(name)
            layer.lora_A[ADAPTER].weight.copy_(down)
            layer.lora_B[ADAPTER].weight.copy_(up)


def no_qlora() -> str:
    """What is missing for weights of 4 bits; nothing when they can be had."""
    if importlib.util.find_spec("bitsandbytes") is not None:
        return ""
    return "qlora needs the package bitsandbytes (`pip install -e '.[qlora]'` in synthq's folder brings it)"


def _quantise(loaded: Loaded) -> None:
    """Hold the linear layers of the language model in 4 bits (NF4)."""
    bitsandbytes = importlib.import_module("bitsandbytes")
    model: Any = loaded.model
    for name in language_layers(model.config):
        parent, _, child = name.rpartition(".")
        plain = model.get_submodule(name)
        small = bitsandbytes.nn.Linear4bit(
            plain.in_features, plain.out_features, bias=plain.bias is not None, compute_dtype=loaded.dtype, quant_type="nf4"
        )
        small.weight = bitsandbytes.nn.Params4bit(plain.weight.data, requires_grad=False, quant_type="nf4")
        if plain.bias is not None:
            small.bias = plain.bias
        setattr(model.get_submodule(parent), child, small.to(loaded.device))
    model.is_loaded_in_4bit = True  # what peft tells such layers by

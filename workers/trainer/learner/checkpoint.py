"""A learner's whole state in a folder: what it needs to go on as if nothing had happened, and nothing else.

Dropout draws from a seed, the step and the pass, so no state of a generator is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from app import weights
from app.errors import BadModel
from app.packed import sync
from workers.model.folder import whole, write_json
from workers.trainer.learner.shards import dealt

FORMAT: Final = 1
FACTS, WEIGHTS, MOMENTS = "learner.json", "weights.safetensors", "optimizer.safetensors"


def write(folder: Path, facts: Mapping[str, Any], trained: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, whole or not at all. Raises InvalidInput when there is something at ``folder`` already."""
    with whole(folder) as draft:
        for name, tensors in ((WEIGHTS, trained), (MOMENTS, moments)):
            write_tensors(draft / name, tensors)
        write_json(draft / FACTS, {"format": FORMAT, **facts})
        settle(draft)
    sync(folder.parent)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Facts, weights and moments of a checkpoint, on the CPU. Raises BadModel for what is none."""
    facts = weights.read_json(folder / FACTS)
    if facts.get("format") != FORMAT:
        raise BadModel(f"{folder / FACTS}: format is {facts.get('format')!r}, and this release reads {FORMAT}")
    return facts, _tensors(folder / WEIGHTS), _tensors(folder / MOMENTS)


def _tensors(path: Path) -> dict[str, Tensor]:
    weights.header(path)  # tells a file that was cut short
    try:
        found: dict[str, Tensor] = load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise BadModel(f"{path} cannot be read: {error}") from error
    return found


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as they are, the same ones always to the same bytes."""
    save_file({name: tensors[name].detach().contiguous() for name in sorted(tensors)}, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)  # it is written for its owner alone


def settle(folder: Path) -> None:
    """Have everything in a folder outlast a power cut."""
    for path in (*sorted(folder.rglob("*")), folder):
        sync(path)


def load_weights(into: Mapping[str, Tensor], found: Mapping[str, Tensor], where: Path) -> None:
    """Copy weights over those of a learner. Raises BadModel, having changed nothing, when they are not of the same form."""
    if missing := sorted(into.keys() ^ found.keys()):
        raise BadModel(f"{where} is of another learner: {len(missing)} weights are in one of the two only, {missing[0]} first")
    for name, weight in into.items():
        if weight.shape != found[name].shape:
            raise BadModel(
                f"{where} is of another learner: {name} is {list(found[name].shape)} there and {list(weight.shape)} here"
            )
    with torch.no_grad():
        for name, weight in into.items():
            weight.copy_(dealt(found[name], weight))

"""What was trained as a folder for others: an adapter as peft reads it, or a whole model as transformers does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from app import model_folder, weights
from app.errors import BadModel
from app.model_folder import ADAPTER_WEIGHTS, VISION
from app.packed import sync
from workers.model.adapters import read_adapter
from workers.model.export import SHARD
from workers.model.folder import LINEAGE, whole, write_json
from workers.model.loading import DTYPES
from workers.trainer.learner.checkpoint import settle, write_tensors
from workers.trainer.learner.prepare import ADAPTER, Prepared
from workers.trainer.learner.shards import collected

BESIDE: Final = (".json", ".jinja", ".txt")
"""Kinds of files that make a model whole beside its weights: settings, tokenizer, chat template."""


def export_adapter(prepared: Prepared, folder: Path, *, steps: int) -> str:
    """Write the adapter, whole or not at all; its sha256, as ``app.model_folder.adapter_sha256`` tells it.

    Raises BadModel for one that an engine would not take, and InvalidInput when there is something at ``folder``.
    """
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(prepared.adapted, adapter_name=ADAPTER, save_embedding_layers=False)
    if seen := next((name for name in tensors if VISION in name), None):
        raise BadModel(f"the adapter changes {seen} of the vision tower, which engines serve without adapters")
    config = prepared.adapted.peft_config[ADAPTER]
    with whole(folder) as draft:
        write_tensors(draft / ADAPTER_WEIGHTS, {name: tensor.cpu() for name, tensor in tensors.items()})
        config.inference_mode = True
        config.save_pretrained(draft)
        config.inference_mode = False
        sha256 = read_adapter(draft, prepared.loaded.model).sha256
        _tell(draft, prepared, "adapter", sha256, steps)
        settle(draft)
    sync(folder.parent)
    return sha256


def state_of(prepared: Prepared) -> dict[str, Tensor]:
    """The weights of a model that trains as a whole, in its base's precision, on the first process; all must call it."""
    dtype = _own(prepared)
    return collected({name: weight.detach().to(dtype) for name, weight in prepared.loaded.model.state_dict().items()})


def export_model(prepared: Prepared, state: dict[str, Tensor], folder: Path, *, steps: int) -> str:
    """Write the whole model, ``state_of`` it, whole or not at all; its sha256, as ``app.weights.sha256`` tells it.

    Everything but the weights is the base's own. Raises InvalidInput when there is something at ``folder``.
    """
    base, model = prepared.loaded.path, prepared.loaded.model
    with whole(folder) as draft:
        model.save_pretrained(draft, state_dict=state, max_shard_size=SHARD)
        for file in sorted(base.iterdir()):
            if file.is_file() and file.suffix in BESIDE and file.name not in (weights.INDEX, LINEAGE):
                shutil.copyfile(file, draft / file.name)
        sha256 = weights.sha256(draft)
        _tell(draft, prepared, "trained", sha256, steps)
        settle(draft)
    sync(folder.parent)
    return sha256


def _own(prepared: Prepared) -> torch.dtype:
    """The precision of the base's weights, as its config has it."""
    facts = model_folder.read(prepared.loaded.path)
    return DTYPES.get(facts.dtype if isinstance(facts, model_folder.BaseFolder) else "", torch.float32)


def _tell(folder: Path, prepared: Prepared, kind: str, sha256: str, steps: int) -> None:
    """Where it comes from, for programs and for people."""
    loaded: Any = prepared.loaded
    lineage: dict[str, Any] = {
        "kind": kind,
        "base": {"ref": loaded.ref, "sha256": loaded.sha256},
        "optimizer_steps": steps,
        "sha256": sha256,
    }
    before = loaded.path / LINEAGE
    if kind == "trained" and before.is_file():
        lineage["before"] = json.loads(before.read_text(encoding="utf-8"))
    write_json(folder / LINEAGE, lineage)

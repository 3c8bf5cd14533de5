"""``python -m workers.model.export REF DIR [--merge]``: a model as a folder of its own, to take elsewhere.

A whole model and an adapter are copied as they are. ``--merge`` makes one whole model of an adapter and its base, in the base's
precision: each layer is changed once, in float32, and rounded once. That needs memory for the base.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app import artifacts, db, engines, model_folder, weights
from app.command_line import Tick, counted, meter, no_tick, out, out_json, size, told
from app.errors import BadFlag, BadModel, NotHere
from app.model_folder import AdapterFolder, BaseFolder
from app.specs.engine import ARTIFACT_ID
from app.store import traces
from workers.model.folder import LINEAGE, whole, write_json

TIED: Final = frozenset({"lm_head", "embed_tokens"})
"""Layers that are one weight in a model with tied embeddings."""
SHARD: Final = "5GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    path: Path
    kind: str
    """``base``, ``adapter`` or ``merged``."""
    sha256: str
    """Of the weights; of an adapter as ``app.model_folder.adapter_sha256`` tells it."""
    bytes: int
    """Of the whole folder."""
    layers: int
    """That were changed by merging."""


def export(ref: str, directory: Path, *, merge: bool = False, base: str | None = None, tick: Tick = no_tick) -> Exported:
    """Write the model that ``ref`` names to ``directory``, whole or not at all.

    ``merge`` makes one whole model of an adapter and its base, which is the one that the adapter's config names unless
    ``base`` names another. ``tick`` is told of every file. Raises BadModel, ArtifactNotFound, InvalidInput and Unavailable.
    """
    folder = model_folder.read(_find(ref))
    if not merge:
        if base is not None:
            raise BadFlag(f"--base {base} is for merging; add --merge, or leave it out")
        return _copied(ref, folder, directory, tick)
    if isinstance(folder, BaseFolder):
        raise BadModel(f"{ref} is a whole model already, so there is nothing to merge; leave --merge out")
    onto = base or folder.base
    if not onto:
        raise BadModel(f"{ref} does not name the model that it was trained on; say which with --base")
    return _merged(ref, folder, onto, _find(onto), directory, tick)


def _find(ref: str) -> Path:
    """The folder that a ref names: a folder, a hub id, or the id of an artifact in the store of this machine."""
    from workers.model.hub import find

    if not ARTIFACT_ID.fullmatch(ref):
        return find(ref)
    with db.reading() as session:
        row = traces.artifact(session, ref)
    folder = artifacts.folder_of(row)
    if folder is None:
        raise BadModel(f"artifact {ref} is a {row.kind}, and no folder that is mounted here; a model is a folder")
    return folder.absolute()


def _copied(ref: str, folder: BaseFolder | AdapterFolder, directory: Path, tick: Tick) -> Exported:
    with whole(directory) as draft:
        for file in _files(folder.path):
            shutil.copyfile(file, draft / file.name)
            tick(1)
        sha256 = folder.sha256 if isinstance(folder, AdapterFolder) else weights.sha256(draft)
        _tell(draft, {"kind": folder.kind, "source": ref, "sha256": sha256})
        written = _bytes(draft)
    return Exported(path=directory, kind=folder.kind, sha256=sha256, bytes=written, layers=0)


def _merged(ref: str, adapter: AdapterFolder, onto: str, base: Path, directory: Path, tick: Tick) -> Exported:
    before = model_folder.read(base)
    if not isinstance(before, BaseFolder):
        raise BadModel(f"{onto}, the base of {ref}, is an adapter itself; merge that into its base first")
    with whole(directory) as draft:
        layers = _merge(ref, adapter, onto, before, draft)
        sources = {*weights.files(base), base / weights.INDEX, base / model_folder.CONFIG}
        for file in _files(base):
            if file not in sources:
                shutil.copyfile(file, draft / file.name)
            tick(1)
        sha256 = weights.sha256(draft)
        parts = {"adapter": {"ref": ref, "sha256": adapter.sha256}, "base": {"ref": onto, "sha256": weights.sha256(base)}}
        _tell(draft, {"kind": "merged", **parts, "sha256": sha256})
        written = _bytes(draft)
    return Exported(path=directory, kind="merged", sha256=sha256, bytes=written, layers=layers)


def _merge(ref: str, adapter: AdapterFolder, onto: str, base: BaseFolder, draft: Path) -> int:
    """Write weights and config of the two as one; gives how many layers are changed. Raises BadModel when they do not fit."""
    from peft import PeftConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    from workers.model.loading import load

    loaded = load(base.path, device="cpu", dtype=base.dtype or "bfloat16")
    if loaded.model.config.tie_word_embeddings and (tied := TIED & set(adapter.saved_modules)):
        raise BadModel(
            f"{ref} holds {min(tied)} as a whole, and in {onto} one weight is both embedding and output; it cannot be two"
        )
    try:
        both: Any = PeftModel(loaded.model, PeftConfig.from_pretrained(str(adapter.path)))
        found = both.load_adapter(adapter.path, "default", torch_device="cpu")
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise BadModel(f"{ref} does not fit {onto}: {' '.join(str(error).split())[:300]}") from error
    if strange := [*found.unexpected_keys, *found.missing_keys]:
        what = f"{counted(len(strange), 'weight')} without a place there or missing"
        raise BadModel(f"{ref} does not fit {onto}: {what}, {strange[0]} first")
    layers = [module for module in both.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        _merge_layer(layer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All adapters are already merged")
        merged = both.merge_and_unload()  # puts the layers back in their places
    merged.save_pretrained(draft, max_shard_size=SHARD)
    (draft / "generation_config.json").unlink(missing_ok=True)  # the base's own is copied
    return len(layers) + len(adapter.saved_modules)


def _merge_layer(layer: Any) -> None:
    """Merge in float32: in half precision peft would round twice, what the adapter adds and then the sum."""
    weight = layer.get_base_layer().weight
    dtype = weight.dtype
    weight.data = weight.data.float()
    layer.merge(safe_merge=True)
    weight = layer.get_base_layer().weight
    weight.data = weight.data.to(dtype)


def _files(folder: Path) -> list[Path]:
    """The files of a model. Folders in it, hidden files and weights in other formats are none of it."""
    found = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return [file for file in found if file.suffix not in (".bin", ".pt", ".pth", ".msgpack", ".h5", ".gguf")]


def _tell(folder: Path, lineage: Mapping[str, Any]) -> None:
    """Where the model comes from, over what the source said of itself."""
    before = folder / LINEAGE
    history = {"before": json.loads(before.read_text(encoding="utf-8"))} if before.is_file() else {}
    write_json(folder / LINEAGE, {**lineage, **history})


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.model.export", description=__doc__)
    parser.add_argument("ref")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--base")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    return told(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    if why := engines.why_not(engines.TRANSFORMERS):
        raise NotHere(why)
    begun = time.monotonic()
    with meter("writing") as tick:
        done = export(given.ref, given.directory.expanduser().absolute(), merge=given.merge, base=given.base, tick=tick)
    if given.json:
        told_of = {"path": str(done.path), "kind": done.kind, "sha256": done.sha256, "bytes": done.bytes, "layers": done.layers}
        out_json(told_of)
        return 0
    how = {"base": "a copy of the model", "adapter": "a copy of the adapter"}
    what = how.get(done.kind) or f"a whole model with the adapter merged into {counted(done.layers, 'layer')}"
    out(f"✓ {done.path}: {what}, {size(done.bytes)}, in {time.monotonic() - begun:.1f} s")
    out(f"  sha256 of its weights: {done.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

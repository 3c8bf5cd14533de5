"""``python -m workers.model.export REF DIR [--merge]``: a model as a folder of its own, to take elsewhere.

An adapter is copied, or merged into its base: every layer that it changes becomes ``W + scale * B A``, computed in float32 and
rounded once to the base's precision; everything else of the base stays as it is, byte for byte. One file of weights is in
memory at a time, so a machine merges models that it could not run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from app import engines, model_folder, weights
from app.command_line import Tick, counted, meter, no_tick, out, out_json, size, told
from app.errors import BadFlag, BadModel, NotHere
from app.model_folder import AdapterFolder, BaseFolder
from workers.model.folder import LINEAGE, whole, write_json

if TYPE_CHECKING:
    from workers.model.adapters import AdapterWeights


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
    ``base`` names another. ``tick`` is told of every file. Raises BadModel, InvalidInput and Unavailable.
    """
    from workers.model.loading import find

    path = find(ref)
    folder = model_folder.read(path)
    if not merge:
        if base is not None:
            raise BadFlag(f"--base {base} is for merging; add --merge, or leave it out")
        return _copied(ref, folder, directory, tick)
    if isinstance(folder, BaseFolder):
        raise BadModel(f"{ref} is a whole model already, so there is nothing to merge; leave --merge out")
    onto = base or folder.base
    if not onto:
        raise BadModel(f"{ref} does not name the model that it was trained on; say which with --base")
    return _merged(ref, folder, onto, find(onto), directory, tick)


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
    from transformers import AutoConfig

    from workers.model.adapters import read_adapter

    if not isinstance(model_folder.read(base), BaseFolder):
        raise BadModel(f"{onto}, the base of {ref}, is an adapter itself; merge that into its base first")
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    held = read_adapter(adapter.path, SimpleNamespace(config=config))
    there = weights.tensors(base)
    if lacking := [name for name in held.weights if f"{name}.weight" not in there]:
        raise BadModel(f"{onto} has no {lacking[0]}, which {ref} changes")
    with whole(directory) as draft:
        sources = weights.files(base)
        for file in _files(base):
            if file in sources:
                _merge_file(file, draft / file.name, held)
            else:
                shutil.copyfile(file, draft / file.name)
            tick(1)
        sha256 = weights.sha256(draft)
        parts = {"adapter": {"ref": ref, "sha256": held.sha256}, "base": {"ref": onto, "sha256": weights.sha256(base)}}
        _tell(draft, {"kind": "merged", **parts, "sha256": sha256})
        written = _bytes(draft)
    return Exported(path=directory, kind="merged", sha256=sha256, bytes=written, layers=len(held.weights))


def _merge_file(source: Path, target: Path, adapter: AdapterWeights) -> None:
    """One file of weights, with the adapter's part added to those that it changes."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    held = load_file(source, device="cpu")
    for name, (down, up) in adapter.weights.items():
        if (weight := held.get(f"{name}.weight")) is not None:
            changed = weight.float() + adapter.scale * (up.float() @ down.float())
            held[f"{name}.weight"] = changed.to(weight.dtype)
    with safe_open(source, framework="pt") as file:
        save_file(held, target, metadata=file.metadata())
    target.chmod(source.stat().st_mode)


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

"""The files of a filter: written out of the spool in their final order, stored under their hashes, named by rows."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from app import artifacts
from app.errors import StepFailed
from app.models import Artifact
from app.specs import FilterTable, sha256
from app.specs.filter import EPISODE_IDS
from workers.rollout.export.columns import Ints
from workers.rollout.export.pulse import Pulse
from workers.rollout.export.spool import Spool
from workers.rollout.export.turns import Kept
from workers.rollout.selection import Candidate
from workers.runner import StepContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file of lines."""

    name: str
    side: str | None
    """``train`` or ``val``; None where nothing is kept apart."""
    lines: int
    bytes: int
    sha256: str


def write(
    context: StepContext, pulse: Pulse, spool: Spool, sides: Mapping[str | None, Ints], names: Mapping[str | None, str]
) -> list[Written]:
    """Write a file for each side, in the step's folder. Raises StepFailed when the disk has no room for them."""
    _check_room(context.workdir, sum(spool.bytes(rows) for rows in sides.values()))
    return [_write(_path(context, side), pulse, spool, names[side], side, rows) for side, rows in sides.items()]


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StepFailed(f"the lines take {needed:,} bytes, and {folder} has {free:,} left; ask for fewer, or make room")


def _write(path: Path, pulse: Pulse, spool: Spool, name: str, side: str | None, rows: Ints) -> Written:
    hasher, size = hashlib.sha256(), 0
    with path.open("wb") as out:
        for row in rows:
            pulse()
            content = spool.read(int(row))
            out.write(content)
            hasher.update(content)
            size += len(content)
    return Written(name=name, side=side, lines=len(rows), bytes=size, sha256=hasher.hexdigest())


def _path(context: StepContext, side: str | None) -> Path:
    return context.workdir / f"{side or 'all'}.jsonl"


def publish(
    context: StepContext,
    written: Sequence[Written],
    counts: Mapping[str, Any],
    about_lines: Mapping[str, Any],
    used: Sequence[Candidate],
    episodes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Store the files, and what is told of them, and name them all in one transaction. Gives the job's summary.

    ``used`` are the episodes that lines come from, ``episodes`` what the manifest tells of them.
    """
    table: FilterTable = context.spec.filter
    store = partial(
        artifacts.store_file,
        job_id=context.job_id,
        step_id=context.step_id,
        parents=sorted({episode.job_id for episode in used}),
    )
    made = [_dataset(store, context, file) for file in written]
    if table.save_stats:
        text = json.dumps({"spec_sha256": sha256(context.spec), **counts, **about_lines}, indent=1) + "\n"
        made.append(_beside(store, context, "stats", table.stats_file, text))
    if table.save_episode_ids:
        made.append(_beside(store, context, "episode_ids", EPISODE_IDS, "".join(f"{episode.id}\n" for episode in used)))
    first = written[0]
    content = {
        "synthq": version("synthq"),
        "spec_sha256": sha256(context.spec),
        **counts,
        "sha256": first.sha256,
        "files": [{"kind": each.kind, "name": each.name, "bytes": each.bytes, "sha256": each.sha256} for each in made],
        "made_from": list(episodes),
    }
    made.append(_beside(store, context, "manifest", f"{context.spec.stem}.manifest.json", json.dumps(content, indent=1) + "\n"))
    context.check()
    with context.write() as session:
        rows = [artifacts.record(session, each) for each in made]
        files = [_told(row, file) for row, file in zip(rows, [*written, *[None] * len(rows)], strict=False)]
    return {
        **counts,
        "sha256": first.sha256,
        "name": first.name,
        "artifact": files[0]["artifact"],
        "manifest": files[-1]["artifact"],
        "files": files,
    }


def _dataset(store: partial[Artifact], context: StepContext, file: Written) -> Artifact:
    stored = store(_path(context, file.side), kind="dataset", name=file.name, data=asdict(file))
    if stored.sha256 != file.sha256:
        raise StepFailed(f"{file.name} has sha256 {stored.sha256}, and {file.sha256} was written: the disk may be damaged")
    return stored


def _beside(store: partial[Artifact], context: StepContext, kind: str, name: str, text: str) -> Artifact:
    path = context.workdir / kind
    path.write_text(text, encoding="utf-8")
    return store(path, kind=kind, name=name)


def _told(row: Artifact, file: Written | None) -> dict[str, Any]:
    about = {} if file is None else {"lines": file.lines, "side": file.side}
    return {"artifact": row.id, "kind": row.kind, "name": row.name, "bytes": row.bytes, **about}


def sources(sides: Mapping[str | None, Ints], kept: Kept, chosen: Sequence[Candidate]) -> list[tuple[Candidate, dict[str, Any]]]:
    """The episodes that lines come from, in order, and what the manifest tells of each."""
    found = {}
    for side, rows in sides.items():
        for number, count in zip(*(column.tolist() for column in np.unique(kept.episode[rows], return_counts=True)), strict=True):
            e = chosen[number]
            row = {"job": e.job_id, "episode": e.id, "seed": e.seed, "member": e.member, "turns": e.turns, "sha256": e.sha256}
            found[number] = (e, {**row, "side": side, "lines": count})
    return [found[number] for number in sorted(found)]

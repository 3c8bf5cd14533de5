"""The step of an ``sft`` job, in the trainer's worker: finds what is asked for, has the child train, and stores what came out.

The child's checkpoints are in the job's folder on this machine, so whoever does the step again here goes on from the newest.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, Final

from sqlmodel import col, select

from app import artifacts, db, runs, training_refs
from app.dataset import Options, Summary, check
from app.errors import BadDataset, Problem
from app.models import FOLDER_KINDS, Artifact
from app.specs.sft import SftSpec
from app.store import metrics
from app.training_refs import Start
from workers.runner import StepContext
from workers.trainer import loggers, resident
from workers.trainer.loggers import Loggers
from workers.trainer.sft import MOST_TOLD

TARGET: Final = "workers.trainer.sft.loop:run"
WRITE_S: Final = 1.0
"""Rows of figures are written together, no more often than this."""
LINES_AT_ONCE: Final = 256
"""Lines that are checked between two signs of life."""


def run(context: StepContext) -> dict[str, Any]:
    """Train what the spec says; gives the job's summary."""
    if (done := _made(context)) is not None:
        return done
    spec: SftSpec = context.spec
    with db.reading() as session:
        begin = training_refs.start(session, model=spec.sft.model, warm=spec.sft.warmstart_from)
        train = training_refs.dataset(session, spec.sft.data).train
        val = training_refs.validation(session, spec.sft)
        session.expunge_all()
    args = {
        "spec": context.claim.spec,
        "base": begin.base,
        "adapter": begin.adapter,
        "train": _local(context, train),
        "val": None if val is None else _local(context, val),
        "folder": str(runs.folder(context.job_id)),
    }
    context.log(_says(spec, begin, train, val))
    with loggers.of(context) as others:
        told = Told(context, others)
        with resident.child() as child:
            result = child.call(TARGET, args, on_event=told.take, check=context.check)
        told.write()
    return _store(context, result, begin, [row for row in (train, val) if row is not None])


def _made(context: StepContext) -> dict[str, Any] | None:
    """The summary, if this step has stored its model before and was lost then: its checkpoints may be gone."""
    query = select(Artifact).where(Artifact.step_id == context.step_id, col(Artifact.kind).in_(FOLDER_KINDS))
    with db.reading() as session:
        row = session.exec(query).first()
        return None if row is None else _summary(row)


def _summary(row: Artifact) -> dict[str, Any]:
    return {"artifact": row.id, "kind": row.kind, "sha256": row.sha256, "bytes": row.bytes, **row.data["result"]}


def _says(spec: SftSpec, begin: Start, train: Artifact, val: Artifact | None) -> str:
    going_on = f", going on from {begin.adapter}" if begin.adapter else ""
    tried = f", tried on {val.name} ({val.id})" if val is not None else ""
    layers = "" if spec.sft.mode == "full" else f"; the adapter is on {', '.join(spec.lora.layers)} of the language model"
    return f"training {begin.base}{going_on} on {train.name} ({train.id}){tried}{layers}"


def _local(context: StepContext, row: Artifact) -> dict[str, str]:
    """The lines of an artifact as a file here, checked: its bytes against its sha256, and every line and picture."""
    path = context.workdir / f"{row.id}.jsonl"
    with artifacts.open_artifact(row, verify=True) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, artifacts.CHUNK_BYTES)
    _check(context, path, row.name)
    return {"path": str(path), "name": row.name}


def _check(context: StepContext, path: Path, name: str) -> None:
    """Raise BadDataset with the first problems of a file."""
    table = context.spec.sft
    options = Options(max_images=0 if table.supports_vision is False else table.max_images_per_message)
    summary, kept = Summary(), list[Problem]()

    def alive() -> None:
        if summary.lines % LINES_AT_ONCE == 0:
            context.check()
            context.progress(0)

    for problem in check(path, options, summary, name=name, after_line=alive):
        if len(kept) < MOST_TOLD:
            kept.append(problem)
    if kept:
        raise BadDataset(kept, total=summary.problems, lines=summary.lines)


class Told:
    """What the child tells, on its way into the store, and to whom else the spec wants told."""

    def __init__(self, context: StepContext, others: Loggers) -> None:
        self._context, self._others = context, others
        self._rows: list[dict[str, Any]] = []
        self._done: tuple[int, int] | None = None
        self._written_at = time.monotonic()

    def take(self, event: dict[str, Any]) -> None:
        """Take one; rows of figures wait for the next ones, but not beyond a checkpoint, from which they would not come again."""
        if "warning" in event:
            self._context.log(event["warning"], "warning", type="sft.warning")
        if "scope" in event:
            self._rows.append(event)
            self._done = (event["index"], event["total"])
        elif "done" in event:
            self._done = (event["done"], event["total"])
        if "checkpoint" in event or time.monotonic() - self._written_at >= WRITE_S:
            self.write()

    def write(self) -> None:
        """Write what waits."""
        rows, self._rows = self._rows, []
        self._written_at = time.monotonic()
        with self._context.write() as session:
            for row in rows:
                metrics.record(session, self._context.job_id, row["scope"], row["index"], row["values"])
            if self._done is not None:
                done, total = self._done
                self._context.progress(done, total or None, session=session)
        for row in rows:
            self._others.log(row["scope"], row["index"], row["values"])


def _store(context: StepContext, result: dict[str, Any], begin: Start, data: list[Artifact]) -> dict[str, Any]:
    """Store the folder that came out, name it, and take the checkpoints away. Gives the job's summary."""
    spec: SftSpec = context.spec
    folder = Path(result.pop("folder"))
    kind = "model" if result["trainer_mode"] == "full" else "adapter"
    parents = sorted({*begin.parents, *(row.job_id for row in data)})
    about = {
        "base": begin.base,
        "base_sha256": result["base_sha256"],
        "begun_from": begin.adapter_sha256,
        "data": [{"artifact": row.id, "sha256": row.sha256} for row in data],
        "steps": result["of_step"],
        "result": result,
    }
    made = artifacts.store_folder(
        folder,
        job_id=context.job_id,
        step_id=context.step_id,
        kind=kind,
        name=f"{spec.name or 'sft'}-{kind}",
        parents=parents,
        data=about,
    )
    context.check()
    with context.write() as session:
        summary = _summary(artifacts.record(session, made))
        context.progress(result["steps"], result["steps"], session=session)  # it may have stopped early
    runs.delete(context.job_id)
    return summary

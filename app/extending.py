"""An rl job that goes on exactly where another one stood: which job that is, and whether it can be done.

Looked up when the job is submitted, so that what cannot go on is refused there, with its key. The trainer loads the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlmodel import Session, col, select

from app import db, runs, specs
from app.errors import NotFound, Problem, SpecProblems
from app.models import ENDED, Job, ModelUse
from app.specs import AnySpec, RlSpec
from app.store import jobs, metrics
from app.training_refs import Start

KEY: Final = "model.extend"
UPDATES: Final = "update"
"""The scope of metrics that has a point for each update."""


def settled(spec: AnySpec) -> AnySpec:
    """The spec with the job that it goes on from by its whole id, and after how many updates; any other spec as it is.

    Raises SpecProblems for what is no such job, or has not come so far.
    """
    if not isinstance(spec, RlSpec) or spec.model.extend is None:
        return spec
    ref, wanted = spec.model.extended
    try:
        with db.reading() as session:
            job = jobs.find(session, ref)
            updates = _updates(session, job, wanted)
    except NotFound as error:
        raise _refused(str(error)) from None
    resolved = specs.resolved(spec)
    return specs.parse("rl", {**resolved, "model": {**resolved["model"], "extend": f"{job.id}@{updates}"}})


def _refused(message: str) -> SpecProblems:
    return SpecProblems([Problem(key=KEY, message=message)])


def _updates(session: Session, job: Job, wanted: int | None) -> int:
    """After how many updates of a job it is to be gone on."""
    if job.kind != "rl":
        raise _refused(
            f"job {job.id} is of the kind {job.kind}, and only an rl job can be gone on from; --warmstart-from takes any"
        )
    if job.state not in ENDED:
        raise _refused(f"job {job.id} is {job.state}; go on from it when it has ended")
    before = RlSpec.model_validate(job.spec)
    done = next((each.last + 1 for each in metrics.scopes(session, job.id) if each.scope == UPDATES), before.begun)
    if done == before.begun:
        raise _refused(f"job {job.id} is {job.state} and has made no update, so there is nothing to go on from")
    if wanted is not None and not before.begun < wanted <= done:
        earlier = f"; it went on from {before.model.extend} itself" if before.begun and wanted <= before.begun else ""
        raise _refused(f"job {job.id} stood after {before.begun + 1} to {done} updates, and never after {wanted}{earlier}")
    return wanted or done


def checked(spec: RlSpec, begin: Start) -> list[str]:
    """What is not as it was in the job that a job goes on from, a sentence each. Raises SpecProblems where it cannot go on."""
    ref, updates = spec.model.extended
    if spec.model.extend is None or updates is None:
        return []
    with db.reading() as session:
        job = jobs.find(session, ref)
        use = session.exec(select(ModelUse).where(col(ModelUse.job_id) == job.id)).first()
        before = RlSpec.model_validate(job.spec)
    problems = [*_other_model(spec, before, begin, use), *_seen_seeds(spec, before, job.id)]
    kept = runs.checkpoints(job.id)
    if runs.folder(job.id).is_dir() and updates not in kept:
        problems.append(Problem(key=KEY, message=_gone(job.id, updates, kept)))
    if problems:
        raise SpecProblems(problems)
    return list(_cautions(spec, before, job.id, here=bool(kept)))


def _other_model(spec: RlSpec, before: RlSpec, begin: Start, use: ModelUse | None) -> Iterator[Problem]:
    """What the checkpoint's weights would not fit."""
    instead = f"; --warmstart-from {spec.model.extended[0]} begins from its adapter, with a new optimizer"
    if use is not None and (use.base, use.adapter_path) != (begin.base, begin.adapter):
        then, here = (" with ".join(filter(None, pair)) for pair in ((use.base, use.adapter_path), (begin.base, begin.adapter)))
        yield Problem(key=KEY, message=f"it began from {then}, and this job from {here}; leave the model as it was")
    for key, was, now in (
        ("model.trainer_mode", before.model.trainer_mode, spec.model.trainer_mode),
        ("lora.r", before.lora.r, spec.lora.r),
        ("lora.alpha", before.lora.alpha, spec.lora.alpha),
        ("lora.target_modules", ", ".join(before.lora.layers), ", ".join(spec.lora.layers)),
        ("lora.layers_to_transform", _depths(before), _depths(spec)),
    ):
        if was != now and (key == "model.trainer_mode" or not begin.adapter):
            yield Problem(key=key, message=f"{now} is not what the checkpoint was trained with, {was}{instead}")


def _depths(spec: RlSpec) -> str:
    depths = spec.lora.layers_to_transform
    return "all" if depths is None else ", ".join(map(str, depths))


def _seen_seeds(spec: RlSpec, before: RlSpec, job_id: str) -> Iterator[Problem]:
    seen = frozenset(before.seeds)
    for key, seeds in (("evaluation.seeds", spec.evaluation.seeds), ("data.final_seeds", spec.data.final_seeds or ())):
        if both := [seed for seed in seeds if seed in seen]:
            told = f"seed {both[0]}{f' and {len(both) - 1} more' if len(both) > 1 else ''}"
            yield Problem(
                key=key, message=f"{told} is of the training of {job_id} too, which this job goes on from; keep them apart"
            )


def _gone(job_id: str, updates: int, kept: list[int]) -> str:
    there = f"after {', '.join(map(str, kept))} updates, of which one can be gone on from" if kept else "none any more"
    return (
        f"the checkpoint of {job_id} after {updates} updates is not kept (kept are {there}; checkpoint.keep says how many); "
        f"--warmstart-from {job_id} begins from its adapter, with a new optimizer"
    )


def _cautions(spec: RlSpec, before: RlSpec, job_id: str, *, here: bool) -> Iterator[str]:
    training, groups = spec.training, (spec.data.seed_start, spec.data.seeds, spec.groups)
    if not here:
        yield f"{KEY}: no checkpoint of {job_id} is on the server's machine; a trainer that has none either fails the job"
    if training.schedule != "constant" or training.warmup_ratio:
        yield (
            f"{KEY}: the learning rate goes on at step {spec.begun} of {spec.end} of its course; one job of {spec.end} "
            "iterations would have had another course until there"
        )
    if training.staleness:
        yield f"{KEY}: the first iteration is played by the newest adapter; in one job it would have been played ahead of it"
    if (before.data.seed_start, before.data.seeds, before.groups) != groups:
        yield f"{KEY}: seeds are counted as if all {spec.begun} iterations before had been of this job, so some may come again"

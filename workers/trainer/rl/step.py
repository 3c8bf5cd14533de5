"""The steps ``begin`` and ``update`` of an rl job: the child computes; what it made is written down, published and waited for.

Each may run twice. The child tells again what it has done; a version is published under the number that it must have; and the
points of metrics take the place of those that are there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from sqlmodel import Session, col, select

from app import artifacts, broker, db
from app.endpoints import publish, use_of
from app.errors import StepFailed
from app.models import AdapterVersion, Artifact, Job, ModelUse, VersionState
from app.specs.rl import RlSpec
from app.store import events, metrics
from workers.runner import Drain, StepContext
from workers.trainer import loggers, resident
from workers.trainer.loggers import Loggers
from workers.trainer.rl.runs import Runs

LIVE_S: Final = 60.0
"""How long an update waits for its version to go live before it makes room for other work."""
LOOK_S: Final = 0.1
AGAIN_S: Final = 5.0
SCOPE: Final = "update"
"""Of the metrics of updates; the index is the iteration."""
EVALUATIONS: Final = "eval"
"""Of those of evaluations, which the workers that play write; the index is the number of updates before."""


def begin(context: StepContext) -> dict[str, Any]:
    """Make what training begins from, and publish it; of a job that is tried again, what its last update made.

    Gives how many updates are done already, as ``updates``, with those of the job that it goes on from.
    """
    use, runs = _use(context), _runs(context)
    told = _ask(context, "begin", use)
    done = runs.updates
    context.log(_says(context.spec, use, told, done))
    for sentence in told.get("substituted", ()):
        context.log(sentence, "warning", type="rl.warning")
    told = runs.result(done - 1) or told
    seconds = _take_live(context, use, done - 1, told)
    return {"updates": done, "version": done + 1, "seconds": round(seconds, 3)}


def update(context: StepContext) -> dict[str, Any]:
    """Learn from an iteration's play, publish what came of it, and wait until that is what plays."""
    iteration: int = context.payload["iteration"]
    use = _use(context)
    told = _ask(context, "run", use, iteration=iteration, version=iteration + 1)
    figures = {**told["figures"], "seconds/publish": _take_live(context, use, iteration, told)}
    with loggers.of(context) as others:
        with context.write() as session:
            metrics.record(session, context.job_id, SCOPE, iteration, figures)
        others.log(SCOPE, iteration, figures)
        _tell_evaluations(context, others, iteration - 1)  # the one beside this update may not be scored yet
    return {"version": iteration + 2, "stop": told["stop"], "warnings": told["warnings"]}


def _tell_evaluations(context: StepContext, others: Loggers, *updates: int) -> None:
    """Tell the loggers, which are on this machine, how the model did after so many updates, where it was tried then."""
    with db.reading() as session:
        points = metrics.series(session, context.job_id, EVALUATIONS, after=min(updates) - 1)
        told = [(point.index, dict(point.values)) for point in points if point.index in updates]
    for index, values in told:
        others.log(EVALUATIONS, index, values)


def _says(spec: RlSpec, use: ModelUse, told: Mapping[str, Any], done: int) -> str:
    begun = f"going on from {use.adapter_path}" if use.adapter_path else "a new adapter"
    if spec.model.extend is not None:
        begun = f"going on where {spec.model.extend} stood, with an adapter"
    later = f"; {done - spec.begun} updates are done already" if done > spec.begun else ""
    layers = ", ".join(spec.lora.layers)
    return f"training {use.base}, {begun} of {told['parameters']:,} numbers on {layers} of the language model{later}"


def _runs(context: StepContext) -> Runs:
    """The job's checkpoints."""
    return Runs(context.job_id, context.spec.begun)


def _use(context: StepContext) -> ModelUse:
    """What the job trains, as it was settled when it was submitted."""
    with db.reading() as session:
        use = use_of(session, context.job_id, context.spec.label)
        if use is None:
            raise StepFailed(f"job {context.job_id} has no model named {context.spec.label!r}; was it submitted as it is now?")
        session.expunge(use)
        return use


def _ask(context: StepContext, what: str, use: ModelUse, **more: Any) -> dict[str, Any]:
    """Have the child do it."""
    args = {"job": context.job_id, "spec": context.claim.spec, "base": use.base, "adapter": use.adapter_path, **more}

    def told(event: dict[str, Any]) -> None:
        if event["total"]:
            context.progress(event["done"], event["total"])
        else:
            with context.write():
                pass  # a sign that it goes on

    with resident.child() as child:
        return child.call(f"workers.trainer.rl.update:{what}", args, on_event=told, check=context.check)


def _take_live(context: StepContext, use: ModelUse, iteration: int, told: Mapping[str, Any]) -> float:
    """Publish what an update made, write down what it told, and wait until it is live; gives how long that took in seconds."""
    version, line = iteration + 2, context.job_id
    with context.write() as session:
        is_new = session.get(AdapterVersion, (line, version)) is None
        publish.publish(session, line, use.base, told["path"], sha256=told["sha256"], version=version)
        if is_new and iteration != _runs(context).before:
            _write_down(session, context, iteration, told)
    broker.nudge()
    begun = time.monotonic()
    while not _is_live(line, version):
        context.check()
        if time.monotonic() - begun > LIVE_S:
            raise Drain(f"no engine has loaded version {version} of the adapter within {LIVE_S:g} s", pause_s=AGAIN_S)
        time.sleep(LOOK_S)
    return time.monotonic() - begun


def _write_down(session: Session, context: StepContext, iteration: int, told: Mapping[str, Any]) -> None:
    figures = told["figures"]
    metrics.record(session, context.job_id, SCOPE, iteration, figures)
    for warning in told["warnings"]:
        events.append(session, context.job_id, "update.warning", warning, level="warning", step_id=context.step_id)
    rounds = context.spec.dagger.rounds
    of = f" (round {iteration + 1} of {rounds} of DAgger)" if iteration < rounds else ""
    message = f"update {iteration}{of}: {_in_short(figures)}"
    events.append(session, context.job_id, "update.done", message, step_id=context.step_id, data={"figures": figures})
    if told["stop"]:
        stopped = f"training stops after update {iteration}: {told['stop']}"
        events.append(session, context.job_id, "update.stop", stopped, level="warning", step_id=context.step_id)


def _in_short(figures: Mapping[str, float]) -> str:
    """The few figures that tell how it goes."""
    shown = (("return", "return", ".3f"), ("achievements", "achievements", ".3f"), ("agreement", "agreement", ".1%"))
    course = (("loss", "loss", ".4f"), ("entropy", "entropy", ".3f"), ("kl_update", "KL", ".2g"))
    more = (*course, ("samples_trained", "samples", ",.0f"))
    parts = [f"{name} {figures[key]:{form}}" for key, name, form in (*shown, *more) if key in figures]
    return ", ".join([*parts, f"{figures['seconds/call']:.1f} s"])


def _is_live(line: str, version: int) -> bool:
    """Whether a version is, or a newer one is. Raises StepFailed for one that cannot be served."""
    with db.reading() as session:
        rows = session.exec(select(AdapterVersion).where(AdapterVersion.line == line, col(AdapterVersion.version) >= version))
        found = {row.version: (row.state, row.reason) for row in rows}
    state, reason = found[version]
    if state == VersionState.FAILED:
        raise StepFailed(f"version {version} of the adapter cannot be served: {reason}")
    return any(state == VersionState.LIVE for state, _ in found.values())


def keep(context: StepContext) -> dict[str, Any]:
    """Make artifacts of the last version of the adapter and of the best one, where that is another.

    Gives their ids, as ``artifact`` and ``best_artifact``.
    """
    last, best = context.payload["last"], context.payload["best"] or context.payload["last"]
    use = _use(context)
    with loggers.of(context) as others:
        _tell_evaluations(context, others, last - 2, last - 1)
    made = {version: _kept(context, use, version) for version in sorted({last, best})}
    return {"artifact": made[last], "best_artifact": made[best]}


def _kept(context: StepContext, use: ModelUse, version: int) -> str:
    """The id of the artifact of a version: of the one that is there, or else of a new one."""
    data = {"base": use.base, "iteration": version - 2, "version": version}
    with db.reading() as session:
        job = session.get(Job, context.job_id)
        name = (job.name if job else None) or "adapter"
        begun = session.get(Artifact, use.artifact) if use.artifact else None
        mine = select(Artifact).where(Artifact.job_id == context.job_id, Artifact.kind == "adapter")
        there = next((row.id for row in session.exec(mine) if row.data == data), None)
    if there is not None:
        return there
    extended, _ = context.spec.model.extended
    made = artifacts.store_folder(
        _runs(context).adapter(version - 2),
        job_id=context.job_id,
        step_id=context.step_id,
        kind="adapter",
        name=f"{name}-v{version}",
        parents=sorted({*([begun.job_id] if begun is not None else []), *([extended] if extended else [])}),
        data=data,
    )
    with context.write() as session:
        return artifacts.record(session, made).id

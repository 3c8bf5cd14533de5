"""What the names in a training's spec mean: the model that it begins from, the lines that it learns from, the jobs it waits for.

Looked up when a job is submitted, so that what can never be trained is refused there with its key, and again by the step that
trains. Nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sqlmodel import Session

from app import db, model_refs
from app.errors import BadModel, InvalidInput, NotFound, Problem, SpecProblems
from app.models import ENDED, ITS_OWN, Artifact, Job
from app.specs import AnySpec, RlSpec
from app.specs.engine import ARTIFACT_ID
from app.specs.sft import JOB, SftSpec, SftTable
from app.store import jobs, traces

DATASET: Final = "dataset"
"""The kind of artifacts that are lines."""
VAL: Final = "val"
"""The side, in the row of such an artifact, of those that are for validation; its other half is ``train``."""
LEARNABLE: Final = ("filter", "upload")
"""Kinds of jobs that make lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a training begins from."""

    base: str
    """Whole path of a folder, or a hub id."""
    adapter: str = ""
    """Whole path of the adapter's folder to go on from; empty for none."""
    adapter_sha256: str = ""
    parents: tuple[str, ...] = ()
    """Jobs that made the one or the other."""
    artifact: str = ""
    """Of the adapter, or of the base where there is none."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the folder says of itself, as ``model_refs.Resolved`` has it."""


def start(session: Session, *, model: str | None, warm: str | None) -> Start:
    """What a model, a warm start, or both of them mean; each a folder, a hub id, an artifact, and the second also a job.

    An adapter stands for its base and itself. Beside a model, a warm start is an adapter on it, or a whole model in its place.
    Raises BadModel, and NotFound for what is not in the store.
    """
    assert model is not None or warm is not None, "a spec has one of them"
    first, one = _resolved(session, model) if model is not None else (None, ())
    second, other = _resolved(session, warm) if warm is not None else (None, ())
    parents = tuple(sorted({*one, *other}))
    if first is None or second is None:
        found = first or second
        assert found is not None
        return _begin(found, parents)
    if first.adapter_path and second.adapter_path:
        raise BadModel(f"{model} and {warm} are both adapters; begin from one of them")
    if second.adapter_path and second.base != first.base:
        raise BadModel(
            f"{warm} is an adapter on {second.base}, and the model is {first.base}; "
            "an adapter fits its own base alone, so write that"
        )
    return _begin(second, parents)


def _begin(found: model_refs.Resolved, parents: tuple[str, ...]) -> Start:
    return Start(
        base=found.base,
        adapter=found.adapter_path,
        adapter_sha256=found.sha256,
        parents=parents,
        artifact=found.artifact,
        facts=found.facts,
    )


def _resolved(session: Session, ref: str) -> tuple[model_refs.Resolved, tuple[str, ...]]:
    """What a ref means, and the job that made it."""
    if ref.startswith("/") or "/" in ref:
        return model_refs.resolve(session, ref), ()
    row = traces.artifact(session, ref) if ARTIFACT_ID.fullmatch(ref) else _made_by(session, jobs.find(session, ref))
    return model_refs.resolve(session, row.id), (row.job_id,)


def _made_by(session: Session, job: Job) -> Artifact:
    """The model that a job made: the one that its summary names, else its newest. Raises BadModel."""
    made = [row for row in jobs.artifacts(session, job) if row.is_folder]
    if not made:
        raise BadModel(f"job {job.id} ({job.kind}) is {job.state} and has made no model")
    named = (job.summary or {}).get("artifact")
    return next((row for row in made if row.id == named), made[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Lines to learn from, and lines for validation where there are any."""

    train: Artifact
    val: Artifact | None = None


def dataset(session: Session, ref: str) -> Dataset:
    """The lines that a job made, or an artifact is. Raises InvalidInput for what are none, and NotFound."""
    if ARTIFACT_ID.fullmatch(ref):
        row = traces.artifact(session, ref)
        if row.kind != DATASET:
            raise InvalidInput(f"artifact {row.id} of job {row.job_id} is a {row.kind}, and no dataset")
        return _with_other_half(session, row)
    job = jobs.find(session, ref)
    if job.kind not in LEARNABLE:
        way_out = f"; `synthq submit filter --job {job.id}` makes lines of its play" if job.kind in ("eval", "rl") else ""
        raise InvalidInput(f"job {job.id} is of the kind {job.kind}, which makes no lines{way_out}")
    made = [row for row in jobs.artifacts(session, job) if row.kind == DATASET and row.data.get("side") != VAL]
    if not made:
        raise InvalidInput(f"job {job.id} ({job.kind}) is {job.state} and has made no lines")
    return _with_other_half(session, made[-1])


def _with_other_half(session: Session, row: Artifact) -> Dataset:
    job = session.get(Job, row.job_id)
    beside = [each for each in jobs.artifacts(session, job) if each.step_id == row.step_id] if job is not None else []
    half = row.data.get("side") not in (None, VAL)
    return Dataset(train=row, val=next((each for each in beside if half and each.data.get("side") == VAL), None))


def validation(session: Session, table: SftTable) -> Artifact | None:
    """The lines that a training is tried on; None where it has none, or takes them from its own."""
    if not table.validation.enabled:
        return None
    if table.validation.data is None:
        return dataset(session, table.data).val
    found = dataset(session, table.validation.data)
    return found.val or found.train


# -- at submit ---------------------------------------------------------------------------------------------------------------


def check(spec: AnySpec) -> None:
    """Raise SpecProblems for names in an sft spec that nothing can be trained with. Reads adapters: call it outside of writes."""
    if not isinstance(spec, SftSpec):
        return
    with db.reading() as session:
        problems = list(_problems(session, spec.sft))
    if problems:
        raise SpecProblems(problems)


def _problems(session: Session, table: SftTable) -> Iterator[Problem]:
    for key, ref in (("sft.data", table.data), ("sft.validation.data", table.validation.data)):
        if ref is not None and (fault := _data_fault(session, ref)):
            yield Problem(key=key, message=fault)
    key = "sft.model" if table.warmstart_from is None else "sft.warmstart_from"
    try:
        job = None if table.warmstart_from is None else _named_job(session, table.warmstart_from)
        if job is not None and job.state not in ENDED:
            return  # what it makes is looked at when it is there
        found = start(session, model=table.model, warm=table.warmstart_from)
        if table.mode == "full" and found.adapter:
            yield Problem(
                key=key,
                message=f'{found.adapter} is an adapter, and trainer_mode = "full" trains a whole model; begin from one, or '
                "merge it into its base (synthq models export --merge)",
            )
    except (BadModel, NotFound) as error:
        yield Problem(key=key, message=str(error))


def learner(spec: RlSpec) -> Start:
    """What an rl spec begins from. Raises SpecProblems. Reads adapters: call it outside of writes."""
    model = spec.model
    key = next(key for key in ("warmstart_from", "source", "base") if getattr(model, key) is not None)
    try:
        with db.reading() as session:
            found = start(session, model=model.base, warm=model.warmstart_from or model.source)
    except (BadModel, NotFound) as error:
        raise SpecProblems([Problem(key=f"model.{key}", message=str(error))]) from None
    rank = found.facts.get("rank", 0)
    if rank > spec.vllm.max_lora_rank:
        message = f"{spec.vllm.max_lora_rank} is below the rank of the adapter {found.adapter}; write {rank} or more"
        raise SpecProblems([Problem(key="vllm.max_lora_rank", message=message)])
    return found


def use(spec: RlSpec, begin: Start) -> dict[str, Any]:
    """The row of ``model_use`` of an rl job, without the job's id: the versions that it publishes, on its base."""
    return {
        "label": spec.label,
        "base": begin.base,
        "adapter_path": begin.adapter,
        "line": ITS_OWN,
        "artifact": begin.artifact,
        "engine": spec.rollout.engine,
        "options": spec.vllm.model_dump(mode="json"),
        "facts": begin.facts.get("base_facts", {}) if begin.adapter else begin.facts,
    }


def cautions(spec: RlSpec, begin: Start) -> Iterator[str]:
    """What is done otherwise because of what training begins from."""
    rank, alpha = begin.facts.get("rank"), begin.facts.get("alpha")
    if begin.adapter and (rank, alpha) != (spec.lora.r, spec.lora.alpha):
        yield f"lora: the adapter that it begins from keeps its rank {rank}, alpha {alpha:g} and layers: {begin.adapter}"
    if spec.model.warmstart_from is not None and not begin.adapter:
        yield f"model.base: {spec.model.warmstart_from} is a whole model, {begin.base}, which takes its place"


def _data_fault(session: Session, ref: str) -> str | None:
    """Why a ref can never be lines, or None."""
    if ref == jobs.LAST:
        return f"{ref} will be the training itself when it runs; write the job's id or its name"
    try:
        job = _named_job(session, ref)
        if job is None or job.state in ENDED or job.kind not in LEARNABLE:
            dataset(session, ref)
    except (InvalidInput, NotFound) as error:
        return str(error)
    return None


def _named_job(session: Session, ref: str) -> Job | None:
    """The job that a ref names; None where it names something else. Raises JobNotFound, AmbiguousName."""
    if not JOB.fullmatch(ref) or ARTIFACT_ID.fullmatch(ref):
        return None
    return jobs.find(session, ref)


def waits_for(session: Session, spec: AnySpec) -> list[dict[str, str]]:
    """The jobs whose making an sft spec names and that have not ended yet: it runs after they succeeded."""
    if not isinstance(spec, SftSpec):
        return []
    table = spec.sft
    refs = [ref for ref in (table.data, table.validation.data, table.warmstart_from) if ref is not None]
    named = [job for ref in refs if (job := _named_job(session, ref)) is not None]
    waited: dict[str, Any] = {job.id: {"job": job.id, "on": "ok"} for job in named if job.state not in ENDED}
    return list(waited.values())

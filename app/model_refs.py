"""What a user's name for a model means: a folder, a hub id or an artifact, each a whole model or an adapter on one.

Looked up when a job is submitted, so that what can never be served is refused there, with the key; and kept with the job, so that
what it played with is known for ever. Nothing is loaded, and no other machine is asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import Session

from app import artifacts, db, model_folder
from app.errors import BadModel, NotFound, Problem, SpecProblems, cut
from app.model_folder import AdapterFolder, BaseFolder
from app.specs import AnySpec, EvalSpec
from app.specs.engine import ARTIFACT_ID, HUB_ID
from app.specs.policies import MODEL, policy_name
from app.store import traces


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a ref means."""

    base: str
    """Whole path of a folder, or a hub id."""
    adapter_path: str = ""
    """Whole path of the adapter's folder; empty for a base."""
    sha256: str = ""
    """Of the adapter."""
    artifact: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the folder says of itself; an adapter's under ``base_facts`` what its base's says. Empty for a model on the hub."""

    @property
    def adapter(self) -> str:
        """Name under which the adapter is served; empty without one."""
        return model_folder.served_as(self.sha256) if self.adapter_path else ""


def resolve(session: Session, ref: str) -> Resolved:
    """What a ref means here and now. Raises BadModel, and ArtifactNotFound for an artifact that is not in the store."""
    if ref.startswith("/"):
        return _folder(Path(os.path.normpath(ref)))
    if ARTIFACT_ID.fullmatch(ref):
        return _artifact(session, ref)
    if HUB_ID.fullmatch(ref):
        return Resolved(base=ref)
    raise BadModel(f"{ref!r} is no model: it takes the whole path of a folder, a hub id or the id of an artifact")


def _artifact(session: Session, id: str) -> Resolved:
    row = traces.artifact(session, id)
    if not row.is_folder:
        raise BadModel(f"artifact {id} of job {row.job_id} is a {row.kind}, not a model")
    folder = artifacts.folder_of(row)
    if folder is None:
        raise BadModel(f"artifact {id} of job {row.job_id} is no folder that is mounted here; engines read models from folders")
    return _folder(folder.absolute(), artifact=id)


def _read(path: Path) -> model_folder.ModelFolder:
    try:
        return model_folder.read(path)
    except (OSError, ValueError) as error:  # a name that no file can have, a folder that is not ours to read
        raise BadModel(f"{cut(str(path))} cannot be read: {error}") from error


def _folder(path: Path, artifact: str = "") -> Resolved:
    found = _read(path)
    facts = model_folder.facts(found)
    if isinstance(found, BaseFolder):
        return Resolved(base=str(path), artifact=artifact, facts=facts)
    _check_adapter(found)
    base = _base_of(found)
    facts["base_facts"] = model_folder.facts(base) if isinstance(base, BaseFolder) else {}
    return Resolved(
        base=str(base.path) if isinstance(base, BaseFolder) else base,
        adapter_path=str(path),
        sha256=found.sha256,
        artifact=artifact,
        facts=facts,
    )


def _check_adapter(adapter: AdapterFolder) -> None:
    """Raise BadModel for an adapter that engines do not serve as it was trained."""
    if adapter.touches_vision:
        raise BadModel(
            f"the adapter {adapter.path} changes the vision tower (visual), which engines serve without adapters; "
            "train it on the language layers alone, or merge it into its base (synthq models export --merge)"
        )
    if adapter.dora:
        raise BadModel(f"the adapter {adapter.path} is DoRA; engines serve plain LoRA (use_dora = false)")
    if adapter.saved_modules:
        named = ", ".join(adapter.saved_modules)
        raise BadModel(
            f"the adapter {adapter.path} holds whole layers beside its matrices (modules_to_save: {named}), which engines do not "
            "serve; merge it into its base (synthq models export --merge)"
        )


def _base_of(adapter: AdapterFolder) -> BaseFolder | str:
    """The model that an adapter was trained on: its folder, or its hub id. Raises BadModel."""
    name = adapter.base
    if not name:
        raise BadModel(f"the adapter {adapter.path} does not say what it was trained on (base_model_name_or_path)")
    if HUB_ID.fullmatch(name) and not name.startswith("/"):
        return name
    if not name.startswith("/"):
        raise BadModel(
            f"the adapter {adapter.path} names its base as {name!r}; write the whole path of a folder or a hub id into its "
            "adapter_config.json (base_model_name_or_path)"
        )
    try:
        base = _read(Path(os.path.normpath(name)))
    except BadModel as error:
        raise BadModel(f"the base of the adapter {adapter.path}: {error}") from None
    if not isinstance(base, BaseFolder):
        raise BadModel(f"the adapter {adapter.path} names {name} as its base, which is an adapter itself")
    return base


def uses(spec: AnySpec) -> list[dict[str, Any]]:
    """Rows of ``model_use``, without the job's id, of the models that a spec's policies are.

    Reads whole adapters, so it is called outside of a write transaction. Raises SpecProblems.
    """
    if not isinstance(spec, EvalSpec) or not spec.served:
        return []
    problems: list[Problem] = []
    rows = list(_rows(spec, problems))
    if problems:
        raise SpecProblems(problems)
    return list({row["label"]: row for row in rows}.values())


def _rows(spec: EvalSpec, problems: list[Problem]) -> Iterator[dict[str, Any]]:
    options = spec.vllm.model_dump(mode="json")
    for i, label in enumerate(spec.eval.policies):
        name, ref = policy_name(label)
        if name != MODEL:
            continue
        try:
            with db.reading() as session:
                found = resolve(session, ref or "")
        except (BadModel, NotFound) as error:
            problems.append(Problem(key=f"eval.policies.{i}", message=str(error)))
            continue
        rank = found.facts.get("rank", 0)
        if rank > spec.vllm.max_lora_rank:
            message = f"{spec.vllm.max_lora_rank} is below the rank of the adapter {found.adapter_path}; write {rank} or more"
            problems.append(Problem(key="vllm.max_lora_rank", message=message))
        yield {
            "label": label,
            "base": found.base,
            "adapter": found.adapter,
            "adapter_path": found.adapter_path,
            "sha256": found.sha256,
            "artifact": found.artifact,
            "engine": spec.eval.engine,
            "options": options,
            "facts": found.facts,
        }

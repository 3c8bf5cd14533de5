"""Questions about models: which ones jobs have named, made and published, who used them, who serves them. Reads only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy import or_, select
from sqlmodel import Session, col

from app import endpoints, model_refs
from app.endpoints.publish import SERVED
from app.errors import ModelNotFound, NotFound
from app.models import FOLDER_KINDS, AdapterVersion, Artifact, Endpoint, EndpointState, Job, ModelUse
from app.specs.engine import ref_fault
from app.specs.policies import MODEL

NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")
"""Of a version."""
MOST_USED_BY: Final = 20
"""Jobs that are told of as users of one model, the newest first."""


@dataclass(slots=True, kw_only=True)
class Known:
    """A model that this store knows of."""

    ref: str
    """What a spec names it by; the served name, of a published version."""
    kind: Literal["base", "adapter", "version"]
    base: str
    """What it is, or what it is on: a folder or a hub id."""
    name: str
    """Under which endpoints serve it."""
    path: str = ""
    """The adapter's folder; empty for a base."""
    sha256: str = ""
    """Of an adapter's weights and settings."""
    artifact: str | None = None
    made_by: str | None = None
    """Job that made it."""
    state: str | None = None
    """Of a published version."""
    used_by: list[str] = field(default_factory=list)
    """Jobs that play with it, or did, the newest first."""
    served_by: list[str] = field(default_factory=list)
    """Endpoints that answer for it now."""
    last_at: float | None = None
    """When a job last named it, or made it; None when none has."""
    facts: dict[str, Any] = field(default_factory=dict)


def known(session: Session, *, limit: int) -> list[Known]:
    """The models that jobs have named or made, and the published versions that are in service; the last named first."""
    found = _used(session, select(ModelUse, col(Job.created_at)).join(Job, col(Job.id) == ModelUse.job_id))
    versions = select(AdapterVersion).where(col(AdapterVersion.state).in_(SERVED))
    found += [_of_version(row) for row in session.scalars(versions)]
    artifacts = select(Artifact).where(col(Artifact.kind).in_(FOLDER_KINDS)).order_by(col(Artifact.created_at).desc())
    named = {each.artifact for each in found}
    found += [_of_artifact(row) for row in session.scalars(artifacts.limit(limit)) if row.id not in named]
    chosen = sorted(found, key=lambda each: (-(each.last_at or 0.0), each.ref))[:limit]
    _complete(session, chosen)
    return chosen


def find(session: Session, ref: str) -> Known:
    """The model that a user means: as a spec names it, by its folder, its artifact or its served name; by its folder or hub id
    even when no job has named it yet. Raises ModelNotFound, and BadModel for what is there and is no model.
    """
    ref = ref.removeprefix(f"{MODEL}:")
    if not ref or "\0" in ref:
        raise ModelNotFound(ref)
    query = select(ModelUse, col(Job.created_at)).join(Job, col(Job.id) == ModelUse.job_id)
    names = (ModelUse.adapter_path, ModelUse.artifact, ModelUse.adapter)
    fixed = or_(col(ModelUse.label) == f"{MODEL}:{ref}", *((col(name) == ref) for name in names))
    is_it = or_(
        (col(ModelUse.base) == ref) & (col(ModelUse.adapter) == ""),
        fixed & (col(ModelUse.line) == ""),  # what a line begins from is not what it plays with
    )
    version = _version(session, ref)
    used = [] if version is not None else _used(session, query.where(is_it))
    found = version or (used[0] if used else _unused(session, ref))
    _complete(session, [found])
    return found


def _version(session: Session, name: str) -> Known | None:
    """A published version, in service or not, by its served name."""
    line, _, number = name.rpartition("-v")
    if not line or not NUMBER.fullmatch(number):
        return None
    row = session.get(AdapterVersion, (line, int(number)))
    return _of_version(row) if row is not None else None


def _used(session: Session, query: Any) -> list[Known]:
    """What jobs have named: each model once, its newest job first."""
    found: dict[tuple[str, str], Known] = {}
    for use, created_at in session.execute(query.order_by(col(Job.created_at).desc(), col(Job.id))):
        key = (use.base, use.adapter)
        if key not in found:
            found[key] = _of_use(use, created_at)
        model = found[key]
        if len(model.used_by) < MOST_USED_BY and use.job_id not in model.used_by:
            model.used_by.append(use.job_id)
    return list(found.values())


def _of_use(use: ModelUse, at: float | None) -> Known:
    adapter, fixed = bool(use.adapter), not use.line  # a line's versions are known by themselves: here it names its base
    return Known(
        ref=(use.artifact if fixed else "") or (use.adapter_path if adapter else use.base),
        kind="adapter" if adapter else "base",
        base=use.base,
        name=use.adapter or use.base,
        path=use.adapter_path if fixed else "",
        sha256=use.sha256,
        artifact=(use.artifact if fixed else "") or None,
        last_at=at,
        facts=use.facts,
    )


def _of_version(row: AdapterVersion) -> Known:
    return Known(
        ref=row.name,
        kind="version",
        base=row.base,
        name=row.name,
        path=row.path,
        sha256=row.sha256,
        made_by=row.line,
        state=row.state,
        used_by=[row.line],
        last_at=row.published_at,
    )


def _of_artifact(row: Artifact) -> Known:
    kind: Literal["base", "adapter"] = "adapter" if row.kind == "adapter" else "base"
    base = str(row.data.get("base", "")) if kind == "adapter" else ""
    return Known(ref=row.id, kind=kind, base=base, name="", artifact=row.id, made_by=row.job_id, last_at=row.created_at)


def _unused(session: Session, ref: str) -> Known:
    """A model that no job has named, from what its folder says."""
    if ref_fault(ref) is not None:
        raise ModelNotFound(ref)
    try:
        found = model_refs.resolve(session, ref)
    except NotFound:
        raise ModelNotFound(ref) from None
    use = ModelUse(
        job_id="",
        label=f"{MODEL}:{ref}",
        base=found.base,
        adapter=found.adapter,
        adapter_path=found.adapter_path,
        sha256=found.sha256,
        artifact=found.artifact,
        facts=found.facts,
    )
    return _of_use(use, None)


def _complete(session: Session, models: Iterable[Known]) -> None:
    """Add what other tables know: who made a model that is an artifact, and who serves it."""
    alive = [endpoint for endpoint in endpoints.live(session) if endpoint.state == EndpointState.READY]
    for model in models:
        if model.artifact and model.made_by is None:
            row = session.get(Artifact, model.artifact)
            model.made_by = row.job_id if row is not None else None
        model.served_by = [endpoint.id for endpoint in alive if _serves(endpoint, model)]


def _serves(endpoint: Endpoint, model: Known) -> bool:
    return endpoint.base == model.base and (model.kind == "base" or model.name in endpoint.adapters)

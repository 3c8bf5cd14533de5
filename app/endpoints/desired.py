"""What each endpoint should serve: written by the scheduler, read by the worker, which brings its engine there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import select
from sqlmodel import Session, col

from app import db, lifecycle
from app.endpoints import publish
from app.endpoints.rows import live, loads_never
from app.endpoints.spread import able, serves, spread
from app.endpoints.wanted import ANY, Use, Want, Wanted, adapters, bases, uses
from app.errors import JobNotFound
from app.models import Endpoint, JobEvent
from app.settings import get_settings
from app.store import events

log = logging.getLogger("synthq.endpoints")

MOST_LORAS: Final = 4
"""Adapters beside a base, where its options do not say."""
OTHER_OPTIONS: Final = "model.options"
"""Type of the event that tells a job that a model of it is served as an older job asks."""
NO_ROOM: Final = "model.no_room"
"""Type of the event that tells a job that its adapter waits for others to go."""


@dataclass(slots=True)
class _Plan:
    """What should be, where it is not so yet."""

    desired: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By endpoint."""
    idle: dict[str, bool] = field(default_factory=dict)
    """By endpoint: whether no job wants what it should serve, where that is news."""
    notes: list[tuple[str, str, str]] = field(default_factory=list)
    """Job, type and sentence of events that were not written yet."""
    hopeless: list[tuple[Use, str]] = field(default_factory=list)
    """What no endpoint can serve, and why."""

    @property
    def empty(self) -> bool:
        """Nothing is to be written to endpoints' rows or as events."""
        return not (self.desired or self.idle or self.notes)


def tend() -> None:
    """All that the scheduler does for models, in transactions of its own.

    Costs two small queries while there is no endpoint and nothing published.
    """
    with db.reading() as session:
        lines = publish.moving(session)
    for line in lines:
        with db.writing() as session:
            publish.advance(session, line)
    with db.reading() as session:
        plan = _plan(session)
    if not plan.empty:
        with db.writing() as session:
            assign(session)
    for use, reason in plan.hopeless:
        _fail(use, reason)


def assign(session: Session) -> None:
    """Write what each live endpoint should serve, and tell jobs whose models are served otherwise than they ask."""
    plan = _plan(session)
    for id in sorted({*plan.desired, *plan.idle}):
        endpoint = session.get(Endpoint, id, with_for_update=True, populate_existing=True)
        if endpoint is None:
            continue  # its worker began anew between the look and the lock
        if id in plan.desired:
            _point(endpoint, plan.desired[id])
        if id in plan.idle:
            endpoint.idle_since = db.clock(session) if plan.idle[id] else None
        session.add(endpoint)
    session.flush()
    for job_id, type, message in plan.notes:
        events.append(session, job_id, type, message, level="warning")


def _point(endpoint: Endpoint, desired: dict[str, Any]) -> None:
    fresh = _names(desired) - _names(endpoint.desired)
    endpoint.failures = {name: told for name, told in endpoint.failures.items() if name not in fresh}  # it tries anew
    endpoint.desired = desired
    loras = len(desired.get("adapters", {}))
    log.info("endpoint %s should serve %s and %d adapters", endpoint.id, desired.get("base", "nothing"), loras)


def _names(desired: dict[str, Any]) -> set[str]:
    return {desired["base"], *desired["adapters"]} if desired else set()


def _plan(session: Session) -> _Plan:
    endpoints, plan = live(session), _Plan()
    if not endpoints:
        return plan
    found = uses(session, dated=any(endpoint.failures for endpoint in endpoints))
    wants = bases(found, {engine for endpoint in endpoints for engine in endpoint.engines})
    given = spread(endpoints, wants)
    served: dict[tuple[str, str], dict[str, Any]] = {}
    for endpoint in endpoints:
        want = given.get(endpoint.id)
        desired = _wanted_of(session, endpoint, want) if want is not None else _kept(session, endpoint)
        if desired != endpoint.desired:
            plan.desired[endpoint.id] = desired
        if (idle := want is None and bool(desired)) != (endpoint.idle_since is not None):
            plan.idle[endpoint.id] = idle
        if want is not None:
            served.setdefault(want.key, desired)
    plan.notes = [note for want in wants if want.key in served for note in _notes(session, want, served[want.key])]
    plan.hopeless = [(use, reason) for use in found if (reason := hopeless(use, endpoints)) is not None]
    return plan


def _wanted_of(session: Session, endpoint: Endpoint, want: Want) -> dict[str, Any]:
    """What an endpoint should serve for the jobs that want a base. While steps play with it, only its adapters change."""
    present = endpoint.desired
    if serves(endpoint, want) and want.running:
        engine, options = present["engine"], present["options"]
    else:
        engine, options = want.engine, want.first.options
        engine = endpoint.engines[0] if engine == ANY else engine
    return _desired(session, endpoint, engine=engine, base=want.base, options=options, want=want)


def _kept(session: Session, endpoint: Endpoint) -> dict[str, Any]:
    """What an endpoint keeps that nobody needs now: its base for a while, for the next job may want it."""
    present = endpoint.desired
    if not present or loads_never(endpoint, present["base"], 0.0) is not None:
        return {}
    if endpoint.idle_since is not None and db.clock(session) - endpoint.idle_since > get_settings().engine_idle_s:
        return {}
    asked = {"engine": present["engine"], "base": present["base"], "options": present["options"]}
    return _desired(session, endpoint, **asked, want=None)


def _desired(
    session: Session, endpoint: Endpoint, *, engine: str, base: str, options: dict[str, Any], want: Want | None
) -> dict[str, Any]:
    chosen: dict[str, str] = {}
    room = _room(options)
    for each in adapters(session, want, base):
        if (each.in_use or len(chosen) < room) and loads_never(endpoint, each.name, each.since) is None:
            chosen[each.name] = each.path
    return {"engine": engine, "base": base, "options": options, "adapters": chosen}


def _room(options: dict[str, Any]) -> int:
    return int(options.get("max_loras", MOST_LORAS))


def hopeless(use: Use, endpoints: Sequence[Endpoint]) -> str | None:
    """Why no endpoint can ever serve a model that a job wants; None while one may, or while there is none to try."""
    row = use.row
    able_ones = [endpoint for endpoint in endpoints if able(endpoint, row.engine)]
    reasons = [
        loads_never(each, row.base, use.since) or (loads_never(each, row.adapter, use.since) if row.adapter else None)
        for each in able_ones
    ]
    if not reasons or None in reasons:
        return None
    where = "the inference worker" if len(reasons) == 1 else f"all {len(reasons)} inference workers"
    return f"{where} failed to load {row.label.partition(':')[2]}: {reasons[0]}"


def _fail(use: Use, reason: str) -> None:
    try:
        with db.writing() as session:
            lifecycle.fail_waiting(session, use.row.job_id, use.row.label, reason)
    except JobNotFound:
        return  # it was removed between the look and the lock


# -- what jobs are told --------------------------------------------------------------------------------------------------------


def _notes(session: Session, want: Want, desired: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What the jobs that want a base are to be told of how it is served, and were not told yet."""
    said = [(use.row.job_id, OTHER_OPTIONS, sentence) for use in want.uses if (sentence := _otherwise(use, desired))]
    full = len(desired["adapters"]) >= _room(desired["options"])
    waits = [each for each in adapters(session, want, want.base) if full and each.name not in desired["adapters"]]
    said += [(each.job_id, NO_ROOM, _no_room(each, desired)) for each in waits]
    return [note for note in dict.fromkeys(said) if not _told(session, note)]


def _otherwise(use: Use, desired: dict[str, Any]) -> str | None:
    asked, has = use.row.options, desired["options"]
    differ = [f"{key} = {has.get(key)}, not {value}" for key, value in asked.items() if has.get(key) != value]
    return f"{use.row.base} is served already, as an older job asks: {'; '.join(differ)}" if differ else None


def _no_room(each: Wanted, desired: dict[str, Any]) -> str:
    there, room = len(desired["adapters"]), _room(desired["options"])
    return f"the adapter {each.path} waits for room: {there} are loaded beside {desired['base']} (max_loras = {room})"


def _told(session: Session, note: tuple[str, str, str]) -> bool:
    job_id, type, message = note
    query = select(col(JobEvent.seq)).where(col(JobEvent.job_id) == job_id, col(JobEvent.type) == type)
    return session.connection().execute(query.where(col(JobEvent.message) == message).limit(1)).first() is not None

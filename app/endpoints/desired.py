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
from app.endpoints.options import differing, loras
from app.endpoints.rows import failure_of, forget, live, loads_never, model_of
from app.endpoints.spread import able, model_for, spread, why_never
from app.endpoints.wanted import Use, Want, Wanted, adapters, bases, fitting, lines_of, uses
from app.endpoints.why import failed_to_load
from app.errors import JobNotFound
from app.models import Endpoint, EndpointState, JobEvent
from app.settings import get_settings
from app.store import events

log = logging.getLogger("synthq.endpoints")

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
    for job_id in dict.fromkeys(use.row.job_id for use, _ in plan.hopeless):
        _fail(job_id)


def assign(session: Session) -> None:
    """Write what each live endpoint should serve, and tell jobs whose models are served otherwise than they ask."""
    plan = _plan(session)
    for id in sorted({*plan.desired, *plan.idle}):
        endpoint = session.get(Endpoint, id, with_for_update=True, populate_existing=True)
        if endpoint is None:
            continue  # its worker began anew between the look and the lock
        if id in plan.desired:
            _point(session, endpoint, plan.desired[id])
        if id in plan.idle:
            endpoint.idle_since = db.clock(session) if plan.idle[id] else None
        session.add(endpoint)
    session.flush()
    for job_id, type, message in plan.notes:
        events.append(session, job_id, type, message, level="warning")


def _point(session: Session, endpoint: Endpoint, desired: dict[str, Any]) -> None:
    before, model = endpoint.desired, model_of(desired)
    fresh = _names(desired) - (_names(before) if model_of(before) == model else set())
    forget(endpoint, fresh, model)  # it tries anew
    if before and model_of(before) != model and endpoint.state == EndpointState.READY:
        endpoint.state, endpoint.ready_at = EndpointState.STARTING, None  # nobody begins to ask what is about to end
        endpoint.changed_at = db.clock(session)
    endpoint.desired = desired
    log.info(
        "endpoint %s should serve %s and %d adapters",
        endpoint.id,
        desired.get("base", "nothing"),
        len(desired.get("adapters", {})),
    )


def _names(desired: dict[str, Any]) -> set[str]:
    return {desired["base"], *desired["adapters"]} if desired else set()


def _plan(session: Session) -> _Plan:
    endpoints, plan = live(session), _Plan()
    if not endpoints:
        return plan
    found = uses(session, dated=any(endpoint.failures for endpoint in endpoints))
    wants = bases(found, endpoints)
    given = spread(endpoints, wants)
    served: dict[tuple[str, str, str], dict[str, Any]] = {}
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
    for want in wants:
        theirs = [endpoint for endpoint in endpoints if (has := given.get(endpoint.id)) is not None and has.key == want.key]
        plan.hopeless += _hopeless(want, endpoints, theirs)
    return plan


def _wanted_of(session: Session, endpoint: Endpoint, want: Want) -> dict[str, Any]:
    """What an endpoint should serve for the jobs that want a base. Where what it serves will do, only its adapters change."""
    return _desired(session, endpoint, model_for(endpoint, want), want)


def _kept(session: Session, endpoint: Endpoint) -> dict[str, Any]:
    """What an endpoint keeps that nobody needs now: its base for a while, for the next job may want it."""
    present = endpoint.desired
    if not present or loads_never(endpoint, present["base"], model_of(present), 0.0) is not None:
        return {}
    if endpoint.idle_since is not None and db.clock(session) - endpoint.idle_since > get_settings().engine_idle_s:
        return {}
    return _desired(session, endpoint, model_of(present), None)


def _desired(session: Session, endpoint: Endpoint, model: dict[str, Any], want: Want | None) -> dict[str, Any]:
    loaded = endpoint.desired.get("adapters", {})
    found = adapters(session, want, model["base"], loaded=loaded)
    may_load = [each for each in found if loads_never(endpoint, each.name, model, each.since) is None]
    lines = lines_of(want.uses) if want is not None else ()
    return {**model, "adapters": {each.name: each.path for each in fitting(may_load, lines, loras(model["options"]))}}


def _hopeless(want: Want, endpoints: Sequence[Endpoint], theirs: Sequence[Endpoint]) -> list[tuple[Use, str]]:
    """The uses of a want that no endpoint can ever serve, and why. ``theirs``: the endpoints that should serve it.

    A base is given up once every endpoint that is able to has failed, for the jobs that ask for it in the way that failed. An
    adapter is bad wherever the base is served, so one endpoint that cannot load it for good is enough.
    """
    reasons = {each.id: why_never(each, want) for each in endpoints if able(each, want.engine)}
    if reasons and None not in reasons.values():
        where = "the inference worker" if len(reasons) == 1 else f"all {len(reasons)} inference workers"
        told = str(next(iter(reasons.values())))
        mine = [use for use in want.uses if use.row.options == want.first.options]
        return [(use, failed_to_load(where, _ref(use), told)) for use in mine]
    found = [(use, _bad_adapter(use, theirs, alone=len(reasons) == 1)) for use in want.uses if use.row.adapter]
    return [(use, reason) for use, reason in found if reason is not None]


def _bad_adapter(use: Use, theirs: Sequence[Endpoint], *, alone: bool) -> str | None:
    told = [(each, loads_never(each, use.row.adapter, model_of(each.desired), use.since)) for each in theirs]
    failed = [(each, reason) for each, reason in told if reason is not None]
    lasting = [(each, reason) for each, reason in failed if _is_lasting(each, use)]
    if not lasting and len(failed) < len(told):
        return None
    endpoint, reason = next(iter(lasting or failed), (None, ""))
    if endpoint is None:
        return None
    where = "the inference worker" if alone else f"endpoint {endpoint.id}"
    return failed_to_load(where, _ref(use), reason, of="adapter")


def _is_lasting(endpoint: Endpoint, use: Use) -> bool:
    told = failure_of(endpoint, use.row.adapter, model_of(endpoint.desired))
    return told is not None and bool(told["lasting"])


def _ref(use: Use) -> str:
    return use.row.label.partition(":")[2]


def _fail(job_id: str) -> None:
    """Fail what waits for models that no endpoint can serve, as far as that is so still: the job may be another try by now."""
    try:
        with db.writing() as session:
            lifecycle.lock_job(session, job_id)
            for use, reason in _plan(session).hopeless:
                if use.row.job_id == job_id:
                    lifecycle.fail_waiting(session, job_id, use.row.label, reason)
    except JobNotFound:
        return  # it was removed between the look and the lock


# -- what jobs are told --------------------------------------------------------------------------------------------------------


def _notes(session: Session, want: Want, desired: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What the jobs that want a base are to be told of how it is served, and were not told yet."""
    said = [(use.row.job_id, OTHER_OPTIONS, sentence) for use in want.uses if (sentence := _otherwise(use, desired))]
    found = adapters(session, want, want.base, loaded=desired["adapters"])
    taken = fitting(found, lines_of(want.uses), loras(desired["options"]))
    waits = [each for each in found if each not in taken]
    said += [(each.job_id, NO_ROOM, _no_room(each, desired)) for each in waits]
    return [note for note in dict.fromkeys(said) if not _told(session, note)]


def _otherwise(use: Use, desired: dict[str, Any]) -> str | None:
    asked, has = use.row.options, desired["options"]
    differ = [f"{key} = {has.get(key)}, not {asked[key]}" for key in differing(has, asked)]
    return f"{use.row.base} is served already, as an older job asks: {'; '.join(differ)}" if differ else None


def _no_room(each: Wanted, desired: dict[str, Any]) -> str:
    there, room = len(desired["adapters"]), loras(desired["options"])
    return f"the adapter {each.path} waits for room: {there} are loaded beside {desired['base']} (max_loras = {room})"


def _told(session: Session, note: tuple[str, str, str]) -> bool:
    job_id, type, message = note
    query = select(col(JobEvent.seq)).where(col(JobEvent.job_id) == job_id, col(JobEvent.type) == type)
    return session.connection().execute(query.where(col(JobEvent.message) == message).limit(1)).first() is not None

"""What inference workers report of themselves, and who of them is alive."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Float, String, and_, bindparam, delete, not_, or_, select, update
from sqlmodel import Session, col

from app import db
from app.heartbeat import KEEP_STOPPED_S
from app.models import Endpoint, EndpointState, new_id
from app.settings import get_settings

GONE_AFTER_BEATS: Final = 6
"""An endpoint that missed this many heartbeats is out of use: short beats are missed more easily than long ones."""
REPORTED: Final = ("state", "url", "engine", "base", "sha256", "adapters", "in_flight", "capacity", "error")
"""What ``report`` takes."""
MOST_TRIES: Final = 3
"""Times that an endpoint may fail to load something before it is left alone."""
STEADY_S: Final = 60.0
"""A base that was served for this long begins the count of its failures anew; one that only came up does not."""
MOST_KEPT: Final = 8
"""Failures that are kept of one name, each of another engine or of other options."""
MODEL: Final = ("engine", "base", "options")
"""What of the desired state says which model is served, and how: what failed one way may be loaded another."""
HERE: Final = ("http://127.", "http://localhost:", "http://[::1]:")
"""What the address of an engine begins with that answers its own machine alone."""
MOST_REASON: Final = 2000
"""Characters that are kept of a reason: an engine's last words may be a whole log."""


def gone_after_s() -> float:
    """Age of a heartbeat after which its endpoint is out of use."""
    return GONE_AFTER_BEATS * get_settings().endpoint_heartbeat_s


def register(worker_id: str, *, engines: Sequence[str], host: str | None = None) -> str:
    """Write that an inference worker begins, with the engines that it can run, the preferred first; give its endpoint's id.

    What the same worker had registered before goes: it has ended, whatever it last said.
    """
    with db.writing() as session:
        at = db.clock(session)
        old = or_(col(Endpoint.worker_id) == worker_id, col(Endpoint.heartbeat_at) < at - KEEP_STOPPED_S)
        session.connection().execute(delete(Endpoint).where(old))
        endpoint = Endpoint(
            id=new_id("end"),
            worker_id=worker_id,
            host=host or socket.gethostname(),
            engines=list(engines),
            started_at=at,
            heartbeat_at=at,
            changed_at=at,
        )
        session.add(endpoint)
        return endpoint.id


def beat(endpoint_id: str, *, in_flight: int | None = None) -> bool:
    """Say that an endpoint is alive, and how many requests it has; False when its row is gone and it must register again."""
    values: dict[str, Any] = {"heartbeat_at": db.now()} | ({} if in_flight is None else {"in_flight": in_flight})
    mine = update(Endpoint).where(col(Endpoint.id) == endpoint_id, col(Endpoint.state) != EndpointState.STOPPED)
    with db.writing() as session:
        return session.connection().execute(mine.values(**values)).rowcount == 1


def report(endpoint_id: str, **values: Any) -> bool:
    """Write what an endpoint is and serves now, any of REPORTED; it counts as a heartbeat too. False as ``beat`` does.

    An adapter that turns out to be served is no failure any more. A base may be ready and end at once each time, so its failures
    are kept; ``failed`` says when their count begins anew.
    """
    unknown = set(values) - set(REPORTED)
    assert not unknown, f"an endpoint does not report {', '.join(sorted(unknown))}"
    with db.writing() as session:
        row = _locked(session, endpoint_id)
        if row is None or row.state == EndpointState.STOPPED:
            return False
        at, before = db.clock(session), (row.state, row.base)
        for name, value in values.items():
            setattr(row, name, value)
        row.heartbeat_at = at
        row.error = row.error[:MOST_REASON] if row.error else None
        if (row.state, row.base) != before:
            row.changed_at = at
            row.ready_at = at if row.state == EndpointState.READY else None
        row.failures = {name: told for name, told in row.failures.items() if name not in row.adapters}
        session.add(row)
        return True


def failed(endpoint_id: str, name: str, reason: str, *, lasting: bool = False, model: Mapping[str, Any] | None = None) -> int:
    """Write that an endpoint could not load a base or an adapter, or that its engine ended; give how often in a row.

    0 when its row is gone.

    ``lasting``: another try would end the same way, for it is no model, or the memory does not hold it. ``model``: the MODEL
    keys of what it was to serve then; what is desired of it now, if it is not told.
    """
    with db.writing() as session:
        row = _locked(session, endpoint_id)
        if row is None:
            return 0
        at, of = db.clock(session), model_of(row.desired if model is None else model)
        before = failure_of(row, name, of)
        steady = name == row.base and row.ready_at is not None and at - row.ready_at >= STEADY_S
        tries = 1 if before is None or steady else int(before["tries"]) + 1
        fell = name == row.base and row.state == EndpointState.READY
        told = {"reason": reason[:MOST_REASON], "tries": tries, "lasting": lasting, "at": at, "model": of, "fell": fell}
        others = [each for each in _failures(row, name) if each["model"] != of][: MOST_KEPT - 1]
        row.failures = {**row.failures, name: told | ({"others": others} if others else {})}
        session.add(row)
        return tries


def model_of(desired: Mapping[str, Any]) -> dict[str, Any]:
    """Which model a desired state is of, and how it is to be served; empty for none."""
    return {key: desired[key] for key in MODEL} if desired else {}


def failure_of(endpoint: Endpoint, name: str, model: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an endpoint told of a base or an adapter that it could not load when it was to serve ``model``; None if it did not."""
    return next((told for told in _failures(endpoint, name) if told["model"] == model), None)


def _failures(endpoint: Endpoint, name: str) -> list[dict[str, Any]]:
    """The failures of a name, the latest first."""
    last = endpoint.failures.get(name)
    return [] if last is None else [{key: last[key] for key in last if key != "others"}, *last.get("others", [])]


def forget(endpoint: Endpoint, names: Iterable[str], model: Mapping[str, Any]) -> None:
    """Drop the failures of these names with a model: it is to be tried anew."""
    for name in names:
        left = [told for told in _failures(endpoint, name) if told["model"] != model]
        kept = {name: left[0] | ({"others": left[1:]} if left[1:] else {})} if left else {}
        endpoint.failures = {**{key: told for key, told in endpoint.failures.items() if key != name}, **kept}


def stopped(endpoint_id: str) -> None:
    """Write that an endpoint has ended."""
    ended = {
        "state": EndpointState.STOPPED,
        "url": "",
        "sha256": "",
        "adapters": {},
        "desired": {},
        "in_flight": 0,
        "changed_at": db.now(),
    }
    with db.writing() as session:
        session.connection().execute(update(Endpoint).where(col(Endpoint.id) == endpoint_id).values(**ended))


def desired_of(endpoint_id: str) -> Mapping[str, Any] | None:
    """What an endpoint should serve: ``{"engine", "base", "options", "adapters": {name: path}}``.

    Empty while it should serve nothing: a base that no job wants stays for ``engine_idle_s``, and is then taken away here.
    None when its row is gone and it must register again.
    """
    with db.reading() as session:
        query = select(col(Endpoint.desired)).where(col(Endpoint.id) == endpoint_id)
        found: dict[str, Any] | None = session.connection().execute(query).scalar_one_or_none()
        return found


def loads_never(endpoint: Endpoint, name: str, model: Mapping[str, Any], since: float) -> str | None:
    """Why an endpoint will not load a base, or an adapter on it, that somebody wants so ``since`` then; None while it may.

    A failure from before that tells of what was there then: the folder may be whole by now.
    """
    told = failure_of(endpoint, name, model)
    return str(told["reason"]) if told is not None and is_final(endpoint, name, told, since) else None


def is_final(endpoint: Endpoint, name: str, told: Mapping[str, Any], since: float) -> bool:
    """Whether an endpoint that failed so with a base or an adapter is left alone by who wants it ``since`` then."""
    if told["at"] < since or (endpoint.state == EndpointState.READY and endpoint.base == name):
        return False  # it was another folder then, or the base came up after all
    return bool(told["lasting"]) or int(told["tries"]) >= MOST_TRIES


def is_reached() -> ColumnElement[bool]:
    """True for endpoints that answer this machine: an address that is a machine's own says nothing to another."""
    here = bindparam(None, callable_=lambda: socket.gethostname(), type_=String())
    return or_(col(Endpoint.host) == here, not_(or_(*(col(Endpoint.url).startswith(each, autoescape=True) for each in HERE))))


def answers(endpoint: Endpoint, hosts: Collection[str]) -> bool:
    """Whether an endpoint answers any of these machines."""
    return not endpoint.url.startswith(HERE) or endpoint.host in hosts


def is_live() -> ColumnElement[bool]:
    """True for endpoints whose worker is alive by its heartbeat."""
    oldest = db.now() - bindparam(None, callable_=gone_after_s, type_=Float())  # statements are kept, and the setting may change
    return and_(col(Endpoint.state) != EndpointState.STOPPED, col(Endpoint.heartbeat_at) > oldest)


def live(session: Session) -> list[Endpoint]:
    """The endpoints whose worker is alive, whatever state they are in, the oldest first."""
    query = select(Endpoint).where(is_live()).order_by(col(Endpoint.started_at), col(Endpoint.id))
    return list(session.scalars(query.execution_options(populate_existing=True)))


def _locked(session: Session, endpoint_id: str) -> Endpoint | None:
    query = select(Endpoint).where(col(Endpoint.id) == endpoint_id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()

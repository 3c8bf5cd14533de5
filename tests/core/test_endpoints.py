"""Endpoints: what inference workers report of themselves, whom to ask, and what each should serve."""

from __future__ import annotations

from core.kit import write

from app import db, endpoints
from app.endpoints import rows
from app.models import Endpoint

BASE = "/models/tiny"
ADAPTER = {"adapter-0123456789abcdef": {"path": "/adapters/a", "sha256": "0" * 64}}


def up(worker: str = "inference-1", *, base: str = BASE, engines: tuple[str, ...] = ("transformers",), **values: object) -> str:
    """An endpoint that serves a base."""
    id = endpoints.register(worker, engines=engines)
    told = {"url": "http://127.0.0.1:8000", "engine": engines[0], "capacity": 8} | values
    assert endpoints.report(id, state="ready", base=base, **told)
    return id


def row(id: str) -> Endpoint:
    with db.reading() as session:
        found = session.get(Endpoint, id)
        assert found is not None
        session.expunge(found)
        return found


def asked(base: str = BASE, adapter: str = "") -> list[str]:
    """Ids of the endpoints that may be asked."""
    with db.reading() as session:
        return [each.id for each in endpoints.ready(session, base, adapter)]


def live() -> list[str]:
    with db.reading() as session:
        return [each.id for each in endpoints.live(session)]


def test_an_endpoint_is_asked_once_it_is_ready_and_no_more_when_it_stopped(store: str) -> None:
    id = endpoints.register("inference-1", engines=["transformers"])
    assert live() == [id]
    assert asked() == []
    endpoints.report(id, state="starting", base=BASE)
    assert asked() == []
    endpoints.report(id, state="ready", url="http://127.0.0.1:1")
    assert asked() == [id]
    assert asked("/models/other") == []
    endpoints.stopped(id)
    assert live() == asked() == []


def test_an_adapter_is_asked_for_where_it_is_loaded(store: str) -> None:
    with_it, without = up("one", adapters=ADAPTER), up("two")
    assert asked(adapter=next(iter(ADAPTER))) == [with_it]
    assert set(asked()) == {with_it, without}


def test_the_least_loaded_endpoint_comes_first(store: str) -> None:
    small, large = up("one", capacity=2, in_flight=1), up("two", capacity=8, in_flight=3)
    assert asked() == [large, small]
    assert endpoints.beat(large, in_flight=8)
    assert asked() == [small, large]


def test_an_endpoint_that_missed_its_heartbeats_is_out_of_use_until_it_beats_again(store: str) -> None:
    id = up()
    write("UPDATE endpoint SET heartbeat_at = heartbeat_at - :late", late=rows.gone_after_s())
    assert live() == asked() == []
    assert endpoints.beat(id)
    assert live() == asked() == [id]


def test_one_that_begins_again_takes_the_place_of_what_it_was(store: str) -> None:
    first = up()
    second = endpoints.register("inference-1", engines=["vllm"])
    assert live() == [second]
    assert asked() == []
    assert not endpoints.beat(first)
    assert not endpoints.report(first, in_flight=1)
    assert endpoints.desired_of(first) is None
    assert endpoints.desired_of(second) == {}
    assert endpoints.failed(first, BASE, "late words") == 0


def test_one_that_stopped_must_register_again(store: str) -> None:
    id = up()
    endpoints.stopped(id)
    assert not endpoints.beat(id)
    assert not endpoints.report(id, state="ready")
    assert live() == []


def test_it_is_told_since_when_it_loads_and_serves(store: str) -> None:
    id = endpoints.register("inference-1", engines=["transformers"])
    began = row(id).changed_at
    endpoints.report(id, state="starting", base=BASE)
    loading = row(id)
    assert loading.changed_at > began
    assert loading.ready_at is None
    endpoints.report(id, state="ready", base=BASE)
    serving = row(id)
    assert serving.ready_at == serving.changed_at > loading.changed_at
    endpoints.report(id, in_flight=3, adapters=ADAPTER)
    assert row(id).changed_at == serving.changed_at


def test_failures_are_counted_by_name_until_it_is_served(store: str) -> None:
    id = endpoints.register("inference-1", engines=["transformers"])
    assert [endpoints.failed(id, BASE, f"try {i}") for i in (1, 2)] == [1, 2]
    assert endpoints.failed(id, next(iter(ADAPTER)), "rank 128 is above 64", lasting=True) == 1
    told = row(id).failures
    assert told[BASE]["reason"] == "try 2"
    assert not told[BASE]["lasting"]
    endpoints.report(id, state="ready", base=BASE)
    assert list(row(id).failures) == list(ADAPTER)
    endpoints.report(id, adapters=ADAPTER)
    assert row(id).failures == {}

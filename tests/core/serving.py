"""What tests of endpoints share: jobs that play with models, endpoints that serve them, and the scheduler's look at both."""

from __future__ import annotations

from typing import Any

from core.kit import submit

from app import db, endpoints, specs
from app.endpoints import desired
from app.models import Endpoint, Job, ModelUse

BASE = "/models/tiny"
OTHER = "/models/other"


def use(base: str = BASE, *, label: str | None = None, **more: Any) -> dict[str, Any]:
    """A row of ``model_use``, without its job."""
    return {"label": label or f"model:{more.get('adapter_path') or base}", "base": base, "options": {"max_loras": 2}} | more


def adapter(name: str, base: str = BASE, **more: Any) -> dict[str, Any]:
    """A row of ``model_use`` of an adapter."""
    return use(base, adapter=name, adapter_path=f"/adapters/{name}", sha256="a" * 64, **more)


def submit_play(*uses: dict[str, Any], seeds: str = "0-3", with_random: bool = False, **more: Any) -> Job:
    """Submit an eval whose policies are models: these, by default the base."""
    rows = uses or (use(),)
    labels = [row["label"] for row in rows] + ["random"] * with_random
    spec = specs.build({"kind": "eval", "eval": {"policies": labels, "seeds": seeds, "max_turns": 3, "episodes_per_step": 1}})
    return submit("eval", specs.resolved(spec), uses=rows, **more)


def begin(worker: str = "inference-1", *, engines: tuple[str, ...] = ("transformers",)) -> str:
    """An endpoint that has just begun; gives its id."""
    return endpoints.register(worker, engines=engines)


def up(worker: str = "inference-1", *, base: str = BASE, engines: tuple[str, ...] = ("transformers",), **values: Any) -> str:
    """An endpoint that serves a base; gives its id."""
    id = begin(worker, engines=engines)
    told = {"url": "http://127.0.0.1:8000", "engine": engines[0], "capacity": 8} | values
    assert endpoints.report(id, state="ready", base=base, **told)
    return id


def bring_there(*ids: str) -> None:
    """What a worker without faults does: serve at once what is desired."""
    for id in ids:
        wanted = row(id).desired
        if not wanted:
            endpoints.report(id, state="starting", base="", adapters={})
            continue
        loaded = {name: {"path": path, "sha256": ""} for name, path in wanted["adapters"].items()}
        endpoints.report(id, state="ready", base=wanted["base"], engine=wanted["engine"], adapters=loaded, url="http://x")


def row(id: str) -> Endpoint:
    """An endpoint's row as it is now."""
    with db.reading() as session:
        found = session.get(Endpoint, id)
        assert found is not None, f"endpoint {id} is not in the store"
        session.expunge(found)
        return found


def look() -> None:
    """What the scheduler does every second."""
    desired.tend()


def bases_of(*ids: str) -> list[str]:
    """What each endpoint should serve; empty for nothing."""
    return [row(id).desired.get("base", "") for id in ids]


def use_row(job: Job, label: str) -> ModelUse:
    """What a label of a job means."""
    with db.reading() as session:
        found = endpoints.use_of(session, job.id, label)
        assert found is not None
        session.expunge(found)
        return found

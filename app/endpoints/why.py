"""Why a model that a job needs is not served, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from app.endpoints.rows import MOST_TRIES
from app.endpoints.spread import able
from app.models import Endpoint, EndpointState, ModelUse


def why_not_served(use: ModelUse, endpoints: Sequence[Endpoint], at: float) -> str | None:
    """What must happen before steps can play with a model; None when an endpoint answers for it. ``at``: now."""
    ref = use.label.partition(":")[2]
    if not endpoints:
        return f"waits for an inference worker that can serve {ref} (none is alive); start one: `synthq worker inference`"
    fit = [endpoint for endpoint in endpoints if able(endpoint, use.engine)]
    if not fit:
        with_it = f" with {use.engine}" if use.engine != "auto" else ""
        return f"waits for an inference worker that can serve {ref}{with_it} (none of the {len(endpoints)} alive has it)"
    told = [_told(use, ref, endpoint, at) for endpoint in fit if _for_it(use, endpoint)]
    if None in told:
        return None
    if told:
        return next((each for each in told if each and "failed" not in each), told[0])
    failed = next((each for each in fit if use.base in each.failures), None)
    if failed is not None:
        return f"endpoint {failed.id} failed to load {use.base}: {failed.failures[use.base]['reason']}"
    if all(endpoint.desired and endpoint.idle_since is None for endpoint in fit):
        return f"waits for an endpoint that is free to serve {ref}: {_serve(len(fit))} models that other jobs need"
    return f"waits for the scheduler to have an endpoint serve {ref}"


def _for_it(use: ModelUse, endpoint: Endpoint) -> bool:
    return endpoint.desired.get("base") == use.base and use.engine in ("auto", endpoint.desired["engine"])


def _serve(count: int) -> str:
    return "the only one serves" if count == 1 else f"all {count} serve"


def _told(use: ModelUse, ref: str, endpoint: Endpoint, at: float) -> str | None:
    """How far an endpoint that should serve the base is; None when it answers for the model."""
    if use.base in endpoint.failures:
        return _failure(endpoint, use.base)
    if endpoint.state != EndpointState.READY or endpoint.base != use.base:
        since = f" ({max(0.0, at - endpoint.changed_at):.0f} s)" if endpoint.base == use.base else ""
        return f"endpoint {endpoint.id} is loading {use.base}{since}"
    if not use.adapter or use.adapter in endpoint.adapters:
        return None
    if use.adapter in endpoint.failures:
        return _failure(endpoint, use.adapter, ref)
    if use.adapter in endpoint.desired["adapters"]:
        return f"endpoint {endpoint.id} is loading {ref}"
    return f"waits for room: endpoint {endpoint.id} has {len(endpoint.desired['adapters'])} adapters in use beside {use.base}"


def _failure(endpoint: Endpoint, name: str, ref: str = "") -> str:
    told = endpoint.failures[name]
    tries = "" if told["lasting"] else f" (try {told['tries']} of {MOST_TRIES})"
    return f"endpoint {endpoint.id} failed to load {ref or name}{tries}: {told['reason']}"

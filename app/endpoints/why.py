"""Why a model that a job needs is not served, in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Literal

from app.endpoints.options import loras, short_of
from app.endpoints.rows import MOST_TRIES, answers, failure_of, model_of
from app.endpoints.spread import able, on_the_way
from app.engines import AUTO
from app.models import Endpoint, EndpointState, ModelUse


def why_not_served(use: ModelUse, endpoints: Sequence[Endpoint], at: float, *, hosts: Collection[str]) -> str | None:
    """What must happen before steps can play with a model; None when an endpoint answers for it.

    ``at``: now. ``hosts``: the machines that rollout workers run on.
    """
    ref = use.label.partition(":")[2]
    if not endpoints:
        return f"waits for an inference worker that can serve {ref} (none is alive); start one: `synthq worker inference`"
    fit = [endpoint for endpoint in endpoints if able(endpoint, use.engine)]
    if not fit:
        with_it = f" with {use.engine}" if use.engine != AUTO else ""
        return f"waits for an inference worker that can serve {ref}{with_it} (none of the {len(endpoints)} alive has it)"
    theirs = [endpoint for endpoint in fit if on_the_way(endpoint, use.base, use.engine, use.options)]
    told = [_told(use, ref, endpoint, at, hosts) for endpoint in theirs]
    if None in told:
        return None
    if told:
        return next((each for each in told if each and "failed" not in each), told[0])
    failed = next((each for each in fit if _failed_so(each, use) is not None), None)
    if failed is not None:
        return failed_to_load(f"endpoint {failed.id}", use.base, failed.failures[use.base]["reason"])
    otherwise = next((each for each in fit if each.desired and each.desired["base"] == use.base), None)
    if otherwise is not None and (short := short_of(otherwise.desired["options"], use.options)):
        return f"waits for its turn: endpoint {otherwise.id} serves {use.base} otherwise for other jobs ({short})"
    if all(endpoint.desired and endpoint.idle_since is None for endpoint in fit):
        return f"waits for an endpoint that is free to serve {ref}: {_busy(len(fit))}"
    return f"waits for the scheduler to have an endpoint serve {ref}"


def _failed_so(endpoint: Endpoint, use: ModelUse) -> dict[str, Any] | None:
    """The last failure of the base, if it was asked for as this use does."""
    told = endpoint.failures.get(use.base)
    return told if told is not None and told["model"].get("options") == use.options else None


def failed_to_load(who: str, ref: str, reason: str, *, of: Literal["model", "adapter"] = "model", tries: str = "") -> str:
    """A sentence about what could not be loaded. What the reason names by itself is not named twice."""
    return f"{who} failed to load {f'the {of}' if ref in reason else ref}{tries}: {reason}"


def _busy(count: int) -> str:
    return "the only one serves another that is needed" if count == 1 else f"all {count} serve others that are needed"


def _told(use: ModelUse, ref: str, endpoint: Endpoint, at: float, hosts: Collection[str]) -> str | None:
    """How far an endpoint that should serve the base is; None when it answers for the model."""
    model = model_of(endpoint.desired)
    if endpoint.state != EndpointState.READY or endpoint.base != use.base:
        failed = failure_of(endpoint, use.base, model)
        if failed is not None:
            return _failure(endpoint, use.base, failed, of="model")
        since = f" ({max(0.0, at - endpoint.changed_at):.0f} s)" if endpoint.base == use.base else ""
        return f"endpoint {endpoint.id} is loading {use.base}{since}"
    if not answers(endpoint, hosts):
        return _out_of_reach(endpoint)
    if use.line and not any(name.startswith(f"{use.line}-v") for name in endpoint.adapters):
        return f"endpoint {endpoint.id} serves {use.base}, and no version of {ref} on it yet"
    if not use.adapter or use.adapter in endpoint.adapters:
        return None
    failed = failure_of(endpoint, use.adapter, model)
    if failed is not None:
        return _failure(endpoint, ref, failed, of="adapter")
    if use.adapter in endpoint.desired["adapters"]:
        return f"endpoint {endpoint.id} is loading {ref}"
    return _not_asked_yet(use, ref, endpoint)


def _not_asked_yet(use: ModelUse, ref: str, endpoint: Endpoint) -> str:
    """Why an endpoint that serves the base is not to load the adapter: it is full, or the scheduler has not looked yet."""
    there = list(endpoint.desired["adapters"])
    lines = Counter(line for name in there if (line := name.rpartition("-v")[0]))
    kept = sum(versions == 1 for versions in lines.values())  # where the next version comes beside the one in use
    if len(there) + kept < loras(endpoint.desired["options"]):
        return f"waits for the scheduler to have endpoint {endpoint.id}, which serves {use.base}, load {ref}"
    count = "1 adapter" if len(there) == 1 else f"{len(there)} adapters"
    room = f", and keeps room for {kept} more that an rl job is about to make" if kept else ""
    return f"waits for room: endpoint {endpoint.id} has {count} in use beside {use.base}{room}"


def _out_of_reach(endpoint: Endpoint) -> str:
    where = f"endpoint {endpoint.id} answers {endpoint.host} alone ({endpoint.url})"
    return (
        f"{where}, where no rollout worker runs; start one there, or set SYNTHQ_ENGINE_HOST there to an address for other hosts"
    )


def _failure(endpoint: Endpoint, ref: str, told: dict[str, Any], *, of: Literal["model", "adapter"]) -> str:
    reason = str(told["reason"]).partition("\n")[0]
    if told.get("fell"):
        return f"endpoint {endpoint.id} is coming back with {ref} (failure {told['tries']} of {MOST_TRIES}): {reason}"
    tries = "" if told["lasting"] else f" (try {told['tries']} of {MOST_TRIES})"
    return failed_to_load(f"endpoint {endpoint.id}", ref, reason, of=of, tries=tries)

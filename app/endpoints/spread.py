"""Which endpoint serves which base. Pure: no database, no clock.

An endpoint stays on its base, served as it is, while any job wants that. Free ones go to the bases that nobody serves, in the
order of their jobs, and then to where most steps wait. To a base that none of them can serve, a base that several endpoints serve
lends one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.endpoints.options import covers
from app.endpoints.rows import loads_never, model_of
from app.endpoints.wanted import Want
from app.engines import AUTO
from app.models import Endpoint


def spread(endpoints: Sequence[Endpoint], wants: Sequence[Want]) -> dict[str, Want]:
    """What each endpoint should serve of what is wanted, by its id; those that are not named here are not needed."""
    given: dict[str, Want] = {}
    for endpoint in endpoints:
        mine = [want for want in wants if serves(endpoint, want) and can(endpoint, want)]
        if mine:
            given[endpoint.id] = min(mine, key=lambda want: not same(endpoint, want))
    free = sorted((each for each in endpoints if each.id not in given), key=_ease)
    for want in _unserved(wants, given):
        taken = _first(free, want)
        if taken is not None:
            given[taken.id] = want
            free = [each for each in free if each is not taken]
    for endpoint in free:
        crowded = _most_crowded(endpoint, wants, given)
        if crowded is not None:
            given[endpoint.id] = crowded
    for want in _unserved(wants, given):
        lent = _lent(endpoints, given, want)
        if lent is not None:
            given[lent.id] = want
    return given


def _unserved(wants: Sequence[Want], given: dict[str, Want]) -> list[Want]:
    served = {each.key for each in given.values()}
    return [want for want in wants if want.key not in served]


def can(endpoint: Endpoint, want: Want) -> bool:
    """Whether an endpoint may come to serve a base as it is wanted."""
    return able(endpoint, want.engine) and why_never(endpoint, want) is None


def why_never(endpoint: Endpoint, want: Want) -> str | None:
    """Why an endpoint that is able to will not load a base as it is wanted; None while it may."""
    return loads_never(endpoint, want.base, model_for(endpoint, want), want.since)


def model_for(endpoint: Endpoint, want: Want) -> dict[str, Any]:
    """Which model an endpoint should serve, and how, for what is wanted: what it serves will do, unless that failed for good."""
    present = model_of(endpoint.desired)
    if serves(endpoint, want) and loads_never(endpoint, want.base, present, want.since) is None:
        return present
    engines = endpoint.engines if want.engine == AUTO else [want.engine]
    asked = [{"engine": engine, "base": want.base, "options": want.options} for engine in engines]
    hopeful = (each for each in asked if loads_never(endpoint, want.base, each, want.since) is None)
    return next(hopeful, asked[0])


def able(endpoint: Endpoint, engine: str) -> bool:
    """Whether an endpoint can run an engine; ``auto`` is any."""
    return bool(endpoint.engines) if engine == AUTO else engine in endpoint.engines


def serves(endpoint: Endpoint, want: Want) -> bool:
    """Whether an endpoint is on its way to what is wanted or to more than that, or there."""
    return on_the_way(endpoint, want.base, want.engine, want.options)


def on_the_way(endpoint: Endpoint, base: str, engine: str, options: Mapping[str, Any]) -> bool:
    """Whether what an endpoint should serve will do for who asks so."""
    present = endpoint.desired
    return (
        bool(present) and present["base"] == base and engine in (AUTO, present["engine"]) and covers(present["options"], options)
    )


def same(endpoint: Endpoint, want: Want) -> bool:
    """Whether an endpoint should serve a base just as it is wanted."""
    return bool(endpoint.desired) and endpoint.desired["options"] == want.options


def _ease(endpoint: Endpoint) -> tuple[bool, float, float, str]:
    """Order in which free endpoints are given away: those that hold nothing, then those whose base is unwanted for longest."""
    holds, idle_since = bool(endpoint.desired.get("base")), endpoint.idle_since or float("inf")
    return holds, idle_since, endpoint.started_at, endpoint.id


def _first(endpoints: Iterable[Endpoint], want: Want) -> Endpoint | None:
    """The first that may serve a base, one that has it still before all others."""
    there = sorted(endpoints, key=lambda each: each.base != want.base)
    return next((each for each in there if can(each, want)), None)


def _lent(endpoints: Sequence[Endpoint], given: dict[str, Want], want: Want) -> Endpoint | None:
    """An endpoint of a base that several serve: of the base with most, the one with fewest requests under way."""
    counts = Counter(each.key for each in given.values())
    spare = [each for each in endpoints if each.id in given and counts[given[each.id].key] > 1 and can(each, want)]
    return min(spare, key=lambda each: (-counts[given[each.id].key], each.in_flight, each.id), default=None)


def _most_crowded(endpoint: Endpoint, wants: Sequence[Want], given: dict[str, Want]) -> Want | None:
    """The base with most waiting steps for each endpoint that serves it, if there are more of those than of these."""
    counts = Counter(each.key for each in given.values())
    crowded = [want for want in wants if want.waiting > counts[want.key] and can(endpoint, want)]
    return max(crowded, key=lambda want: want.waiting / (counts[want.key] + 1), default=None)

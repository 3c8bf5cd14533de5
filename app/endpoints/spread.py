"""Which endpoint serves which base. Pure: no database, no clock.

An endpoint stays on its base while any job wants it. Free ones go to the bases that nobody serves, in the order of their jobs,
and then to where most steps wait. To a base that none of them can serve, a base that several endpoints serve lends one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from app.endpoints.rows import loads_never
from app.endpoints.wanted import Want
from app.models import Endpoint, EndpointState


def spread(endpoints: Sequence[Endpoint], wants: Sequence[Want]) -> dict[str, Want]:
    """What each endpoint should serve of what is wanted, by its id; those that are not named here are not needed."""
    by_base = {want.base: want for want in wants}
    given: dict[str, Want] = {}
    for endpoint in endpoints:
        wanted = by_base.get(endpoint.desired.get("base", ""))
        if wanted is not None and (can(endpoint, wanted) or _at_play(endpoint, wanted)):
            given[endpoint.id] = wanted
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
    served = {each.base for each in given.values()}
    return [want for want in wants if want.base not in served]


def can(endpoint: Endpoint, want: Want) -> bool:
    """Whether an endpoint may come to serve a base."""
    return able(endpoint, want.first.engine) and loads_never(endpoint, want.base, want.since) is None


def able(endpoint: Endpoint, engine: str) -> bool:
    """Whether an endpoint can run an engine; ``auto`` is any."""
    return bool(endpoint.engines) if engine == "auto" else engine in endpoint.engines


def _at_play(endpoint: Endpoint, want: Want) -> bool:
    """Whether steps play with what an endpoint serves: then it stays, though the next job would have it otherwise."""
    return endpoint.state == EndpointState.READY and want.running > 0


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
    counts = Counter(each.base for each in given.values())
    spare = [each for each in endpoints if each.id in given and counts[given[each.id].base] > 1 and can(each, want)]
    return min(spare, key=lambda each: (-counts[given[each.id].base], each.in_flight, each.id), default=None)


def _most_crowded(endpoint: Endpoint, wants: Sequence[Want], given: dict[str, Want]) -> Want | None:
    """The base with most waiting steps for each endpoint that serves it, if there are more of those than of these."""
    counts = Counter(each.base for each in given.values())
    crowded = [want for want in wants if want.waiting > counts[want.base] and can(endpoint, want)]
    return max(crowded, key=lambda want: want.waiting / (counts[want.base] + 1), default=None)

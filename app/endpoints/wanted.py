"""Which bases and adapters jobs want to be served, and how. Reads only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import func, select
from sqlmodel import Session, col

from app.endpoints.options import covers, differing, loras
from app.endpoints.publish import SERVED
from app.endpoints.rows import is_final, loads_never, model_of
from app.engines import AUTO
from app.models import AdapterVersion, Endpoint, Job, JobState, ModelUse, Step, StepState, VersionState

OPEN: Final = (JobState.QUEUED, JobState.RUNNING)
PLACES: Final = 2
"""Versions of a line that are loaded at once: the live one and the next."""
MOST_ROOM: Final = 64
"""Adapters that an engine may be started for, as the spec's ``[vllm]`` has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A model that an unfinished job has unfinished steps for."""

    row: ModelUse
    priority: int
    created_at: float
    waiting: int
    running: int
    since: float
    """When the job's present attempt began: what failed to load before then deserves another try."""

    @property
    def order(self) -> tuple[Any, ...]:
        """The lower goes first."""
        return -self.priority, *self.age

    @property
    def age(self) -> tuple[float, str, str]:
        """The lower, the older."""
        return self.created_at, self.row.job_id, self.row.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A base that jobs want with one engine, served in one way that will do for all of them."""

    base: str
    engine: str
    """``auto``: with any."""
    options: dict[str, Any]
    """How it is to be served: as the oldest of the jobs asks, with room for the versions of lines."""
    uses: tuple[Use, ...]
    """In their order; never empty."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it another want."""
        return self.base, self.engine, json.dumps(self.options, sort_keys=True)

    @property
    def waiting(self) -> int:
        """Steps that wait for it."""
        return sum(use.waiting for use in self.uses)

    @property
    def running(self) -> int:
        """Steps that play with it."""
        return sum(use.running for use in self.uses)

    @property
    def since(self) -> float:
        """When the newest attempt of the jobs began."""
        return max(use.since for use in self.uses)

    @property
    def first(self) -> ModelUse:
        """The use of the oldest job: it says how the base is served."""
        return min(self.uses, key=lambda use: use.age).row


def uses(session: Session, *, dated: bool) -> list[Use]:
    """The models that unfinished jobs have unfinished steps for, in their order; ``dated``: with the time of ``since``.

    A job that publishes versions wants its base from its first step to its last, between its plays too.
    """
    query = select(ModelUse, Job).join(Job, col(Job.id) == ModelUse.job_id)
    query = query.where(col(Job.state).in_(OPEN), col(Job.cancel_requested_at).is_(None))
    rows = session.execute(query.execution_options(populate_existing=True)).all()
    ids = {row.job_id for row, _ in rows}
    steps = _open_steps(session, ids) if ids else {}
    began = _began(session, ids) if ids and dated else {}
    found = []
    for row, job in rows:
        waiting, running = steps.get((row.job_id, row.label), (0, 0))
        if waiting or running or (row.line and job.state == JobState.RUNNING):
            since = began.get(job.id, 0.0)
            use = Use(row=row, priority=job.priority, created_at=job.created_at, waiting=waiting, running=running, since=since)
            found.append(use)
    return sorted(found, key=lambda use: use.order)


def _open_steps(session: Session, job_ids: Iterable[str]) -> dict[tuple[str, str], tuple[int, int]]:
    """Waiting and running steps, by job and label."""
    running = func.count().filter(col(Step.state) == StepState.RUNNING)
    query = select(col(Step.job_id), col(Step.needs), func.count(), running)
    query = query.where(col(Step.job_id).in_(job_ids), col(Step.state).in_([StepState.QUEUED, StepState.RUNNING]))
    query = query.where(col(Step.needs).is_not(None)).group_by(col(Step.job_id), col(Step.needs))
    rows = session.connection().execute(query)
    return {(job_id, str(needs)): (count - busy, busy) for job_id, needs, count, busy in rows}


def _began(session: Session, job_ids: Iterable[str]) -> dict[str, float]:
    """When the present attempt of each job began."""
    query = select(col(Step.job_id), func.min(Step.created_at)).join(Job, col(Job.id) == Step.job_id)
    query = query.where(col(Job.id).in_(job_ids), col(Step.job_attempt) == Job.attempt).group_by(col(Step.job_id))
    return {row[0]: row[1] for row in session.connection().execute(query)}


def bases(found: Sequence[Use], endpoints: Sequence[Endpoint]) -> list[Want]:
    """The bases that these uses want, those of the first uses first.

    A job shares what older jobs ask for, or what is served already, where that covers what it asks itself; else it is a want of
    its own. Who does not care for the engine takes the one that another job asks for, if there is one that can be had.
    """
    groups: list[_Group] = []
    for use in sorted(found, key=lambda use: use.age):
        engine = _engine_for(use, found, endpoints)
        group = next((each for each in groups if each.takes(use, engine)), None)
        if group is None:
            served = _served(use, engine, found, endpoints)
            group = _Group(base=use.row.base, engine=engine, options=served or use.row.options, is_served=served is not None)
            groups.append(group)
        group.uses.append(use)
    places = {id(use): place for place, use in enumerate(found)}
    for group in groups:
        group.uses.sort(key=lambda use: places[id(use)])
    return [group.want() for group in sorted(groups, key=lambda group: places[id(group.uses[0])])]


@dataclass(slots=True, kw_only=True)
class _Group:
    """Uses that one way to serve a base will do for."""

    base: str
    engine: str
    options: Mapping[str, Any]
    is_served: bool
    """An endpoint serves it so, and another number of adapters would end its engine."""
    uses: list[Use] = field(default_factory=list)

    def takes(self, use: Use, engine: str) -> bool:
        """Whether it will do for one more."""
        if (self.base, self.engine) != (use.row.base, engine) or not covers(self.options, use.row.options):
            return False
        return not self.is_served or least_loras([*self.uses, use]) <= loras(self.options)

    def want(self) -> Want:
        """What they want together."""
        room = {} if self.is_served else _room_for(self.options, self.uses)
        return Want(base=self.base, engine=self.engine, options={**self.options, **room}, uses=tuple(self.uses))


def least_loras(uses: Collection[Use]) -> int:
    """Adapters that must fit beside a base at once, so that nobody waits for ever.

    A line needs two, for its next version is loaded beside the live one; one more takes the others' adapters in turn.
    """
    return PLACES * len(lines_of(uses)) + any(bool(use.row.adapter) for use in uses)


def lines_of(uses: Iterable[Use]) -> set[str]:
    """The lines whose versions these jobs play with: each is named by the job that publishes it."""
    return {use.row.job_id for use in uses if use.row.line}


def _room_for(options: Mapping[str, Any], uses: Collection[Use]) -> dict[str, int]:
    """Room for adapters where lines are played with: one more than is needed, for versions on their way out."""
    if not any(use.row.line for use in uses):
        return {}
    return {"max_loras": min(MOST_ROOM, max(loras(options), least_loras(uses)) + 1)}


def _served(use: Use, engine: str, found: Sequence[Use], endpoints: Sequence[Endpoint]) -> Mapping[str, Any] | None:
    """The options of an endpoint that serves what a use asks for, or more: its engine need not be started anew for it.

    What the job asks for otherwise counts only while no steps play there.
    """
    row, fit = use.row, []
    for endpoint in endpoints:
        present = endpoint.desired
        if not present or present["base"] != row.base or engine not in (AUTO, present["engine"]):
            continue
        options = present["options"]
        enough = covers(options, row.options) and (not row.line or least_loras([use]) <= loras(options))
        if enough and loads_never(endpoint, row.base, model_of(present), use.since) is None:
            played = any(other.running and other.row.base == row.base and covers(options, other.row.options) for other in found)
            if played or not differing(options, row.options):
                fit.append(options)
    return min(fit, key=lambda options: options != row.options, default=None)


def _engine_for(use: Use, found: Sequence[Use], endpoints: Sequence[Endpoint]) -> str:
    if use.row.engine != AUTO:
        return use.row.engine
    asked = (other.row.engine for other in found if other.row.base == use.row.base and other.row.engine != AUTO)
    return next((engine for engine in asked if any(_hopeful(each, use, engine) for each in endpoints)), AUTO)


def _hopeful(endpoint: Endpoint, use: Use, engine: str) -> bool:
    """Whether an endpoint can run an engine, and nothing that it told of the base says that it is no use."""
    told = endpoint.failures.get(use.row.base)
    if told is None or told["model"].get("engine") != engine:
        return engine in endpoint.engines
    return engine in endpoint.engines and not is_final(endpoint, use.row.base, told, use.since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An adapter that should be loaded beside its base."""

    name: str
    path: str
    in_use: bool
    """Steps play with it now, so that it stays whatever else is wanted."""
    since: float
    job_id: str
    line: str = ""
    """The job whose version it is; empty for an adapter that never changes."""


def adapters(session: Session, want: Want | None, base: str, *, loaded: Collection[str]) -> list[Wanted]:
    """The adapters of a base that the jobs of a want need, those in use first; each once.

    ``loaded``: names of those that are to be there now; versions among them that steps may play with stay whoever wants the base.
    """
    uses = want.uses if want is not None else ()
    lines = lines_of(uses)
    versions = [each for each in _versions(session, base) if each.line in lines or (each.in_use and each.name in loaded)]
    found = sorted((*versions, *_fixed(uses)), key=lambda each: not each.in_use)  # stable: versions, then jobs in their order
    return list({each.name: each for each in reversed(found)}.values())[::-1]


def fitting(found: Sequence[Wanted], lines: Collection[str], room: int) -> list[Wanted]:
    """Those of the adapters that are loaded at once: those in use, and as many others as leave each line its two places."""
    chosen = [each for each in found if each.in_use]
    for each in found:
        if not each.in_use and len(chosen) + _reserved(chosen, lines, each.line) < room:
            chosen.append(each)
    return chosen


def _reserved(chosen: Sequence[Wanted], lines: Collection[str], line: str) -> int:
    """Places that other lines than this have not taken yet."""
    counts = Counter(each.line for each in chosen)
    return sum(max(0, PLACES - counts[other]) for other in lines if other != line)


def _fixed(uses: Sequence[Use]) -> list[Wanted]:
    return [
        Wanted(
            name=use.row.adapter,
            path=use.row.adapter_path,
            in_use=use.running > 0,
            since=use.since,
            job_id=use.row.job_id,
        )
        for use in uses
        if use.row.adapter
    ]


def _versions(session: Session, base: str) -> list[Wanted]:
    """The versions of unfinished jobs' lines that should be loaded: live ones, those that steps still play with, new ones."""
    query = select(AdapterVersion).join(Job, col(Job.id) == AdapterVersion.line)
    query = query.where(col(AdapterVersion.base) == base, col(AdapterVersion.state).in_(SERVED), col(Job.state).in_(OPEN))
    rows = session.scalars(query.execution_options(populate_existing=True)).all()
    ranks = {VersionState.LIVE: 0, VersionState.DRAINING: 1, VersionState.LOADING: 2}
    return [
        Wanted(
            name=row.name,
            path=row.path,
            in_use=row.state != VersionState.LOADING,
            since=row.published_at,
            job_id=row.line,
            line=row.line,
        )
        for row in sorted(rows, key=lambda row: (ranks[VersionState(row.state)], row.line, row.version))
    ]

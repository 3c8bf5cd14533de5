"""How a new version of an adapter goes live, in two phases: it is loaded beside the old one everywhere, then the pointer flips.

A step that begins takes the live version and holds it; the old version stays loaded until the last step that began on it has
ended. A step that is handed back, or whose worker is lost, goes on with the version that its unfinished episodes began on. So
nobody ever asks for an adapter that is not there. Rows are locked in one order: versions, then the job, then holds.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from app import db
from app.endpoints.choice import is_ready
from app.endpoints.rows import live, loads_never, model_of
from app.errors import Conflict, LostStep
from app.lifecycle import lock_job
from app.models import ENDED, AdapterHold, AdapterVersion, Endpoint, Episode, Job, Step, StepState, VersionState, served_name
from app.store import events

SERVED = (VersionState.LOADING, VersionState.LIVE, VersionState.DRAINING)
"""The versions that endpoints keep loaded."""
PLAYED = (VersionState.LIVE, VersionState.DRAINING)
"""The versions that a step may play with."""
TAKES = 3
"""Looks for the live version: each meets a flip that was under way at most."""


def publish(session: Session, line: str, base: str, path: str, *, sha256: str, version: int | None = None) -> int:
    """Add a version to a job's line, from a folder that never changes again; give its number, 1 for the first.

    ``version``: the number that it must have, where the first may have any; None: the next one. With a number it may be said
    again: what is there already stays as it is, but for a version that is not served any more and that none came after, which is
    loaded anew. Nobody plays with a version before ``advance`` has seen it on every ready endpoint of its base. Locks the
    versions and then the job, so it comes first in its transaction; inside ``StepContext.write`` it is fenced. Raises
    JobNotFound, and Conflict for a number that is not the next one, or that other weights have.
    """
    versions = select(AdapterVersion).where(col(AdapterVersion.line) == line).order_by(col(AdapterVersion.version))
    list(session.scalars(versions.with_for_update()))  # in the order in which advance locks them
    lock_job(session, line)
    newest = select(func.max(AdapterVersion.version)).where(col(AdapterVersion.line) == line)
    last = session.connection().execute(newest).scalar_one()
    following = last + 1 if last is not None else max(1, version or 1)
    found = session.get(AdapterVersion, (line, version), populate_existing=True) if version is not None else None
    if found is not None:
        return _publish_again(session, found, base, path, sha256)
    if version not in (None, following):
        raise Conflict(f"version {version} of the adapter of job {line} cannot be published: the next one is {following}")
    at = db.clock(session)
    session.add(AdapterVersion(line=line, version=following, base=base, path=path, sha256=sha256, published_at=at))
    session.flush()
    told = {"version": following, "sha256": sha256}
    events.append(session, line, "adapter.published", f"version {following} of the adapter is published", data=told)
    return following


def _publish_again(session: Session, found: AdapterVersion, base: str, path: str, sha256: str) -> int:
    if (found.base, found.sha256) != (base, sha256):
        raise Conflict(
            f"version {found.version} of the adapter of job {found.line} is published already, with other weights "
            f"(sha256 {found.sha256} for {found.base}, and now {sha256} for {base})"
        )
    after = (col(AdapterVersion.line) == found.line, col(AdapterVersion.version) > found.version)
    newer = select(col(AdapterVersion.version)).where(*after, col(AdapterVersion.state).in_(SERVED)).limit(1)
    if found.state in SERVED or session.connection().execute(newer).first() is not None:
        return found.version
    found.state, found.path, found.published_at = VersionState.LOADING, path, db.clock(session)
    found.reason = found.live_at = found.draining_at = found.retired_at = None
    session.add(found)
    session.flush()
    told = {"version": found.version, "sha256": sha256}
    message = f"version {found.version} of the adapter is published again"
    events.append(session, found.line, "adapter.published", message, data=told)
    return found.version


def take(session: Session, line: str, step_id: str, fence: int) -> str | None:
    """The served name of the version that a running step plays with, held until the step ends; None while none is live.

    A step keeps the version that it took first, also under a later fence while an episode of it is unfinished; unless the step
    had ended meanwhile and the version went with it. Raises LostStep when the step does not run under the fence.
    """
    step = select(col(Step.id)).where(col(Step.id) == step_id, col(Step.fence) == fence, col(Step.state) == StepState.RUNNING)
    if session.connection().execute(step).first() is None:
        raise LostStep(step_id, fence)
    hold = session.get(AdapterHold, (step_id, line), populate_existing=True)
    if hold is not None and hold.fence == fence:
        return served_name(line, hold.version)
    begun = None
    if hold is not None and _is_unfinished(session, step_id):
        begun = _locked(session, line, col(AdapterVersion.version) == hold.version, col(AdapterVersion.state).in_(PLAYED))
    version = begun or _live(session, line)
    if version is None:
        return None
    _hold(session, version, step_id, fence)
    return version.name


def _live(session: Session, line: str) -> AdapterVersion | None:
    for _ in range(TAKES):
        version = _locked(session, line, col(AdapterVersion.state) == VersionState.LIVE)
        if version is not None:
            return version
    return None


def _locked(session: Session, line: str, *which: ColumnElement[bool]) -> AdapterVersion | None:
    query = select(AdapterVersion).where(col(AdapterVersion.line) == line, *which)
    return session.scalars(query.with_for_update().execution_options(populate_existing=True)).one_or_none()


def _unfinished() -> ColumnElement[bool]:
    """True for the steps in the surrounding query of which an episode waits to go on."""
    mine = (col(Episode.job_id) == Step.job_id, col(Episode.step_id) == Step.id, col(Episode.state) == "running")
    return select(col(Episode.id)).where(*mine).correlate(Step).exists()


def _is_unfinished(session: Session, step_id: str) -> bool:
    query = select(col(Step.id)).where(col(Step.id) == step_id, _unfinished())
    return session.connection().execute(query).first() is not None


def _hold(session: Session, version: AdapterVersion, step_id: str, fence: int) -> None:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    mine = dialect.insert(AdapterHold).values(step_id=step_id, line=version.line, version=version.version, fence=fence)
    changed = {"version": version.version, "fence": fence}
    keys = [col(AdapterHold.step_id), col(AdapterHold.line)]
    session.connection().execute(mine.on_conflict_do_update(index_elements=keys, set_=changed))


def let_go(session: Session, step_id: str, fence: int) -> None:
    """Give up what a step holds under its fence, unless an episode of it is unfinished: that goes on with the same version.

    What a step that has ended holds counts for nothing anyway.
    """
    mine = delete(AdapterHold).where(col(AdapterHold.step_id) == step_id, col(AdapterHold.fence) == fence)
    if not _is_unfinished(session, step_id):
        session.connection().execute(mine)


def moving(session: Session) -> list[str]:
    """The lines that ``advance`` may have something to do for; costs next to nothing where nothing was ever published."""
    query = select(col(AdapterVersion.line), col(AdapterVersion.state), col(Job.state)).join(
        Job, col(Job.id) == AdapterVersion.line
    )
    rows = session.connection().execute(query.where(col(AdapterVersion.state).in_(SERVED)))
    return sorted({line for line, state, job in rows if state != VersionState.LIVE or job in ENDED})


def advance(session: Session, line: str) -> bool:
    """Move a line's versions on as far as they can go; True when any moved.

    The newest version that every ready endpoint of its base has loaded goes live; without a ready endpoint none does. One that an
    endpoint cannot load fails, and the live one stays. What no running step holds any more is retired; of an ended job, all.
    """
    served = select(AdapterVersion).where(col(AdapterVersion.line) == line, col(AdapterVersion.state).in_(SERVED))
    served = served.order_by(col(AdapterVersion.version)).with_for_update()
    versions = list(session.scalars(served.execution_options(populate_existing=True)))
    before = [version.state for version in versions]
    job = session.get(Job, line, populate_existing=True)
    if job is None or job.state in ENDED:
        for version in versions:
            _retire(session, version)
    else:
        loading = [version for version in versions if version.state == VersionState.LOADING]
        for version in loading:
            _fail_if_hopeless(session, version)
        loaded = next((version for version in reversed(loading) if _everywhere(session, version)), None)
        if loaded is not None:
            _flip(session, versions, loaded)
        for version in versions:
            if version.state == VersionState.DRAINING and not held(session, version):
                _retire(session, version)
    session.flush()
    return [version.state for version in versions] != before


def _fail_if_hopeless(session: Session, version: AdapterVersion) -> None:
    for endpoint in live(session):
        if endpoint.base == version.base and (reason := _fault(endpoint, version)) is not None:
            version.state, version.reason = VersionState.FAILED, reason
            session.add(version)
            session.flush()
            message = f"version {version.version} of the adapter cannot be served: {reason}; the one before it stays"
            told = {"version": version.version, "endpoint": endpoint.id}
            events.append(session, version.line, "adapter.failed", message, level="error", data=told)
            return


def _fault(endpoint: Endpoint, version: AdapterVersion) -> str | None:
    """Why an endpoint will never serve a version; None while it may."""
    has = endpoint.adapters.get(version.name, {}).get("sha256")
    if has and has != version.sha256:
        return f"endpoint {endpoint.id} found other bytes in {version.path} (sha256 {has}) than were published ({version.sha256})"
    told = loads_never(endpoint, version.name, model_of(endpoint.desired), version.published_at)
    return f"endpoint {endpoint.id} could not load it: {told}" if told else None


def _everywhere(session: Session, version: AdapterVersion) -> bool:
    """Whether every ready endpoint of its base that should has loaded a version, and there is one.

    An endpoint that serves the base for other jobs, in another way, should not; of one that was told nothing yet, nobody knows.
    """
    if version.state != VersionState.LOADING:
        return False
    query = select(Endpoint).where(is_ready(), col(Endpoint.base) == version.base)
    endpoints = session.scalars(query.execution_options(populate_existing=True)).all()
    theirs = [each for each in endpoints if not each.desired or version.name in {**each.desired["adapters"], **each.adapters}]
    return bool(theirs) and all(version.name in endpoint.adapters for endpoint in theirs)


def _flip(session: Session, versions: list[AdapterVersion], to: AdapterVersion) -> None:
    at = db.clock(session)
    for version in versions:
        if version.state == VersionState.LIVE:
            version.state, version.draining_at = VersionState.DRAINING, at
        elif version.state == VersionState.LOADING and version.version < to.version:
            _retire(session, version)  # a newer one came first, and nobody has taken it
        session.add(version)
    session.flush()
    to.state, to.live_at = VersionState.LIVE, at
    session.add(to)
    session.flush()
    message = f"version {to.version} of the adapter is live {at - to.published_at:.1f} s after it was published"
    events.append(session, to.line, "adapter.live", message, data={"version": to.version})


def held(session: Session, version: AdapterVersion) -> bool:
    """Whether a running step plays with a version, or one that waits to run again has an episode that began on it."""
    holds = select(col(AdapterHold.step_id)).join(Step, col(Step.id) == AdapterHold.step_id)
    plays = (col(Step.state) == StepState.RUNNING) & (col(Step.fence) == AdapterHold.fence)
    goes_on = col(Step.state).in_((StepState.QUEUED, StepState.RUNNING)) & _unfinished()
    query = holds.where(col(AdapterHold.line) == version.line, col(AdapterHold.version) == version.version, plays | goes_on)
    return session.connection().execute(query.limit(1)).first() is not None


def _retire(session: Session, version: AdapterVersion) -> None:
    version.state, version.retired_at = VersionState.RETIRED, db.clock(session)
    session.add(version)
    gone = (col(AdapterHold.line) == version.line, col(AdapterHold.version) == version.version)
    session.connection().execute(delete(AdapterHold).where(*gone))

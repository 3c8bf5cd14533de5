"""The checks of ``app.doctor`` that need synthq's own parts: folders, broker, database, scheduler, workers. They only look."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from app import broker, db, embedded_broker, engines, migrate
from app.doctor import Check
from app.errors import SynthqError
from app.models import Queue
from app.settings import SOCKET_PATH_LIMIT, get_settings
from app.store import workers

FREE_BYTES: Final = 1_000_000_000
"""With less room than this an eval with frames may fill the disk."""
SKEW_S: Final = 2.0
"""Leases live by the database's clock; logs and metrics by this machine's."""
SERVED: Final = {Queue.ROLLOUT: "rollout", Queue.DATA: "rollout", Queue.TRAINER: "trainer"}
"""Queues with steps, and the role of the workers that do them."""


def _nearest(path: Path) -> Path:
    """The path, or the folder above it that exists."""
    return next(each for each in [path, *path.absolute().parents] if each.exists())


def home() -> Check:
    """The folder for state can be written to."""
    path = get_settings().home
    hint = "set SYNTHQ_HOME to a folder of your own"
    if path.is_dir():
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"1")
        return Check(name="home", ok=True, detail=str(path))
    above = _nearest(path)
    ok = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    return Check(name="home", ok=ok, detail=f"{path} is not there yet and {'can' if ok else 'cannot'} be made", hint=hint)


def disk() -> Check:
    """There is room for traces."""
    free = shutil.disk_usage(_nearest(get_settings().home)).free
    return Check(
        name="disk",
        ok=free >= FREE_BYTES,
        detail=f"{free / 1e9:.1f} GB free below {get_settings().home}",
        hint="free some space, or set SYNTHQ_HOME to another disk",
    )


def socket() -> Check:
    """A unix socket fits into the path of the home."""
    settings = get_settings()
    if settings.redis_url:
        return Check(name="socket", ok=None, detail="not needed: SYNTHQ_REDIS_URL names a broker")
    length = len(os.fsencode(settings.broker_socket))
    detail = f"{settings.broker_socket} ({length} bytes)"
    return Check(name="socket", ok=length <= SOCKET_PATH_LIMIT, detail=detail, hint="set SYNTHQ_HOME to a shorter path")


def engines_here() -> Check:
    """Models can be served from this machine."""
    possible, asked, gpus = engines.startable(), get_settings().engine, engines.gpus()
    python = engines.vllm_python()
    version = engines.vllm_version(python) if python else ""
    found = [
        _transformers(),
        f"vllm {version} in {python}" if version else "no vllm",
        f"{gpus or 'no'} NVIDIA GPU{'s' * (gpus > 1)}",
    ]
    detail = ", ".join(found) + (f"; an inference worker prefers {possible[0]}" if len(possible) > 1 else "")
    if python and not version:
        return Check(name="engines", ok=False, detail=detail, hint=engines.why_not(engines.VLLM) or "")
    missing = engines.why_not(engines.TRANSFORMERS if asked == engines.AUTO else asked)
    return Check(
        name="engines", ok=bool(possible) or (None if asked == engines.AUTO else False), detail=detail, hint=missing or ""
    )


def _transformers() -> str:
    if engines.why_not(engines.TRANSFORMERS) is None:
        return f"transformers {metadata.version('transformers')} with torch {metadata.version('torch')}"
    return "no torch and transformers"


def trainer() -> Check:
    """Models can be trained on this machine."""
    missing, devices, gpus = engines.why_not(engines.TRANSFORMERS), get_settings().trainer_devices, engines.gpus()
    if missing:
        return Check(name="trainer", ok=None, detail="no model can be trained here", hint=missing)
    where = f"{devices} of {gpus} GPU{'s' * (gpus > 1)}" if gpus else "the CPU" + f", in {devices} processes" * (devices > 1)
    hint = "set SYNTHQ_TRAINER_DEVICES to a number that is there"
    return Check(name="trainer", ok=not gpus or devices <= gpus, detail=f"trains with torch and peft on {where}", hint=hint)


def broker_program() -> Check:
    """There is a broker to start."""
    if get_settings().redis_url:
        return Check(name="broker program", ok=None, detail="not needed: SYNTHQ_REDIS_URL names a broker")
    return Check(name="broker program", ok=True, detail=str(embedded_broker.find_binary()))


def broker_answers() -> Check:
    """The broker answers."""
    broker.ping()
    return Check(name="broker", ok=True, detail=f"{broker.safe_url()} answers")


def database() -> Check:
    """The database opens and has this version's tables."""
    url = make_url(get_settings().database)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return Check(name="database", ok=None, detail=f"{db.safe_url()} is not there yet; `synthq up` makes it")
    present, newest = migrate.current(), migrate.head()
    ok = present == newest
    return Check(
        name="database",
        ok=ok,
        detail=f"{db.safe_url()} at revision {present or 'none'}" + ("" if ok else f"; this synthq has {newest}"),
        hint="`synthq db migrate` brings it to this version",
    )


def clock() -> Check:
    """This machine and the database tell the same time."""
    with db.reading() as session:
        skew = db.clock(session) - time.time()
    return Check(
        name="clock",
        ok=abs(skew) <= SKEW_S,
        detail=f"the database is {abs(skew):.2f} s {'ahead of' if skew > 0 else 'behind'} this machine",
        hint="let both machines take their time from NTP",
    )


def scheduler() -> Check:
    """A scheduler leads."""
    with db.reading() as session:
        lead = workers.lead(session)
    ok = lead is not None and lead.left_s > 0
    return Check(
        name="scheduler",
        ok=ok,
        detail=f"{lead.owner} leads" if ok and lead else "none leads, so no job goes on",
        hint="start one with `synthq up`",
    )


def queues() -> Iterator[Check]:
    """Every queue has somebody who serves it."""
    with db.reading() as session:
        found = {each.queue: each for each in workers.queues(session)}
    for queue, role in SERVED.items():
        each = found[queue]
        detail = (
            f"{each.workers} workers with {each.slots} slots, {each.busy} busy; {each.waiting} steps wait, {each.running} run"
        )
        # Who does not train needs no trainer, until a step waits for one.
        lacking = None if queue == Queue.TRAINER and not each.waiting else False
        hint = f"start one with `synthq worker {role}`"
        yield Check(name=f"queue {queue}", ok=each.workers > 0 or lacking, detail=detail, hint=hint)


HINTS: Final = {
    "home": "set SYNTHQ_HOME to a folder of your own",
    "broker_answers": "start it with `synthq up`, or set SYNTHQ_REDIS_URL",
    "database": "set SYNTHQ_DATABASE_URL, or start the database",
}
"""What to do when a check could not even look."""


def checks() -> Iterator[Check]:
    """Every check of this machine and its store."""
    yield from map(_look, (home, disk, socket, engines_here, trainer, broker_program, broker_answers))
    store = _look(database)
    yield store
    if not store.ok:
        yield Check(name="scheduler", ok=None, detail="not checked: the database cannot be asked")
        return
    yield from map(_look, (clock, scheduler))
    try:
        yield from queues()
    except SQLAlchemyError as error:
        yield Check(name="queues", ok=False, detail=_first_line(error))


def _look(check: Callable[[], Check]) -> Check:
    name = check.__name__
    try:
        return check()
    except (SynthqError, OSError, SQLAlchemyError) as error:
        return Check(
            name=name.removesuffix("_answers").replace("_", " "), ok=False, detail=_first_line(error), hint=HINTS.get(name, "")
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__

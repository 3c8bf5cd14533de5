"""Bringing a store back from a backup: everything is checked before anything is touched, and what was there is not lost."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DatabaseError

from app import artifacts, db, migrate
from app.backup import parts
from app.backup.parts import Reader
from app.backup.save import copy_rows
from app.command_line import meter
from app.errors import BadSource, Conflict
from app.heartbeat import live_workers
from app.settings import get_settings
from app.store import workers
from app.transfer import source as sources
from app.transfer import tables
from app.transfer.files import is_its_own
from app.transfer.scratch import migrate_to, scratch_engine

OF_PROCESSES: Final = ("worker", "leader", "endpoint")
"""Tables that tell of processes, which a backup cannot bring back."""


def restore(path: Path, *, replace: bool) -> dict[str, Any]:
    """Put the store of a backup in the place of this one; gives what was done.

    Raises SourceNotFound or BadSource for what is no whole backup; Conflict while processes are alive, and for a store with jobs
    unless ``replace``.
    """
    with parts.opened(path) as backup:
        with meter("bytes checked", sum(part.bytes for part in backup.parts)) as tick:
            backup.check(tick)
        here = sources.target_exists()
        if here:
            _check_quiet()
            _check_room(replace)
        found = _into_sqlite(backup, here=here) if _is_sqlite() else _into_postgres(backup)
        fit, unfit = _bring_artifacts(backup, found.files)
        about = {"into": db.safe_url(), "kept": found.kept, "artifacts": fit, "damaged": unfit, "from": str(path)}
        return {**found.counts, **about}


@dataclass(slots=True, kw_only=True)
class _Found:
    """What the backup's database holds."""

    counts: dict[str, int]
    files: dict[tuple[str, str, int], str]
    """Path, sha256 and size of every artifact's bytes, as the rows tell of them, and its kind."""
    kept: str | None = None
    """Where the store that was here is now."""


def _is_sqlite() -> bool:
    return make_url(get_settings().database).get_backend_name() == "sqlite"


def _check_quiet() -> None:
    """Raise Conflict while a worker or a scheduler is alive."""
    if migrate.current() != migrate.head():
        return  # nothing of this version is at work on it
    with db.reading() as session:
        alive = [f"worker {worker.id}" for worker in live_workers(session)]
        lead = workers.lead(session)
        alive += [f"scheduler {lead.owner}"] if lead is not None and lead.left_s > 0 else []
    if alive:
        raise Conflict(f"{', '.join(alive[:4])} {'is' if len(alive) == 1 else 'are'} alive; end synthq first (`synthq down`)")


def _check_room(replace: bool) -> None:
    with db.engine().connect() as connection:
        jobs = tables.Reader(connection).count("job")
    if jobs and not replace:
        raise Conflict(f"the store {db.safe_url()} has {jobs} jobs; --replace puts the backup in its place")


def _settle(connection: Connection) -> dict[str, int]:
    """Forget the processes of the time of the backup; count what goes on."""
    for name in OF_PROCESSES:
        connection.execute(text(f"DELETE FROM {name}"))
    counts = {}
    for what, query in (
        ("jobs", "SELECT count(*) FROM job"),
        ("episodes", "SELECT count(*) FROM episode"),
        ("frames", "SELECT count(*) FROM frame"),
        ("unfinished_jobs", "SELECT count(*) FROM job WHERE state IN ('queued', 'running')"),
        ("running_steps", "SELECT count(*) FROM step WHERE state = 'running'"),
    ):
        counts[what] = int(connection.execute(text(query)).scalar_one())
    return counts


# -- SQLite ------------------------------------------------------------------------------------------------------------------


def _into_sqlite(backup: Reader, *, here: bool) -> _Found:
    target = Path(make_url(get_settings().database).database or "").expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".synthq-restore-", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        found = _prepare(backup, draft)
        db.dispose()
        found.kept = str(_set_aside(target)) if here else None
        draft.replace(target)
    return found


def _prepare(backup: Reader, draft: Path) -> _Found:
    """The backup's database as a file of this version."""
    backup.extract(backup.database, draft)
    try:
        sources.check_file(draft)
        with scratch_engine(draft) as engine, engine.begin() as connection:
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
            if found not in sources.known_revisions():
                raise BadSource(f"{backup.path} is of revision {found}, which this synthq does not know; use a newer synthq")
            migrate_to(connection)
            return _Found(counts=_settle(connection), files=_files(connection))
    except DatabaseError as error:
        raise BadSource(f"{backup.path} holds a database that cannot be read ({error.orig})") from error


def _set_aside(target: Path) -> Path:
    """Rename the present database, whole in one file, and give its new place."""
    with closing(sqlite3.connect(target, timeout=1.0)) as present:
        try:
            present.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (mode,) = present.execute("PRAGMA journal_mode = DELETE").fetchone()
        except sqlite3.OperationalError as error:
            mode = str(error)
    if mode != "delete":
        raise Conflict(f"another program has {target} open; end it first (`synthq down`)")
    kept = target.with_name(f"{target.name}.before-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
    if kept.exists():
        raise Conflict(f"{kept} is there already; try again in a second")
    target.rename(kept)
    return kept


# -- Postgres ----------------------------------------------------------------------------------------------------------------


def _into_postgres(backup: Reader) -> _Found:
    migrate.upgrade()
    with tempfile.TemporaryDirectory(prefix="synthq-restore-") as folder:
        draft = Path(folder) / parts.DATABASE
        found = _prepare(backup, draft)
        with scratch_engine(draft) as engine, engine.connect() as source, db.writing() as session:
            target = session.connection()
            target.execute(text(f"TRUNCATE {', '.join(tables.all_tables())}"))
            copy_rows(tables.Reader(source), target)
            _count_on(target)
    return found


def _count_on(target: Connection) -> None:
    """Let the numbers that Postgres gives by itself go on behind those that came."""
    target.execute(text("SELECT setval(pg_get_serial_sequence('outbox', 'id'), coalesce(max(id), 0) + 1, false) FROM outbox"))


# -- artifacts ---------------------------------------------------------------------------------------------------------------


def _files(connection: Connection) -> dict[tuple[str, str, int], str]:
    rows = tables.Reader(connection).rows("artifact")
    return {(row["path"], row["sha256"], row["bytes"]): row["kind"] for row in rows if is_its_own(row)}


def _bring_artifacts(backup: Reader, files: Mapping[tuple[str, str, int], str]) -> tuple[int, list[str]]:
    """Put the artifacts' bytes below the artifact root; gives how many, and the parts that are no artifact's bytes.

    Those stay in the backup: what is under that name now may be whole.
    """
    unfit = []
    with meter("artifacts", len(backup.artifacts)) as tick, tempfile.TemporaryDirectory(prefix="synthq-artifact-") as folder:
        for part in backup.artifacts:
            path, local = part.name.removeprefix(parts.ARTIFACTS), Path(folder) / "bytes"
            kind = files.get((path, part.sha256, part.bytes))
            if kind is not None:
                backup.extract(part, local)
                artifacts.put(local, path, kind)
            else:
                unfit.append(path)
            tick(1)
    return len(backup.artifacts) - len(unfit), unfit

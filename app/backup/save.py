"""Saving the store while it is used: the database as of one moment, then the artifacts that its rows name."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, make_url

from app import artifacts, db
from app.backup import parts
from app.command_line import Tick, meter
from app.errors import ArtifactDamaged, ArtifactNotFound
from app.models import Artifact
from app.settings import get_settings
from app.transfer import tables
from app.transfer.files import as_artifact
from app.transfer.scratch import migrate_to, scratch_engine
from app.transfer.source import check_target

PAGES_A_STEP: Final = 1024
"""Pages copied between two looks at the progress; readers and writers go on all the while."""


def save(path: Path, *, with_artifacts: bool, overwrite: bool) -> dict[str, Any]:
    """Write a backup; gives its manifest, with ``missing``: artifacts whose bytes are gone. Raises Conflict, StoreUnavailable."""
    check_target()
    with (
        parts.created(path, overwrite=overwrite) as writer,
        tempfile.TemporaryDirectory(prefix=".synthq-backup-", dir=path.parent) as folder,
    ):
        copy = Path(folder) / parts.DATABASE
        copy_database(copy)
        with copy.open("rb") as stream:
            writer.add(parts.DATABASE, stream)
        counts, rows = _counts(copy), _artifacts(copy) if with_artifacts else []
        missing = _add_artifacts(writer, rows)
        return writer.finish(
            synthq=version("synthq"),
            at=time.time(),
            made_from=db.engine().dialect.name,
            rows=counts,
            with_artifacts=with_artifacts,
            missing=missing,
        )


def copy_database(to: Path) -> None:
    """Copy this store, as of one moment, to a new SQLite file."""
    if db.engine().dialect.name == "sqlite":
        _copy_sqlite(to)
    else:
        with scratch_engine(to) as target, tables.snapshot() as source, target.begin() as connection:
            migrate_to(connection)
            copy_rows(tables.Reader(source), connection)


def _copy_sqlite(to: Path) -> None:
    source_path = make_url(get_settings().database).database or ""
    with closing(sqlite3.connect(source_path, isolation_level=None)) as source, closing(sqlite3.connect(to)) as target:
        source.execute("PRAGMA busy_timeout = 30000")
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM alembic_version").fetchone()  # from here on it is this moment that is read
        with meter("pages") as tick:
            copied = 0

            def progress(status: int, remaining: int, total: int) -> None:
                nonlocal copied
                tick(total - remaining - copied)
                copied = total - remaining

            source.backup(target, pages=PAGES_A_STEP, progress=progress, sleep=0)
        target.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it


def copy_rows(source: tables.Reader, target: Connection) -> dict[str, int]:
    """Copy every row of every table; gives how many by table."""
    counts = {}
    with meter("rows", sum(source.count(name) for name in tables.all_tables())) as tick:
        for name in tables.all_tables():
            counts[name] = tables.insert(target, name, _ticked(source.rows(name), tick))
    return counts


def _ticked(rows: Iterator[tables.Row], tick: Tick) -> Iterator[tables.Row]:
    for row in rows:
        tick(1)
        yield row


def _counts(path: Path) -> dict[str, int]:
    with scratch_engine(path) as engine, engine.connect() as connection:
        reader = tables.Reader(connection)
        return {name: reader.count(name) for name in tables.all_tables()}


def _artifacts(path: Path) -> list[Artifact]:
    with scratch_engine(path) as engine, engine.connect() as connection:
        rows = tables.Reader(connection).rows("artifact", order=("path",))
        return [as_artifact(row) for row in rows]


def _add_artifacts(writer: parts.Writer, rows: list[Artifact]) -> list[str]:
    """Write the bytes of artifacts, each path once; gives those whose bytes are gone or are not theirs: they are left out."""
    missing, paths = [], {row.path: row for row in rows}
    with meter("artifacts", len(paths)) as tick:
        for row in paths.values():
            try:
                with artifacts.open_artifact(row, verify=True) as stream:
                    writer.add(f"{parts.ARTIFACTS}{row.path}", stream)
            except (ArtifactNotFound, ArtifactDamaged):
                missing.append(row.id)
            tick(1)
    return missing

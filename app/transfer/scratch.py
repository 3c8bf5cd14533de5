"""SQLite files that nobody else uses: copies to be brought to this version's tables before they are read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from app import migrate
from app.transfer import tables
from app.transfer.tables import Reader

HASHED_ANEW: Final = "0004"
"""Revision that works out every episode's hash again, without asking whether the one that it finds fits the turns."""
BEFORE_IT: Final = "0003"


@contextmanager
def scratch_engine(path: Path) -> Iterator[Engine]:
    """An engine on a SQLite file that nobody else uses."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    try:
        yield engine
    finally:
        engine.dispose()


def migrate_to(connection: Connection, revision: str = "head") -> None:
    """Bring the database of a connection to a revision's tables, this version's without one."""
    made = migrate.config()
    made.attributes["connection"] = connection
    command.upgrade(made, revision)


@contextmanager
def as_of_today(store: Connection, revision: str, folder: Path) -> Iterator[Connection]:
    """A store of an older revision as this version has it, in a copy under ``folder``; the store itself is only read."""
    copy = folder / "migrated.db"
    if store.dialect.name == "sqlite":
        driver = store.connection.driver_connection
        assert driver is not None, "the connection is open"
        with closing(sqlite3.connect(copy)) as target:
            driver.backup(target)
    with scratch_engine(copy) as engine:
        with engine.begin() as connection:
            if store.dialect.name != "sqlite":
                migrate_to(connection, revision)
                _copy(Reader(store), connection)
            _bring_up(connection, revision)
        with engine.connect() as connection:
            yield connection


def _copy(store: Reader, target: Connection) -> None:
    for name in tables.all_tables():
        if store.present(name):
            tables.insert(target, name, store.rows(name))


def _bring_up(copy: Connection, revision: str) -> None:
    """Bring a copy to this version. An episode whose hash does not fit its turns keeps it, so that it is found damaged."""
    before = _hashes(copy)
    migrate_to(copy)
    if revision >= HASHED_ANEW:
        return
    made = migrate.config()
    made.attributes["connection"] = copy
    command.downgrade(made, BEFORE_IT)
    fit = _hashes(copy)
    migrate_to(copy)
    for id, sha256 in before.items():
        if fit.get(id) != sha256:
            copy.execute(text("UPDATE episode SET sha256 = :sha256 WHERE id = :id"), {"id": id, "sha256": sha256})


def _hashes(store: Connection) -> dict[str, str | None]:
    return {row.id: row.sha256 for row in store.execute(text("SELECT id, sha256 FROM episode"))}

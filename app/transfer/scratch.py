"""SQLite files that nobody else uses: copies to be brought to this version's tables before they are read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic import command
from sqlalchemy import Connection, Engine, NullPool, create_engine

from app import migrate
from app.transfer import tables
from app.transfer.tables import Reader


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
            migrate_to(connection)
        with engine.connect() as connection:
            yield connection


def _copy(store: Reader, target: Connection) -> None:
    for name in tables.all_tables():
        if store.present(name):
            tables.insert(target, name, store.rows(name))

"""Rows as a database holds them: JSON as the text that was stored, so that a row is the same in SQLite and in Postgres.

Everything that moves or checks whole rows goes through here; a turn that has crossed from one database to another and back has
the bytes that it began with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from sqlalchemy import JSON, Boolean, ColumnElement, Connection, Table, Text, cast, column, func, inspect, select, table
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import SQLModel

import app.models  # noqa: F401 - fills the metadata
from app import db

ROWS_A_STATEMENT: Final = 500
Row = dict[str, Any]
"""A row by column: JSON as text, truth as bool, bytes as bytes."""


def all_tables() -> list[str]:
    """Every table of the store, those that others refer to first."""
    return [each.name for each in SQLModel.metadata.sorted_tables]


@lru_cache(maxsize=64)
def _model(name: str) -> Table:
    return SQLModel.metadata.tables[name]


def columns_of(name: str) -> tuple[str, ...]:
    """The columns of a table of this version."""
    return tuple(_model(name).columns.keys())


@lru_cache(maxsize=64)
def _of_type(name: str, kind: type) -> frozenset[str]:
    return frozenset(each.name for each in _model(name).columns if isinstance(each.type, kind))


def plain(name: str, columns: Iterable[str] | None = None) -> Any:
    """The table without types: values go to the driver as they are."""
    return table(name, *(column(each) for each in columns or columns_of(name)))


class Reader:
    """Reads whole rows over one connection, of this version's tables or of those of an older store."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._present: dict[str, frozenset[str]] = {}

    def present(self, name: str) -> frozenset[str]:
        """The columns of a table that this database has; none where it has no such table."""
        if name not in self._present:
            looked = inspect(self.connection)
            found = looked.get_columns(name) if looked.has_table(name) else []
            self._present[name] = frozenset(each["name"] for each in found)
        return self._present[name]

    def rows(
        self,
        name: str,
        *where: ColumnElement[bool],
        columns: Sequence[str] | None = None,
        order: Sequence[str] = (),
        limit: int | None = None,
    ) -> Iterator[Row]:
        """Rows of a table, fetched as they are asked for. What an older store lacks is left out: a column, or all of it."""
        present = self.present(name)
        if not present:
            return
        wanted = tuple(columns or columns_of(name))
        query = self._select(name, [each for each in wanted if each in present]).where(*where).limit(limit)
        query = query.order_by(*(column(each) for each in order))
        bools = _of_type(name, Boolean) & set(wanted)
        streamed = self.connection.execution_options(yield_per=ROWS_A_STATEMENT)
        for found in streamed.execute(query).mappings():
            row = dict(found)
            for each in bools:
                if row.get(each) is not None:
                    row[each] = bool(row[each])
            yield row

    def count(self, name: str, *where: ColumnElement[bool]) -> int:
        """How many rows there are."""
        if not self.present(name):
            return 0
        return int(self.connection.execute(select(func.count()).select_from(plain(name)).where(*where)).scalar_one())

    def _select(self, name: str, columns: Sequence[str]) -> Any:
        json = _of_type(name, JSON) if self.connection.dialect.name == "postgresql" else frozenset()
        chosen = [cast(column(each), Text).label(each) if each in json else column(each) for each in columns]
        query: Any = select(*chosen)
        return query.select_from(plain(name, columns))


def insert(connection: Connection, name: str, rows: Iterable[Row], *, new_only: bool = False) -> int:
    """Insert whole rows, ``new_only``: those whose key is not there yet. Gives how many rows were given."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(plain(name))
    if new_only:
        statement = statement.on_conflict_do_nothing()
    count = 0
    for batch in batches(rows):
        connection.execute(statement, batch)
        count += len(batch)
    return count


def batches(rows: Iterable[Any], length: int = ROWS_A_STATEMENT) -> Iterator[list[Any]]:
    """The rows in lists of at most ``length``."""
    source = iter(rows)
    while batch := list(islice(source, length)):
        yield batch


def sum_of(rows: Iterable[Mapping[str, Any]], without: Iterable[str] = ()) -> tuple[int, int]:
    """How many rows, and a sum of their hashes: equal rows in any order have equal sums. Databases sort text differently."""
    skip, count, total = frozenset(without), 0, 0
    for row in rows:
        said = repr(sorted((key, value) for key, value in row.items() if key not in skip))
        total += int.from_bytes(hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest(), "big")
        count += 1
    return count, total % 2**256


@contextmanager
def snapshot() -> Iterator[Connection]:
    """A connection to this store on which everything is read as of one moment."""
    engine = db.engine()
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True) as connection:
            yield connection
        return
    with db.reading() as session:
        yield session.connection()

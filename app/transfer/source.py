"""Another store, opened to be read as of one moment and never changed. What it cannot be is told before anything is begun."""

from __future__ import annotations

import re
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from app import db, migrate
from app.artifacts import digest
from app.errors import BadSource, Conflict, SourceNotFound, StoreUnavailable, cut
from app.models import ENDED
from app.settings import get_settings
from app.transfer.scratch import as_of_today

Form = Literal["synthq", "tracing_v3"]
SYNTHQ_TABLES: Final = frozenset({"alembic_version", "job", "episode", "turn"})
V3_TABLES: Final = frozenset({"session_traces", "messages"})
MAGIC: Final = b"SQLite format 3\0"
WAL_MODE: Final = 2
"""Bytes 18 and 19 of a SQLite file that is read and written by way of a log beside it."""
LOCKED_S: Final = 5.0
"""How long a source that another program has locked is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An open source."""

    connection: Connection
    form: Form
    name: str
    """File name, or the address with its user and without a password."""
    where: str
    """The whole path or address, for people."""
    path: Path | None
    """The file; None for a database server."""

    def sha256(self) -> str | None:
        """Hash of the file; None for a database server."""
        return None if self.path is None else digest(self.path)[0]


@contextmanager
def opened(where: str) -> Iterator[Source]:
    """Open a SQLite file or a database URL. Raises SourceNotFound or BadSource with a sentence; creates nothing."""
    if re.match(r"[a-z][a-z0-9+]*://", where) and not where.startswith("sqlite"):
        with _server(where) as source:
            yield source
        return
    path = Path(make_url(where).database or "") if where.startswith("sqlite") and "://" in where else Path(where)
    with _file(path.expanduser()) as source:
        yield source


# -- files -----------------------------------------------------------------------------------------------------------------


@contextmanager
def _file(path: Path) -> Iterator[Source]:
    header = check_file(path)
    if _is_this_store(path):
        raise BadSource(f"{path} is this store itself; name another one")
    with tempfile.TemporaryDirectory(prefix="synthq-source-") as folder:
        engine = _sqlite(path, header, Path(folder))
        try:
            with engine.connect() as connection:
                try:
                    connection.exec_driver_sql("BEGIN")
                    form = _form(connection, str(path))
                except DatabaseError as error:
                    raise _unreadable(path, error) from error
                try:
                    with _of_today(connection, form, Path(folder)) as readable:
                        yield Source(connection=readable, form=form, name=path.name, where=str(path), path=path)
                except DatabaseError as error:
                    if _is_the_files_fault(error):
                        raise _unreadable(path, error) from error
                    raise
        finally:
            engine.dispose()


def _is_the_files_fault(error: DatabaseError) -> bool:
    """Whether the file itself is damaged, in contrast to what the store that its rows go to may say."""
    return any(words in str(error.orig) for words in ("malformed", "not a database", "Could not decode"))


def check_file(path: Path) -> bytes:
    """The header of a whole SQLite file. Raises SourceNotFound, BadSource."""
    if not path.exists():
        raise SourceNotFound(f"there is no file {path}")
    if not path.is_file():
        raise BadSource(f"{path} is a folder; name the database file in it")
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = stream.read(100)
    if not header:
        raise BadSource(f"{path} is empty (0 bytes), so it is no SQLite database")
    if not header.startswith(MAGIC):
        raise BadSource(f"{path} is no SQLite database: it begins with {header[:16]!r}")
    if len(header) < 100:
        raise BadSource(f"{path} is cut short: a SQLite database has a header of 100 bytes, and this file has {size}")
    (page,) = struct.unpack(">H", header[16:18])
    changed, pages, valid_for = (struct.unpack(">I", header[at : at + 4])[0] for at in (24, 28, 92))
    page = 65536 if page == 1 else page
    if changed == valid_for and size < page * pages:
        raise BadSource(f"{path} is cut short: its header tells of {page * pages:,} bytes, and it has {size:,}")
    return header


def _is_this_store(path: Path) -> bool:
    own = make_url(get_settings().database)
    if own.get_backend_name() != "sqlite" or not own.database:
        return False
    here = Path(own.database).expanduser()
    return here.exists() and here.samefile(path)


def _sqlite(path: Path, header: bytes, scratch: Path) -> Engine:
    """An engine that reads the file and leaves nothing beside it.

    SQLite makes files beside a database in WAL mode even to read it. Where they are there already they are used; a log that no
    program has open is read in a copy; and a database without any is opened as one that nobody changes.
    """
    log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    options = "mode=ro"
    if header[18] == WAL_MODE and not index.exists():
        if log.exists() and log.stat().st_size:
            for each in (path, log):
                shutil.copyfile(each, scratch / each.name)
            path = scratch / path.name
        else:
            options = "mode=ro&immutable=1"
    uri = f"{path.absolute().as_uri()}?{options}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, timeout=LOCKED_S, isolation_level=None, check_same_thread=False)

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _unreadable(path: Path, error: DatabaseError) -> BadSource:
    said = str(error.orig)
    if "locked" in said or "busy" in said:
        return BadSource(f"{path} is locked by another program; close it, or copy the file with its -wal and name the copy")
    return BadSource(f"{path} cannot be read as a database ({said}); it may be cut short or damaged")


# -- servers ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _server(where: str) -> Iterator[Source]:
    try:
        url = make_url(where)
    except ArgumentError as error:
        raise BadSource(f"{cut(where)} is no database address: {error}") from None
    if url.get_backend_name() != "postgresql":
        raise BadSource(f"{url.get_backend_name()}:// is no store that can be read; it takes a SQLite file or postgresql://...")
    safe = url.render_as_string(hide_password=True)
    if url.set(drivername="postgresql") == make_url(get_settings().database).set(drivername="postgresql"):
        raise BadSource(f"{safe} is this store itself; name another one")
    engine = create_engine(url.set(drivername="postgresql+psycopg"), poolclass=NullPool)
    try:
        try:
            connection = engine.connect()
        except OperationalError as error:
            raise StoreUnavailable(f"the database {safe} does not answer: {error.orig}") from error
        with (
            tempfile.TemporaryDirectory(prefix="synthq-source-") as folder,
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True),
        ):
            form = _form(connection, safe)
            with _of_today(connection, form, Path(folder)) as readable:
                yield Source(connection=readable, form=form, name=server_name(url), where=safe, path=None)
    finally:
        engine.dispose()


def server_name(url: URL) -> str:
    """The address as a spec may hold it: a password, even a hidden one, is refused there."""
    plain = URL.create("postgresql", username=url.username, host=url.host, port=url.port, database=url.database)
    return plain.render_as_string()


# -- what it is ------------------------------------------------------------------------------------------------------------


def _form(connection: Connection, where: str) -> Form:
    """What kind of store it is; one that has no traces is refused."""
    names = set(inspect(connection).get_table_names())
    if names >= SYNTHQ_TABLES:
        _check_revision(connection, where)
        form: Form = "synthq"
        count = f"SELECT count(*) FROM episode JOIN job ON job.id = episode.job_id WHERE job.state IN {tuple(sorted(ENDED))}"
        lacks = "no traces of jobs that have ended"
    elif names >= V3_TABLES:
        form, count, lacks = "tracing_v3", "SELECT count(*) FROM session_traces", "no traces: its table session_traces is empty"
    else:
        listed = ", ".join(sorted(names)[:8]) or "none"
        raise BadSource(
            f"{where} is a database and no trace store: it has neither synthq's tables nor those of tracing v3 (tables: {listed})"
        )
    if not connection.execute(text(count)).scalar_one():
        raise BadSource(f"{where} has {lacks}, so there is nothing to bring in")
    return form


@contextmanager
def _of_today(connection: Connection, form: Form, folder: Path) -> Iterator[Connection]:
    """The source as this version's tables have it: itself, or a copy of an older one that was brought up to date."""
    found = _revision(connection) if form == "synthq" else migrate.head()
    if found == migrate.head():
        yield connection
        return
    with as_of_today(connection, str(found), folder) as copy:
        yield copy


def known_revisions() -> list[str]:
    """The revisions of the tables that this version knows."""
    return [script.revision for script in ScriptDirectory.from_config(migrate.config()).walk_revisions()]


def _check_revision(connection: Connection, where: str) -> None:
    found = _revision(connection)
    if found not in known_revisions():
        raise BadSource(f"{where} is at revision {found or 'none'}, which this synthq does not know; use a newer synthq")


def _revision(connection: Connection) -> str | None:
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalars().first()


def target_exists() -> bool:
    """Whether this store has any tables; nothing is created by the question."""
    own = make_url(get_settings().database)
    if own.get_backend_name() == "sqlite" and not Path(own.database or "").expanduser().exists():
        return False
    return migrate.current() is not None


def check_target() -> None:
    """Raise StoreUnavailable or Conflict unless this store is there with this version's tables; nothing is created."""
    if not target_exists():
        raise StoreUnavailable(f"there is no store at {db.safe_url()}")
    if migrate.current() != migrate.head():
        raise Conflict(f"the store {db.safe_url()} is of another version; `synthq db migrate` brings it to this one")

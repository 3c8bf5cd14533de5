"""The database: one engine a process, read and write transactions, and the database's own clock.

SQLite and Postgres run the same code. On SQLite a write transaction begins with BEGIN IMMEDIATE, so that it waits for its turn
at the start and never fails half way with a deadlock; on Postgres rows are locked where they are chosen (``FOR UPDATE``), which
SQLAlchemy leaves out for SQLite.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import Float
from sqlmodel import Session

from app.errors import StoreUnavailable
from app.settings import get_settings

BUSY_TIMEOUT_S = 30.0
"""How long a SQLite writer waits for its turn."""
CHECKPOINT_PAGES = 8192
"""Pages (4 KiB) of SQLite's log before they are moved to the database: pictures fill the usual 1,000 several times a second."""
LOCK_PAUSE_S = (0.0005, 0.004)
"""Range of the sleeps between two tries for SQLite's write lock."""


class now(FunctionElement[float]):
    """The database's clock, in UTC epoch seconds."""

    type = Float()
    inherit_cache = True
    name = "now_epoch"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgres(element: now, compiler: Any, **kw: Any) -> str:
    # clock_timestamp moves inside a transaction; now() would stand still while one waits for a lock.
    return "extract(epoch from clock_timestamp())::float8"


def make_engine(url: str) -> Engine:
    """An engine for a database URL, set up for many short transactions."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).expanduser().parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() == "postgresql":
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        return create_engine(parsed, pool_pre_ping=True, pool_size=5, max_overflow=20)
    raise StoreUnavailable(
        f"no store in a {parsed.get_backend_name()!r} database; SYNTHQ_DATABASE_URL takes sqlite:/// or postgresql+psycopg://"
    )


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself: _begin_sqlite does
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get("synthq_write", False):
        _begin_immediate(connection.connection.cursor())
    else:
        connection.exec_driver_sql("BEGIN")


def _begin_immediate(cursor: Any) -> None:
    """Wait for the write lock in short random sleeps. SQLite's own waits grow to 100 ms, far beyond a transaction's length."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                cursor.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise OperationalError("BEGIN IMMEDIATE", None, error) from error  # as SQLAlchemy tells every outage
            time.sleep(random.uniform(*LOCK_PAUSE_S))
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        cursor.close()


_lock = threading.Lock()
_engines: dict[tuple[int, str], Engine] = {}


def engine() -> Engine:
    """This process's engine. A forked child gets one of its own: connections must not cross a fork."""
    key = (os.getpid(), get_settings().database)
    found = _engines.get(key)
    if found is None:
        with _lock:
            found = _engines.setdefault(key, make_engine(key[1])) if key not in _engines else _engines[key]
    return found


def dispose() -> None:
    """Close this process's connections and forget what was inherited from a parent."""
    mine = [key for key in _engines if key[0] == os.getpid()]
    for key in mine:
        _engines.pop(key).dispose()


class _ForkGate:
    """Keeps a fork and SQLite's connections apart.

    SQLite notes the locks of all connections of a process in that process's memory. A child that was forked while one of them was
    open inherits the notes without the locks: it waits for ever for a lock whose holder it does not have, and other processes do
    not see the locks that it believes to share. So a fork waits for open transactions, and closes idle connections first.
    """

    PATIENCE_S = 5.0
    """Longest wait of a fork for a transaction of another thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self._forking = False
        self._mine = threading.local()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction of this thread; the outermost one waits while another thread forks."""
        depth = getattr(self._mine, "depth", 0)
        with self._changed:
            while self._forking and not depth:
                self._changed.wait()
            self._open += 1
        self._mine.depth = depth + 1
        try:
            yield
        finally:
            self._mine.depth = depth
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Let the other threads finish their transactions, and close what is idle."""
        mine = getattr(self._mine, "depth", 0)
        with self._changed:
            self._forking = True
            self._changed.wait_for(lambda: self._open == mine, timeout=self.PATIENCE_S)
        for key, found in list(_engines.items()):
            if key[0] == os.getpid() and found.dialect.name == "sqlite":
                found.dispose()

    def after_fork(self) -> None:
        """Let transactions begin again, in the parent."""
        with self._changed:
            self._forking = False
            self._changed.notify_all()


_gate = _ForkGate()


def forget_inherited() -> None:
    """After a fork: drop the parent's engines without touching their sockets."""
    global _lock, _gate
    _lock, _gate = threading.Lock(), _ForkGate()
    for key in [key for key in _engines if key[0] != os.getpid()]:
        _engines.pop(key).dispose(close=False)


os.register_at_fork(
    before=lambda: _gate.before_fork(), after_in_parent=lambda: _gate.after_fork(), after_in_child=forget_inherited
)


@contextmanager
def reading() -> Iterator[Session]:
    """A session that only reads."""
    with _gate.transaction(), Session(engine()) as session:
        yield session


@contextmanager
def writing() -> Iterator[Session]:
    """One write transaction: committed when the block ends, rolled back when it raises."""
    with (
        _gate.transaction(),
        engine().connect().execution_options(synthq_write=True) as connection,
        connection.begin(),
        Session(connection, expire_on_commit=False) as session,
    ):
        yield session
        session.flush()


def clock(session: Session) -> float:
    """The database's time, UTC epoch seconds."""
    return float(session.connection().execute(now().select()).scalar_one())


SQLITE_OUTAGES = ("locked", "busy", "unable to open", "disk i/o", "disk is full", "readonly")
"""What SQLite says when waiting may help. It uses the same error class for a mistake in a statement."""


def is_outage(error: OperationalError) -> bool:
    """Whether the database could not be used just now, in contrast to a statement that can never work."""
    text = str(error.orig).lower()
    return type(error.orig).__module__.split(".")[0] != "sqlite3" or any(word in text for word in SQLITE_OUTAGES)


def wait_until_ready(timeout_s: float = 30.0) -> None:
    """Block until the database answers. Raises StoreUnavailable with the driver's own words."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with engine().connect() as connection:
                connection.exec_driver_sql("SELECT 1")
            return
        except OperationalError as error:
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"the database {safe_url()} does not answer: {error.orig}") from error
            time.sleep(0.2)


def safe_url() -> str:
    """The database URL without its password."""
    return make_url(get_settings().database).render_as_string(hide_password=True)

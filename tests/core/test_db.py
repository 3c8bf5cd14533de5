"""The database's two kinds of transaction, and what a fork must not do to them."""

from __future__ import annotations

import os
import threading
import time

import pytest
from core import kit
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app import db

INSERT = text("INSERT INTO leader (name, owner, until) VALUES (:name, 'x', 1)")


def insert(name: str) -> None:
    with db.writing() as session:
        session.connection().execute(INSERT, {"name": name})


def names() -> list[str]:
    with db.reading() as session:
        return list(session.connection().execute(text("SELECT name FROM leader ORDER BY name")).scalars())


def in_a_fork(name: str, timeout_s: float) -> int | None:
    """Write from a forked child; its exit status, or None when it was not done in time."""
    child = os.fork()
    if child == 0:
        try:
            insert(name)
            names()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing of the test may go on in the child
            os._exit(1)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def test_what_a_block_raises_undoes_what_it_wrote(store: str) -> None:
    insert("kept")

    def write_two(*given: str) -> None:
        with db.writing() as session:
            for name in given:
                session.connection().execute(INSERT, {"name": name})

    with pytest.raises(IntegrityError):
        write_two("undone", "kept")
    assert names() == ["kept"]


def test_the_databases_clock_is_utc_and_moves_inside_a_transaction(store: str) -> None:
    with db.writing() as session:
        first = db.clock(session)
        kit.until(lambda: db.clock(session) > first, 1, "the clock moves")
        assert abs(db.clock(session) - time.time()) < 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_forked_while_a_thread_writes_can_write(store: str) -> None:
    """SQLite keeps the locks of a process in that process's memory, and a fork copies them: a child would wait for ever for a
    lock whose holder it does not have, and other processes would not see the child's own."""
    insert("before")
    begun, done = threading.Event(), threading.Event()

    def write_for_a_while() -> None:
        with db.writing() as session:
            session.connection().execute(INSERT, {"name": "parent"})
            begun.set()
            done.wait(0.3)

    for i in range(3):
        begun.clear()
        thread = threading.Thread(target=write_for_a_while)
        thread.start()
        assert begun.wait(5)
        assert in_a_fork(f"child-{i}", 5) == 0
        thread.join()
        kit.write("DELETE FROM leader WHERE name = 'parent'")
    assert names() == ["before", "child-0", "child-1", "child-2"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_inside_a_transaction_does_not_wait_for_itself(store: str) -> None:
    with db.writing() as session:
        session.connection().execute(INSERT, {"name": "parent"})
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert time.monotonic() - began < 1
    assert names() == ["parent"]

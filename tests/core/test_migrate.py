"""Migrations: the tables are those of the models, in both databases, however many processes start at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from core.kit import played, python, submit_eval, work_through, write
from sqlalchemy import inspect
from sqlmodel import SQLModel, select

import app.models  # noqa: F401 - fills the metadata
from app import db, migrate
from app.errors import StoreUnavailable
from app.models import Episode


def test_migrations_make_exactly_the_tables_of_the_models(empty_store: str) -> None:
    migrate.upgrade()
    with db.engine().connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_an_upgrade_of_a_database_that_is_up_to_date_changes_nothing(empty_store: str) -> None:
    migrate.upgrade()
    write("INSERT INTO leader (name, owner, until) VALUES ('x', 'me', 1)")
    migrate.upgrade()
    assert write("DELETE FROM leader") == 1
    assert migrate.current() == migrate.head()


@pytest.mark.integration
def test_four_processes_may_upgrade_at_once(empty_store: str, own_home: Path) -> None:
    started = [python("-m", "app.migrate", log=own_home / f"{i}.log") for i in range(4)]
    try:
        assert [process.wait(60) for process in started] == [0] * 4, "\n".join(p.said() for p in started)
    finally:
        for process in started:
            process.end()
    with db.engine().connect() as connection:
        assert set(inspect(connection).get_table_names()) == {*SQLModel.metadata.tables, "alembic_version"}


def test_a_database_of_a_later_version_is_refused_with_a_sentence(store: str) -> None:
    write("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreUnavailable, match=r"is at revision '9999', which this synthq does not know; use a newer synthq"):
        migrate.upgrade()
    assert migrate.current() == "9999"


def test_hashes_of_episodes_are_worked_out_again_without_the_notes(store: str) -> None:
    asked = submit_eval("0-1", max_turns=5, policies=["scripted", "random"])
    work_through()
    now = played(asked.id)
    _go_to("0003")
    before = played(asked.id)
    assert all(before[key] != sha256 for key, sha256 in now.items()), "a reply's notes, even none, were part of the hash"
    migrate.upgrade()
    assert played(asked.id) == now


def test_episodes_of_the_time_before_there_were_starts_begin_where_their_seeds_do(store: str) -> None:
    asked = submit_eval("0-1", max_turns=5)
    work_through()
    now = played(asked.id)
    _go_to("0007")
    migrate.upgrade()
    assert played(asked.id) == now
    with db.reading() as session:
        rows = session.exec(select(Episode.start, Episode.start_of).where(Episode.job_id == asked.id)).all()
    assert rows == [(None, None), (None, None)]


def _go_to(revision: str) -> None:
    """Bring the tables back to an earlier revision."""
    with db.engine().connect().execution_options(synthq_write=True) as connection, connection.begin():
        made = migrate.config()
        made.attributes["connection"] = connection
        command.downgrade(made, revision)

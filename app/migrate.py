"""Brings the database to the tables of this version, by Alembic. Safe when several processes start at once."""

from __future__ import annotations

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from app import db
from app.errors import StoreUnavailable

POSTGRES_LOCK = 0x5359_4E51
"""Key of the advisory lock under which one process migrates and the others wait."""


def config() -> Config:
    """Alembic's configuration, built in code: there is no ini file."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return made


def head() -> str:
    """The newest revision of this version of synthq."""
    newest = ScriptDirectory.from_config(config()).get_current_head()
    assert newest is not None, "the package has no migrations"
    return newest


def current() -> str | None:
    """The revision that the database is at; None for an empty one."""
    with db.engine().connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade() -> None:
    """Bring the database to this version's tables. Raises StoreUnavailable when it is of a later version."""
    db.wait_until_ready()
    present = current()
    if present == head():
        return
    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if present is not None and present not in known:
        raise StoreUnavailable(
            f"the database {db.safe_url()} is at revision {present!r}, which this synthq does not know; use a newer synthq"
        )
    with db.engine().connect().execution_options(synthq_write=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRES_LOCK})
        made = config()
        made.attributes["connection"] = connection
        command.upgrade(made, "head")


if __name__ == "__main__":
    upgrade()
    sys.stdout.write(f"{db.safe_url()} is at revision {current()}\n")

"""What Alembic runs: the migrations, over the connection that app/migrate.py hands in."""

from typing import Any, Literal

from alembic import context
from sqlmodel import SQLModel

import app.models  # noqa: F401 - fills the metadata


def render(kind: str, item: Any, autogen: Any) -> str | Literal[False]:
    """SQLModel's own string type is SQLAlchemy's; a migration should not need SQLModel to run."""
    return "sa.String()" if kind == "type" and type(item).__name__ == "AutoString" else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,  # SQLite cannot alter a table in place
    compare_type=True,
    render_item=render,
)
context.run_migrations()

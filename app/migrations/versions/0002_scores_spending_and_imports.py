"""Scores, splits and tasks of episodes; what jobs spend; imported stores"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Added in place, with a default that the database knows: for anything else SQLite makes the table anew and drops its turns.
    op.add_column("episode", sa.Column("split", sa.String(), nullable=False, server_default="train"))
    op.add_column("episode", sa.Column("task_id", sa.String(), nullable=True))
    op.add_column("episode", sa.Column("scores", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "spend",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usd", sa.Float(), nullable=False),
        sa.Column("held_tokens", sa.BigInteger(), nullable=False),
        sa.Column("held_usd", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_table(
        "imported",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("form", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("jobs", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("imported", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_imported_name"), ["name"], unique=False)


def downgrade() -> None:
    op.drop_table("imported")
    op.drop_table("spend")
    op.drop_column("episode", "scores")
    op.drop_column("episode", "task_id")
    op.drop_column("episode", "split")

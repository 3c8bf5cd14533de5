"""When a frame was last stored"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # In place, with a default that the database knows: SQLite would make the table anew for anything else, pictures and all.
    op.add_column("frame", sa.Column("stored_at", sa.Float(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("frame", "stored_at")

"""Where episodes begin that do not begin where their world does"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("episode", sa.Column("start", sa.String(), nullable=True))
    op.add_column("episode", sa.Column("start_of", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("episode", "start_of")
    op.drop_column("episode", "start")

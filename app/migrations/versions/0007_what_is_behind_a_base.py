"""What is behind the name of a base that is served"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("endpoint", sa.Column("sha256", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("endpoint", "sha256")

"""A pause tells who asked for it. Those from before, and of the release before, tell nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pauses", sa.Column("paused_by", sa.Text(), nullable=True), schema="ledger")


def downgrade() -> None:
    op.drop_column("pauses", "paused_by", schema="ledger")

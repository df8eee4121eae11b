"""How often in a row a job was given back undone.

The default is for the release before, which enqueues without knowing of the column.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column("given_back", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        schema="ledger",
    )


def downgrade() -> None:
    op.drop_column("jobs", "given_back", schema="ledger")

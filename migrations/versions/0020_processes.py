"""The processes of an installation say every few seconds that they live, and what they do.

They are nobody's: no organization is in it. A worker's role may say so and forget the silent, and reads nothing.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "processes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("process_id", sa.Integer(), nullable=False),
        sa.Column("release", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_processes")),
        schema="ledger",
    )
    op.execute("GRANT INSERT, UPDATE, DELETE, SELECT (id, seen_at) ON ledger.processes TO docworker_worker")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.processes TO docworker_dispatcher")


def downgrade() -> None:
    op.drop_table("processes", schema="ledger")

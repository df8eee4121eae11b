"""Organizations may have more or less of the workers' time than others."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "weights",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("weight BETWEEN 0.01 AND 100", name=op.f("ck_weights_weight")),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_weights")),
        schema="ledger",
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.weights TO docworker_dispatcher")


def downgrade() -> None:
    """All organizations are equal again."""
    op.drop_table("weights", schema="ledger")

"""Organizations have endpoints to which their events are delivered.

The table is of each organization and of no use to the dispatcher, which is not to read the secrets in it. The release
before knows nothing of it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"


def upgrade() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("is_ordered", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("previous_secret", sa.Text(), nullable=True),
        sa.Column("previous_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "char_length(url) BETWEEN 1 AND 2000 AND char_length(description) <= 200",
            name=op.f("ck_webhook_endpoints_texts"),
        ),
        sa.CheckConstraint(
            "(previous_secret IS NULL) = (previous_secret_until IS NULL)",
            name=op.f("ck_webhook_endpoints_previous_secret"),
        ),
        sa.CheckConstraint(
            "failures >= 0 AND (failures = 0) = (failing_since IS NULL)", name=op.f("ck_webhook_endpoints_failures")
        ),
        sa.CheckConstraint("(paused_at IS NULL) = (pause_reason IS NULL)", name=op.f("ck_webhook_endpoints_paused")),
        sa.PrimaryKeyConstraint("organization_id", "id", name=op.f("pk_webhook_endpoints")),
        schema="ledger",
    )
    condition = f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute("ALTER TABLE ledger.webhook_endpoints ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE ledger.webhook_endpoints FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY own_organization ON ledger.webhook_endpoints USING ({condition}) WITH CHECK ({condition})"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.webhook_endpoints TO docworker_worker")


def downgrade() -> None:
    """The endpoints are lost, with their secrets."""
    op.drop_table("webhook_endpoints", schema="ledger")

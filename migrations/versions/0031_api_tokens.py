"""Organizations have tokens for callers of the HTTP API.

The table is of each organization and of no use to the dispatcher. The release before knows nothing of it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"


def upgrade() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "char_length(name) BETWEEN 1 AND 200 AND char_length(sha256) = 64", name=op.f("ck_api_tokens_texts")
        ),
        sa.CheckConstraint("cardinality(scopes) BETWEEN 1 AND 20", name=op.f("ck_api_tokens_scopes")),
        sa.PrimaryKeyConstraint("organization_id", "id", name=op.f("pk_api_tokens")),
        schema="ledger",
    )
    columns = ["organization_id", "sha256"]
    op.create_index("ix_api_tokens_organization_id_sha256", "api_tokens", columns, schema="ledger")
    condition = f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute("ALTER TABLE ledger.api_tokens ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE ledger.api_tokens FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_organization ON ledger.api_tokens USING ({condition}) WITH CHECK ({condition})")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.api_tokens TO docworker_worker")


def downgrade() -> None:
    """The tokens are lost: callers need new ones."""
    op.drop_table("api_tokens", schema="ledger")

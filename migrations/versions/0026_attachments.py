"""Which documents were made of the files in a mail. The release before neither reads nor writes it."""

import sqlalchemy as sa
from alembic import op

from docworker.migrations.names import quoted

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

TABLE = "document_attachments"
CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"


def upgrade() -> None:
    upgrade_tenant("app")


def upgrade_tenant(schema: str) -> None:
    documents = [f"{schema}.documents.organization_id", f"{schema}.documents.id"]
    op.create_table(
        TABLE,
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attachment_id", sa.Uuid(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("number >= 1", name=op.f(f"ck_{TABLE}_number")),
        sa.ForeignKeyConstraint(
            ["organization_id", "document_id"],
            documents,
            name=op.f(f"fk_{TABLE}_organization_id_document_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "attachment_id"],
            documents,
            name=op.f(f"fk_{TABLE}_organization_id_attachment_id"),
            ondelete="SET NULL (attachment_id)",
        ),
        sa.PrimaryKeyConstraint("organization_id", "document_id", "name", "number", name=op.f(f"pk_{TABLE}")),
        schema=schema,
    )
    columns = ["organization_id", "attachment_id"]
    op.create_index(op.f(f"ix_{TABLE}_organization_id_attachment_id"), TABLE, columns, schema=schema)
    table, condition = quoted(schema, TABLE), f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO docworker_worker")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_organization ON {table} USING ({condition}) WITH CHECK ({condition})")


def downgrade() -> None:
    downgrade_tenant("app")


def downgrade_tenant(schema: str) -> None:
    op.execute(f"DROP TABLE {quoted(schema, TABLE)}")

"""Who has worked on a document, and as what. The release before neither reads nor writes it."""

import sqlalchemy as sa
from alembic import op

from docworker.migrations.names import quoted

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLE = "document_contributors"
CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"


def upgrade() -> None:
    create(app="app", auth="auth")


def upgrade_tenant(schema: str) -> None:
    create(app=schema, auth=schema)


def create(*, app: str, auth: str) -> None:
    op.create_table(
        TABLE,
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("role IN ('author', 'editor', 'reviewer')", name=op.f(f"ck_{TABLE}_role")),
        sa.ForeignKeyConstraint(
            ["organization_id", "document_id"],
            [f"{app}.documents.organization_id", f"{app}.documents.id"],
            name=op.f(f"fk_{TABLE}_organization_id_document_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "user_id"],
            [f"{auth}.users.organization_id", f"{auth}.users.id"],
            name=op.f(f"fk_{TABLE}_organization_id_user_id"),
        ),
        sa.PrimaryKeyConstraint("organization_id", "document_id", "user_id", "role", name=op.f(f"pk_{TABLE}")),
        schema=app,
    )
    op.create_index(op.f(f"ix_{TABLE}_organization_id_user_id"), TABLE, ["organization_id", "user_id"], schema=app)
    table, condition = quoted(app, TABLE), f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO docworker_worker")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_organization ON {table} USING ({condition}) WITH CHECK ({condition})")


def downgrade() -> None:
    downgrade_tenant("app")


def downgrade_tenant(schema: str) -> None:
    op.execute(f"DROP TABLE {quoted(schema, TABLE)}")

"""What dear reports said is kept, so that nobody waits for them. The release before neither reads nor writes it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from docworker.migrations.names import quoted

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TABLE = "kept_reports"
CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"


def upgrade() -> None:
    upgrade_tenant("app")


def upgrade_tenant(schema: str) -> None:
    op.create_table(
        TABLE,
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("rows", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], [f"{schema}.organizations.id"], name=op.f(f"fk_{TABLE}_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "name", name=op.f(f"pk_{TABLE}")),
        schema=schema,
    )
    table, condition = quoted(schema, TABLE), f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO docworker_worker")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_organization ON {table} USING ({condition}) WITH CHECK ({condition})")


def downgrade() -> None:
    downgrade_tenant("app")


def downgrade_tenant(schema: str) -> None:
    op.execute(f"DROP TABLE {quoted(schema, TABLE)}")

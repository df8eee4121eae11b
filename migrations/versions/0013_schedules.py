"""Schedules may be rows of a table: what people add, and since when those in code have the rule that they have.

The table is the dispatcher's, on home's database; the release before knows nothing of it, and fires those in code only.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

FIRST, LAST = "timestamptz '0001-01-02 00:00:00+00'", "timestamptz '9999-12-30 00:00:00+00'"
CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "schedules",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("arguments", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("each_organization", sa.Boolean(), nullable=False),
        sa.Column("missed", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 200", name=op.f("ck_schedules_name")),
        sa.CheckConstraint("source = 'code' OR source = 'table' AND kind <> ''", name=op.f("ck_schedules_source")),
        sa.CheckConstraint("missed IN ('latest', 'all', 'none')", name=op.f("ck_schedules_missed")),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("ck_schedules_priority")),
        sa.CheckConstraint("jsonb_typeof(arguments) = 'object'", name=op.f("ck_schedules_arguments")),
        sa.CheckConstraint(f"since BETWEEN {FIRST} AND {LAST}", name=op.f("ck_schedules_since")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_schedules")),
        schema="ledger",
    )
    op.create_index(
        op.f("ix_schedules_organization_id"),
        "schedules",
        ["organization_id"],
        unique=False,
        schema="ledger",
        postgresql_where=sa.text("organization_id <> '00000000-0000-0000-0000-000000000000'"),
    )
    op.execute("ALTER TABLE ledger.schedules ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE ledger.schedules FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY own_organization ON ledger.schedules"
        f" USING (organization_id = {CURRENT_ORGANIZATION}) WITH CHECK (organization_id = {CURRENT_ORGANIZATION})"
    )
    op.execute(
        "CREATE POLICY every_schedule ON ledger.schedules TO docworker_dispatcher USING (true) WITH CHECK (true)"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.schedules TO docworker_dispatcher")


def downgrade() -> None:
    """What people have added is lost: `docworker schedules list --json` keeps it."""
    op.drop_table("schedules", schema="ledger")

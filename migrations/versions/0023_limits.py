"""Limits of what may run at a time and how often, changed while it runs, and what has been spent of their rates.

All are the dispatcher's alone. One row counts the changes, so that a planner knows by one look whether there are any; a
trigger counts those of limits, whoever makes them. The release before knows nothing of it and keeps to the caps of its
kinds.
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

COUNT = """
CREATE FUNCTION ledger.count_limit_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE ledger.limit_changes SET rules = rules + 1;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "limits",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("is_each", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("rate_jobs", sa.Integer(), nullable=True),
        sa.Column("rate_seconds", sa.Double(), nullable=True),
        sa.Column("rate_burst", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.CheckConstraint("max_running >= 0", name=op.f("ck_limits_max_running")),
        sa.CheckConstraint(
            "num_nonnulls(rate_jobs, rate_seconds, rate_burst) IN (0, 3)"
            " AND coalesce(rate_jobs > 0 AND rate_burst > 0 AND rate_seconds BETWEEN 0.001 AND 31622400, true)",
            name=op.f("ck_limits_rate"),
        ),
        sa.CheckConstraint("num_nonnulls(max_running, rate_jobs) > 0", name=op.f("ck_limits_limits_something")),
        sa.PrimaryKeyConstraint("organization_id", "kind", "is_each", name=op.f("pk_limits")),
        schema="ledger",
    )
    op.create_table(
        "rates_spent",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("spent_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "kind", name=op.f("pk_rates_spent")),
        schema="ledger",
    )
    op.create_table(
        "limit_changes",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("rules", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("spends", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_limit_changes_single_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_limit_changes")),
        schema="ledger",
        postgresql_with={"fillfactor": "50"},
    )
    op.execute("INSERT INTO ledger.limit_changes (id) VALUES (1)")
    op.execute(COUNT)
    op.execute(
        "CREATE TRIGGER count_limit_change AFTER INSERT OR UPDATE OR DELETE ON ledger.limits"
        " FOR EACH STATEMENT EXECUTE FUNCTION ledger.count_limit_change()"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.limits, ledger.rates_spent TO docworker_dispatcher")
    op.execute("GRANT SELECT, UPDATE ON ledger.limit_changes TO docworker_dispatcher")


def downgrade() -> None:
    """Limits are lost; what is spent of rates is of no more use than a moment."""
    for table in ("limits", "rates_spent", "limit_changes"):
        op.drop_table(table, schema="ledger")
    op.execute("DROP FUNCTION ledger.count_limit_change()")

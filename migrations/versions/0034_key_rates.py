"""Keys that limit jobs may have a rate, besides or instead of a number that runs at a time.

Until when a rate is spent is the dispatcher's to write and read. The release before takes a limit that is only a rate
for none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"
CHECKS = {
    "rate": "num_nonnulls(rate_jobs, rate_seconds, rate_burst) IN (0, 3)"
    " AND coalesce(rate_jobs > 0 AND rate_burst > 0 AND rate_seconds BETWEEN 0.001 AND 31622400, true)",
    "limits_something": "num_nonnulls(max_running, rate_jobs) > 0",
}


def upgrade() -> None:
    op.add_column("key_limits", sa.Column("rate_jobs", sa.Integer(), nullable=True), schema="ledger")
    op.add_column("key_limits", sa.Column("rate_seconds", sa.Double(), nullable=True), schema="ledger")
    op.add_column("key_limits", sa.Column("rate_burst", sa.Integer(), nullable=True), schema="ledger")
    op.alter_column("key_limits", "max_running", nullable=True, schema="ledger")
    for name, check in CHECKS.items():
        op.execute(f"ALTER TABLE ledger.key_limits ADD CONSTRAINT ck_key_limits_{name} CHECK ({check}) NOT VALID")
    op.create_table(
        "key_rates_spent",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("limit_key", sa.Text(), nullable=False),
        sa.Column("spent_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("look_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "limit_key", name=op.f("pk_key_rates_spent")),
        schema="ledger",
    )
    op.create_index("ix_key_rates_spent_look_at", "key_rates_spent", ["look_at"], schema="ledger")
    condition = f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute("ALTER TABLE ledger.key_rates_spent ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE ledger.key_rates_spent FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_organization ON ledger.key_rates_spent USING ({condition}) WITH CHECK ({condition})")
    op.execute(
        "CREATE POLICY every_key ON ledger.key_rates_spent TO docworker_dispatcher USING (true) WITH CHECK (true)"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.key_rates_spent TO docworker_dispatcher")
    with op.get_context().autocommit_block():
        for name in CHECKS:
            op.execute(f"ALTER TABLE ledger.key_limits VALIDATE CONSTRAINT ck_key_limits_{name}")


def downgrade() -> None:
    """Rates are lost, and with them limits that were nothing else."""
    op.drop_table("key_rates_spent", schema="ledger")
    op.execute("DELETE FROM ledger.key_limits WHERE max_running IS NULL")
    for name in CHECKS:
        op.drop_constraint(op.f(f"ck_key_limits_{name}"), "key_limits", schema="ledger")
    op.alter_column("key_limits", "max_running", nullable=False, schema="ledger")
    for column in ("rate_jobs", "rate_seconds", "rate_burst"):
        op.drop_column("key_limits", column, schema="ledger")

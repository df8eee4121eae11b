"""What was told of keys of jobs in order is found in the order in which it was told.

While somebody holds an old snapshot, a look need not walk past all that was told before. The release before neither
needs nor minds it.
"""

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")  # it waits for older transactions, and nobody waits for it
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ledger.ix_order_events_told_by")
        op.execute("CREATE INDEX CONCURRENTLY ix_order_events_told_by ON ledger.order_events (told_by)")
        op.execute("SET lock_timeout = '5s'")


def downgrade() -> None:
    op.execute("DROP INDEX ledger.ix_order_events_told_by")

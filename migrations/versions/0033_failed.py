"""Failed jobs are found by kind and reason, and what the dispatcher's role does for operators is on record.

The index is built beside the running system. The release before neither needs nor minds it.
"""

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

NAME = "ix_jobs_failed"
DEFINITION = (
    "ledger.jobs (kind, left(coalesce(error_class, ''), 100), finished_at, organization_id) WHERE state = 'failed'"
)


def upgrade() -> None:
    op.execute("GRANT INSERT ON catalog.audit_log TO docworker_dispatcher")
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")  # it waits for transactions that are older, and nobody waits for it
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS ledger.{NAME}")  # half made, by an earlier try
        op.execute(f"CREATE INDEX CONCURRENTLY {NAME} ON {DEFINITION}")
        op.execute("SET lock_timeout = '5s'")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS ledger.{NAME}")
    op.execute("REVOKE INSERT ON catalog.audit_log FROM docworker_dispatcher")

"""Jobs for later stand in no lane, and arrivals are found by their time, so that a look costs what it sends.

The indexes are built beside the running system. The release before knows nothing of `later`: what it enqueues for later
stands in a lane and waits there, as before; its dispatcher finds its index gone and is slow, so it is stopped first.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

LANE = "(organization_id, kind, alone, priority, run_at, id)"
NEW = {
    "ix_jobs_ready": f"{LANE} WHERE state = 'queued' AND NOT later",
    # For whoever asks with the very condition alone. Else a planner that believes the queue to be empty would find the
    # lanes by it.
    "ix_jobs_arrived": "(created_at) WHERE state = 'queued' AND NOT later"
    " AND created_at > timestamptz '1900-01-01 UTC'",
    "ix_jobs_later": "(run_at) WHERE state = 'queued' AND later",
}
OLD = {"ix_jobs_queued": f"{LANE} WHERE state = 'queued'"}


def upgrade() -> None:
    op.execute("ALTER TABLE ledger.jobs ADD COLUMN IF NOT EXISTS later boolean DEFAULT false NOT NULL")
    with op.get_context().autocommit_block():
        replace(OLD, NEW)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        replace(NEW, OLD)
    op.execute("ALTER TABLE ledger.jobs DROP COLUMN later")


def replace(old: dict[str, str], new: dict[str, str]) -> None:
    """Build the new ones before the old ones go. What an interrupted build has left is invalid, and made anew."""
    op.execute("SET lock_timeout = 0")  # it waits for transactions that are older, and nobody waits for it
    for name, columns in new.items():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS ledger.{name}")
        op.execute(f"CREATE INDEX CONCURRENTLY {name} ON ledger.jobs {columns}")
    for name in old:
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS ledger.{name}")
    op.execute("SET lock_timeout = '5s'")

"""Whoever waits for jobs may ask of which roles a process lives, and so says truly who is missing.

What a process says of itself otherwise stays with the dispatcher's role: it names organizations.
"""

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("GRANT SELECT (role) ON ledger.processes TO docworker_worker")


def downgrade() -> None:
    op.execute("REVOKE SELECT (role) ON ledger.processes FROM docworker_worker")

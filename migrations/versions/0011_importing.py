"""The catalog tells an organization that is being imported from one that is being created.

The release before finds no sessions for either.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STATES = "state IN ('creating', 'importing', 'active', 'suspended', 'leaving', 'moving', 'dropping')"
STATES_BEFORE = "state IN ('creating', 'active', 'suspended', 'leaving', 'moving', 'dropping')"


def upgrade() -> None:
    allow(STATES)


def downgrade() -> None:
    """What is half imported is to be dropped: the release before would take it for half created, and finish that."""
    op.execute("UPDATE catalog.placements SET state = 'dropping' WHERE state = 'importing'")
    allow(STATES_BEFORE)


def allow(states: str) -> None:
    op.execute(
        "ALTER TABLE catalog.placements DROP CONSTRAINT ck_placements_state,"
        f" ADD CONSTRAINT ck_placements_state CHECK ({states})"
    )

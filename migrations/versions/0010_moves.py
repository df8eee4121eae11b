"""The catalog knows how far a move of an organization is, and that one is about to move.

The release before knows neither: while an organization is leaving it finds no sessions for it, as while it is moving.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATES = "state IN ('creating', 'active', 'suspended', 'leaving', 'moving', 'dropping')"
STATES_BEFORE = "state IN ('creating', 'active', 'suspended', 'moving', 'dropping')"


def upgrade() -> None:
    op.add_column("placements", sa.Column("move", postgresql.JSONB(), nullable=True), schema="catalog")
    allow(STATES)


def downgrade() -> None:
    """Only while nothing is on its way, and nothing is kept where it was moved from: the release before would forget
    both."""
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM catalog.placements WHERE move IS NOT NULL OR previous IS NOT NULL)"
        " THEN RAISE EXCEPTION 'organizations are being moved, or kept where they were moved from: finish that, and"
        " run `docworker tenants clean`'; END IF; END $$"
    )
    allow(STATES_BEFORE)
    op.drop_column("placements", "move", schema="catalog")


def allow(states: str) -> None:
    op.execute(
        "ALTER TABLE catalog.placements DROP CONSTRAINT ck_placements_state,"
        f" ADD CONSTRAINT ck_placements_state CHECK ({states})"
    )

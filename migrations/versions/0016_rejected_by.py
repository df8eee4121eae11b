"""Documents say which processors have found them bad, so that the same ones do not try the same bytes again.

The release before neither reads nor writes it: what it rejects is tried once more.
"""

from alembic import op

from docworker.migrations.names import quoted

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_tenant("app")


def upgrade_tenant(schema: str) -> None:
    op.execute(f"ALTER TABLE {quoted(schema, 'documents')} ADD COLUMN rejected_by text")


def downgrade() -> None:
    downgrade_tenant("app")


def downgrade_tenant(schema: str) -> None:
    op.execute(f"ALTER TABLE {quoted(schema, 'documents')} DROP COLUMN rejected_by")

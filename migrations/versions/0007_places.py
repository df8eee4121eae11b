"""The catalog says more of a place: its database, its state while it is made, moved or dropped, its revision.

Processes keep what they have read of it for a moment, so every change raises a counter, by which they see at once what
else has changed. The release before knows neither column nor state, and finds its own as before.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATES = "state IN ('creating', 'active', 'suspended', 'moving', 'dropping')"
STATES_BEFORE = "state IN ('active', 'moving', 'suspended')"

# The row of the counter is locked until the change is committed, so changes are committed in the order of their
# numbers, and who has seen one has seen all before it.
COUNT = """
CREATE FUNCTION catalog.count_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE catalog.changes SET version = version + 1, deleted = version + 1;
        RETURN OLD;
    END IF;
    UPDATE catalog.changes SET version = version + 1 RETURNING version INTO NEW.version;
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "changes",
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("deleted", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("single", name=op.f("ck_changes_single")),
        sa.PrimaryKeyConstraint("single", name=op.f("pk_changes")),
        schema="catalog",
    )
    op.execute("INSERT INTO catalog.changes DEFAULT VALUES")
    op.execute("GRANT SELECT ON catalog.changes TO docworker_worker, docworker_dispatcher")
    op.add_column("placements", sa.Column("database_name", sa.Text(), nullable=True), schema="catalog")
    op.add_column(
        "placements",
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        schema="catalog",
    )
    op.add_column("placements", sa.Column("revision", sa.Text(), nullable=True), schema="catalog")
    op.add_column("placements", sa.Column("migration_error", sa.Text(), nullable=True), schema="catalog")
    op.add_column("placements", sa.Column("previous", postgresql.JSONB(), nullable=True), schema="catalog")
    allow(STATES)
    op.execute(COUNT)
    op.execute(
        "CREATE TRIGGER count_change BEFORE INSERT OR UPDATE OR DELETE ON catalog.placements"
        " FOR EACH ROW EXECUTE FUNCTION catalog.count_change()"
    )
    op.create_index("ix_placements_version", "placements", ["version"], unique=False, schema="catalog")
    op.create_index(
        "uq_placements_of_its_own",
        "placements",
        ["cluster", "database_name", "schema_name"],
        unique=True,
        schema="catalog",
        postgresql_nulls_not_distinct=True,
        postgresql_where="database_name IS NOT NULL OR schema_name <> 'app'",
    )
    op.create_table(
        "suspensions",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_suspensions")),
        schema="ledger",
    )
    op.execute("GRANT SELECT ON ledger.suspensions TO docworker_dispatcher")


def downgrade() -> None:
    """Only while every organization shares the tables of home: the release before would look for the others there."""
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM catalog.placements WHERE cluster <> 'home' OR schema_name <> 'app'"
        " OR database_name IS NOT NULL) THEN RAISE EXCEPTION 'organizations are placed elsewhere than in the shared"
        " tables of home: move or drop them first'; END IF; END $$"
    )
    op.drop_table("suspensions", schema="ledger")
    op.execute("DROP TRIGGER count_change ON catalog.placements")
    op.execute("DROP FUNCTION catalog.count_change()")
    op.drop_index("uq_placements_of_its_own", "placements", schema="catalog")
    op.drop_index("ix_placements_version", "placements", schema="catalog")
    op.execute("UPDATE catalog.placements SET state = 'suspended' WHERE state NOT IN ('active', 'moving')")
    allow(STATES_BEFORE)
    for column in ("previous", "migration_error", "revision", "version", "database_name"):
        op.drop_column("placements", column, schema="catalog")
    op.drop_table("changes", schema="catalog")


def allow(states: str) -> None:
    op.execute(
        "ALTER TABLE catalog.placements DROP CONSTRAINT ck_placements_state,"
        f" ADD CONSTRAINT ck_placements_state CHECK ({states})"
    )

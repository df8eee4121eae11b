"""The arguments of a job are looked at when they are entered, and not again at each step of its life.

To say what they are, PostgreSQL fetches and unpacks them as a whole, and a CHECK says it at each UPDATE of any column.
So the table refuses what is small and no object, and a claim sets aside what is large and none.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IS_OBJECT = "jsonb_typeof(arguments) = 'object'"
WRAP = f"""
UPDATE ledger.jobs SET arguments = jsonb_build_object('unreadable', arguments) WHERE NOT ({IS_OBJECT})
"""  # noqa: S608


def upgrade() -> None:
    # Both are known from where it is stored. What is compressed may look small, and was large when it was entered.
    is_small = "pg_column_size(arguments) < 1000 AND pg_column_compression(arguments) IS NULL"
    replace(f"CASE WHEN {is_small} THEN {IS_OBJECT} ELSE true END")


def downgrade() -> None:
    # The owner sees no tenant's rows: for this one statement it does.
    op.execute(
        f"DO $$ BEGIN ALTER TABLE ledger.jobs NO FORCE ROW LEVEL SECURITY; {WRAP};"
        " ALTER TABLE ledger.jobs FORCE ROW LEVEL SECURITY; END $$"
    )
    replace(IS_OBJECT)


def replace(condition: str) -> None:
    with op.get_context().autocommit_block():  # a lock that stops the queue is held for each statement alone
        op.execute(
            "ALTER TABLE ledger.jobs DROP CONSTRAINT IF EXISTS ck_jobs_arguments,"
            f" ADD CONSTRAINT ck_jobs_arguments CHECK ({condition}) NOT VALID"
        )
        op.execute("ALTER TABLE ledger.jobs VALIDATE CONSTRAINT ck_jobs_arguments")

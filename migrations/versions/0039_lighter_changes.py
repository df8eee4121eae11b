"""What is written once is checked when it is written, and no longer by each step of its job.

PostgreSQL reads the expressions of a table's CHECKs anew for each statement that changes it: the sixteen of
`ledger.jobs` were a third of what the claim or the end of a single job cost the server. Those of columns that these do
not touch are triggers now, which an UPDATE of other columns passes by; they refuse the same values, with the same error
under the same name. The release before notices nothing.
"""

from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None

CHECKS = {
    "kind": ("kind", "octet_length({row}kind) BETWEEN 1 AND 200"),
    "priority": ("priority", "{row}priority BETWEEN 0 AND 9"),
    "max_attempts": ("max_attempts", "{row}max_attempts >= 1"),
    "unique_key": ("unique_key", "char_length({row}unique_key) BETWEEN 1 AND 500"),
    "order": (
        "order_key, order_position",
        "({row}order_key IS NULL) = ({row}order_position IS NULL) AND char_length({row}order_key) BETWEEN 1 AND 500",
    ),
    "limit_key": (
        "limit_key, order_key, unique_key",
        "{row}limit_key IS NULL"
        " OR char_length({row}limit_key) BETWEEN 1 AND 500 AND {row}order_key IS NULL AND {row}unique_key IS NULL",
    ),
    # A large value is not fetched to be looked at: a claim sets aside what is no object.
    "arguments": (
        "arguments",
        "CASE WHEN pg_column_size({row}arguments) < 1000 AND pg_column_compression({row}arguments) IS NULL"
        " THEN jsonb_typeof({row}arguments) = 'object' ELSE true END",
    ),
    "cursor": ("cursor", "jsonb_typeof({row}cursor) IN ('object', 'null')"),
}
"""Name: the columns that it is about, and what must hold."""

REFUSE_ROW = """
CREATE FUNCTION ledger.refuse_row() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE check_violation USING
        MESSAGE = format('new row for relation "%s" violates check constraint "%s"', TG_TABLE_NAME, TG_NAME),
        SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
END
$$
"""

ENDS = "('succeeded', 'failed', 'cancelled')"
HAS_ENDED_OR_LIVES_AGAIN = f"OLD.state <> NEW.state AND (NEW.state IN {ENDS} OR OLD.state IN {ENDS})"
COPIED = "IF current_setting('docworker.copying', true) = 'on'"
COPIED_OR_IDLE = f"{COPIED} OR NOT ({HAS_ENDED_OR_LIVES_AGAIN})"


def upgrade() -> None:
    op.execute(REFUSE_ROW)
    op.execute(f"ALTER TABLE ledger.jobs {', '.join(f'DROP CONSTRAINT IF EXISTS ck_jobs_{name}' for name in CHECKS)}")
    for name, (columns, holds) in CHECKS.items():
        op.execute(
            f"CREATE TRIGGER ck_jobs_{name} BEFORE INSERT OR UPDATE OF {columns} ON ledger.jobs FOR EACH ROW"
            f" WHEN (NOT ({holds.format(row='NEW.')})) EXECUTE FUNCTION ledger.refuse_row()"
        )
    replace(COPIED, COPIED_OR_IDLE)
    tell("NEW.awaited")


def downgrade() -> None:
    tell(f"NEW.awaited AND {HAS_ENDED_OR_LIVES_AGAIN}")
    replace(COPIED_OR_IDLE, COPIED)
    checks = {f"ck_jobs_{name}": holds.format(row="") for name, (_, holds) in CHECKS.items()}
    added = [f"ADD CONSTRAINT {name} CHECK ({holds}) NOT VALID" for name, holds in checks.items()]
    op.execute(f"ALTER TABLE ledger.jobs {', '.join(added)}")
    for name in checks:
        op.execute(f"DROP TRIGGER {name} ON ledger.jobs")
    op.execute("DROP FUNCTION ledger.refuse_row()")
    with op.get_context().autocommit_block():
        for name in checks:
            op.execute(f"ALTER TABLE ledger.jobs VALIDATE CONSTRAINT {name}")


def tell(when: str) -> None:
    """Both triggers of gates: the conditions of triggers are read anew as well, so the rest is the function's."""
    op.execute(
        "CREATE OR REPLACE TRIGGER tell_gates AFTER UPDATE OF state ON ledger.jobs FOR EACH ROW"
        f" WHEN ({when} AND pg_trigger_depth() <= 30) EXECUTE FUNCTION ledger.tell_gates()"
    )
    op.execute("DROP TRIGGER tell_gates_late ON ledger.jobs")  # a constraint's trigger cannot be replaced
    op.execute(
        "CREATE CONSTRAINT TRIGGER tell_gates_late AFTER UPDATE OF state ON ledger.jobs"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        f" WHEN ({when} AND pg_trigger_depth() > 30) EXECUTE FUNCTION ledger.tell_gates()"
    )


def replace(old: str, new: str) -> None:
    """In the function as it is: another migration may have changed other parts of it."""
    op.execute(f"""
        DO $do$
        DECLARE
            before CONSTANT text := pg_get_functiondef('ledger.tell_gates()'::regprocedure);
        BEGIN
            ASSERT position($old${old}$old$ IN before) > 0, 'ledger.tell_gates is none that this migration knows';
            EXECUTE replace(before, $old${old}$old$, $new${new}$new$);
        END
        $do$
    """)

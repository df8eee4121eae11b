"""What no reader of the ledger could read is refused by the table as well.

A row that is there already must neither fail the migration nor break on the constraint at its next change: where there
is one, it is failed with the reason and what it holds is brought within bounds.
"""

from alembic import op
from sqlalchemy.exc import IntegrityError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIMES = (
    "run_at",
    "created_at",
    "claimed_at",
    "finished_at",
    "dispatched_at",
    "redispatch_at",
    "lease_expires_at",
    "run_until",
)
FIRST, LAST = "timestamptz '0001-01-02 00:00:00+00'", "timestamptz '9999-12-30 00:00:00+00'"
OBJECTS = ("cursor", "result")
CHECKS = {
    "ledger.jobs": {
        "times": f"least({', '.join(TIMES)}) >= {FIRST} AND greatest({', '.join(TIMES)}) <= {LAST}",
        "arguments": "jsonb_typeof(arguments) = 'object'",
        "cursor": "jsonb_typeof(cursor) IN ('object', 'null')",
        "result": "jsonb_typeof(result) IN ('object', 'null')",
        "kind": "octet_length(kind) BETWEEN 1 AND 200",
        "unique_key": "char_length(unique_key) BETWEEN 1 AND 500",
        "counts": "faults >= 0 AND dispatches >= 0 AND coalesce(children, 0) >= 0",
    },
    "ledger.schedule_fires": {
        "times": f"least(due_at, fired_at) >= {FIRST} AND greatest(due_at, fired_at) <= {LAST}",
    },
}


def within_bounds(column: str) -> str:
    return f"{column} = CASE WHEN {column} IS NOT NULL THEN least(greatest({column}, {FIRST}), {LAST}) END"


# The times that belong to a state go with it.
SET_ASIDE = f"""
UPDATE ledger.jobs
SET {", ".join(within_bounds(column) for column in ("run_at", "created_at", "claimed_at", "dispatched_at"))},
    finished_at = CASE WHEN state IN ('queued', 'dispatched', 'running') THEN clock_timestamp()
                  WHEN finished_at IS NOT NULL THEN least(greatest(finished_at, {FIRST}), {LAST}) END,
    redispatch_at = NULL, lease_expires_at = NULL, run_until = NULL,
    state = CASE WHEN state IN ('queued', 'dispatched', 'running') THEN 'failed' ELSE state END,
    arguments = CASE WHEN jsonb_typeof(arguments) = 'object' THEN arguments
                ELSE jsonb_build_object('unreadable', arguments) END,
    cursor = CASE WHEN jsonb_typeof(cursor) = 'object' THEN cursor END,
    result = CASE WHEN jsonb_typeof(result) = 'object' THEN result END,
    kind = CASE WHEN kind = '' THEN 'unreadable' WHEN octet_length(kind) > 200 THEN left(kind, 50) ELSE kind END,
    unique_key = CASE WHEN char_length(unique_key) BETWEEN 1 AND 500 THEN unique_key END,
    faults = greatest(faults, 0), dispatches = greatest(dispatches, 0), children = greatest(children, 0),
    error_class = coalesce(error_class, 'UnreadableJob'),
    error_message = coalesce(error_message, 'written past docworker with values that cannot be read back')
WHERE NOT ({" AND ".join(f"coalesce({check}, true)" for check in CHECKS["ledger.jobs"].values())})
"""  # noqa: S608
FORGET = f"DELETE FROM ledger.schedule_fires WHERE NOT ({CHECKS['ledger.schedule_fires']['times']})"  # noqa: S608


def upgrade() -> None:
    with op.get_context().autocommit_block():  # a lock that stops the queue is held for each statement alone
        for table, checks in CHECKS.items():
            op.execute(f"ALTER TABLE {table} {', '.join(added(table, *check) for check in checks.items())}")
        for table, checks in CHECKS.items():
            validate = f"ALTER TABLE {table} {', '.join(f'VALIDATE CONSTRAINT {name(table, one)}' for one in checks)}"
            try:
                op.execute(validate)
            except IntegrityError:
                set_aside()
                op.execute(validate)


def name(table: str, check: str) -> str:
    return f"ck_{table.removeprefix('ledger.')}_{check}"


def added(table: str, check: str, condition: str) -> str:
    """Also where an earlier try got so far."""
    named = name(table, check)
    return f"DROP CONSTRAINT IF EXISTS {named}, ADD CONSTRAINT {named} CHECK ({condition}) NOT VALID"


def set_aside() -> None:
    """The owner sees no tenant's rows: for this one statement it does."""
    op.execute(
        f"DO $$ BEGIN ALTER TABLE ledger.jobs NO FORCE ROW LEVEL SECURITY; {SET_ASIDE}; {FORGET};"
        " ALTER TABLE ledger.jobs FORCE ROW LEVEL SECURITY; END $$"
    )


def downgrade() -> None:
    for table, checks in CHECKS.items():
        op.execute(f"ALTER TABLE {table} {', '.join(f'DROP CONSTRAINT {name(table, one)}' for one in checks)}")

"""Many jobs of one order key are enqueued at once in a time that grows as they do.

The end of a key's line was looked for again for each of them, past those that had just been put there. The release
before calls the function as it did.
"""

from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

SIGNATURE = "ledger.order_jobs(uuid, uuid[], text[], boolean)"
FOR_EACH_JOB = """
        order_position = given.position + greatest(
            microseconds,
            (SELECT max(other.order_position) FROM ledger.jobs AS other
             WHERE other.organization_id = organization AND other.order_key = given.order_key
               AND (other.state = 'waiting' OR other.state = 'failed' AND other.blocks)))
    FROM unnest(order_jobs.jobs, order_jobs.order_keys) WITH ORDINALITY AS given (id, order_key, position)
    WHERE"""
FOR_EACH_KEY = """
        order_position = given.position + greatest(microseconds, line.ends_at)
    FROM unnest(order_jobs.jobs, order_jobs.order_keys) WITH ORDINALITY AS given (id, order_key, position)
    JOIN line ON line.order_key = given.order_key
    WHERE"""
UPDATE = "    UPDATE ledger.jobs AS job\n    SET state = 'waiting', later = false"
UPDATE_WITH_LINES = f"""    WITH line AS MATERIALIZED (
        SELECT named.order_key,
               (SELECT max(other.order_position) FROM ledger.jobs AS other
                WHERE other.organization_id = organization AND other.order_key = named.order_key
                  AND (other.state = 'waiting' OR other.state = 'failed' AND other.blocks)) AS ends_at
        FROM (SELECT DISTINCT one AS order_key FROM unnest(order_jobs.order_keys) AS one) AS named
    )
{UPDATE}"""  # noqa: S608


def upgrade() -> None:
    replace((FOR_EACH_JOB, FOR_EACH_KEY), (UPDATE, UPDATE_WITH_LINES))


def downgrade() -> None:
    replace((UPDATE_WITH_LINES, UPDATE), (FOR_EACH_KEY, FOR_EACH_JOB))


def replace(*changes: tuple[str, str]) -> None:
    """In the function as it is: another migration may have changed other parts of it."""
    steps = "".join(
        f"ASSERT position($old${old}$old$ IN body) > 0, 'ledger.order_jobs is none that this migration knows';"
        f" body := replace(body, $old${old}$old$, $new${new}$new$);"
        for old, new in changes
    )
    op.execute(f"""
        DO $do$
        DECLARE
            body text := pg_get_functiondef('{SIGNATURE}'::regprocedure);
        BEGIN
            {steps}
            EXECUTE body;
        END
        $do$
    """)

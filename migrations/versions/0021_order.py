"""Jobs of one key run one after another, in the order in which they were enqueued.

They wait until the dispatcher admits the next one. What may have changed of a key is told to it by rows that triggers
write, so it looks at keys that have changed and at no others, and nobody who writes a job waits for anybody. The
release before enters jobs without a key, and admits none.
"""

import sqlalchemy as sa
from alembic import op

from docworker.migrations.names import do

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

ENDS = "('succeeded', 'failed', 'cancelled')"
CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"
SETTINGS = "SET search_path = pg_catalog, pg_temp"

# As before, but a job of a key goes on waiting: it is told by the change of its state that its gate is open.
OPEN_GATE = """
CREATE OR REPLACE FUNCTION ledger.open_gate(organization uuid, gate uuid) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    counted record;
    is_met boolean;
BEGIN
    SELECT * INTO counted FROM ledger.gates WHERE organization_id = organization AND id = gate;
    IF NOT FOUND OR counted.pending > 0 THEN
        RETURN;
    END IF;
    is_met := CASE counted.opens_when WHEN 'any' THEN true
                                      WHEN 'failed' THEN counted.failed + counted.cancelled > 0
                                      ELSE counted.failed + counted.cancelled = 0 END;
    UPDATE ledger.jobs SET
        state = CASE WHEN is_met THEN {open} ELSE 'cancelled' END,
        run_at = CASE WHEN is_met THEN greatest(run_at, clock_timestamp()) ELSE run_at END,
        later = is_met AND run_at > clock_timestamp(),
        finished_at = CASE WHEN NOT is_met THEN clock_timestamp() END,
        error_class = CASE WHEN NOT is_met THEN 'ConditionNotMet' END,
        error_message = CASE WHEN NOT is_met THEN format(
            'it was to run when %s of the jobs it waited for, and of %s %s succeeded, %s failed and %s were cancelled',
            CASE counted.opens_when WHEN 'failed' THEN 'one did not succeed' ELSE 'all succeeded' END,
            counted.succeeded + counted.failed + counted.cancelled, counted.succeeded, counted.failed,
            counted.cancelled) END
    WHERE organization_id = organization AND id = gate AND state = 'waiting';
    IF FOUND AND is_met AND pg_try_advisory_xact_lock(hashtext('docworker'), hashtext('ledger.ring')) THEN
        PERFORM pg_notify('docworker_jobs', '');
    END IF;
END
$$
"""
OPENED, OPENED_BEFORE = "CASE WHEN order_key IS NULL THEN 'queued' ELSE 'waiting' END", "'queued'"

# One row for a key and a transaction, however many jobs that changes, and no two transactions write the same one.
TELL_ORDER = f"""
CREATE FUNCTION ledger.tell_order() RETURNS trigger LANGUAGE plpgsql {SETTINGS} AS $$
DECLARE
    job record;
BEGIN
    IF TG_OP = 'DELETE' THEN job := OLD; ELSE job := NEW; END IF;
    INSERT INTO ledger.order_events (organization_id, order_key, told_by)
    VALUES (job.organization_id, job.order_key, CAST(CAST(pg_current_xact_id() AS text) AS bigint))
    ON CONFLICT DO NOTHING;
    IF pg_try_advisory_xact_lock(hashtext('docworker'), hashtext('ledger.ring')) THEN
        PERFORM pg_notify('docworker_jobs', '');
    END IF;
    RETURN NULL;
END
$$
"""  # noqa: S608

# Called in the transaction that has just enqueued these jobs, with a key for each, in their order. It has rights and
# organization for itself, as `ledger.enqueue_many`. Places are times, so that they mean the same at another cluster;
# a clock that was set back puts nobody before those that wait.
ORDER_JOBS = f"""
CREATE FUNCTION ledger.order_jobs(
    organization_id uuid, jobs uuid[], order_keys text[], blocks boolean
) RETURNS uuid[] LANGUAGE plpgsql SECURITY DEFINER {SETTINGS} AS $$
#variable_conflict use_column
DECLARE
    organization CONSTANT uuid := order_jobs.organization_id;
    before CONSTANT text := coalesce(current_setting('docworker.organization_id', true), '');
    microseconds CONSTANT bigint := extract(epoch FROM clock_timestamp()) * 1000000;
BEGIN
    IF before NOT IN ('', organization::text) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('this transaction is of the organization %s, not of %s', before, organization);
    ELSIF EXISTS (SELECT FROM unnest(order_jobs.order_keys) AS one WHERE char_length(one) NOT BETWEEN 1 AND 500) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'an order_key has 1 to 500 characters';
    END IF;
    PERFORM set_config('docworker.organization_id', organization::text, true);
    UPDATE ledger.jobs AS job
    SET state = 'waiting', later = false, order_key = given.order_key, blocks = order_jobs.blocks,
        order_position = given.position + greatest(
            microseconds,
            (SELECT max(other.order_position) FROM ledger.jobs AS other
             WHERE other.organization_id = organization AND other.order_key = given.order_key
               AND (other.state = 'waiting' OR other.state = 'failed' AND other.blocks)))
    FROM unnest(order_jobs.jobs, order_jobs.order_keys) WITH ORDINALITY AS given (id, order_key, position)
    WHERE job.organization_id = organization AND job.id = given.id AND job.order_key IS NULL
      AND job.state = 'queued' AND job.dispatches = 0 AND job.claimed_at IS NULL
      AND job.created_at >= transaction_timestamp();
    PERFORM set_config('docworker.organization_id', before, true);
    RETURN order_jobs.jobs;
END
$$
"""  # noqa: S608
ORDER_ARGUMENTS = "uuid, uuid[], text[], boolean"

FUNCTIONS = {
    "tell_order()": TELL_ORDER,
    f"order_jobs({ORDER_ARGUMENTS})": ORDER_JOBS,
}
TRIGGERS = {
    "tell_order_of_new": "AFTER INSERT ON ledger.jobs FOR EACH ROW"
    " WHEN (NEW.order_key IS NOT NULL AND NEW.state = 'waiting') EXECUTE FUNCTION ledger.tell_order()",
    "tell_order": "AFTER UPDATE OF state, blocks ON ledger.jobs FOR EACH ROW"
    f" WHEN (NEW.order_key IS NOT NULL AND (NEW.state = 'waiting' OR NEW.state IN {ENDS}))"
    " EXECUTE FUNCTION ledger.tell_order()",
    "tell_order_of_gone": "AFTER DELETE ON ledger.jobs FOR EACH ROW"
    " WHEN (OLD.order_key IS NOT NULL AND OLD.state <> 'succeeded') EXECUTE FUNCTION ledger.tell_order()",
}
INDEXES = {
    "ix_jobs_order": "INDEX CONCURRENTLY ix_jobs_order ON ledger.jobs (organization_id, order_key, order_position, id)"
    " WHERE order_key IS NOT NULL AND (state = 'waiting' OR state = 'failed' AND blocks)",
    "uq_jobs_organization_id_order_key": "UNIQUE INDEX CONCURRENTLY uq_jobs_organization_id_order_key"
    " ON ledger.jobs (organization_id, order_key)"
    " WHERE order_key IS NOT NULL AND state IN ('queued', 'dispatched', 'running')",
}
GRANT_TO_PRODUCERS = f"""
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'docworker_producer') THEN
        GRANT EXECUTE ON FUNCTION ledger.order_jobs({ORDER_ARGUMENTS}) TO docworker_producer;
    END IF;
END
"""


def upgrade() -> None:
    op.execute(
        "ALTER TABLE ledger.jobs ADD COLUMN IF NOT EXISTS order_key text,"
        " ADD COLUMN IF NOT EXISTS order_position bigint,"
        " ADD COLUMN IF NOT EXISTS blocks boolean DEFAULT false NOT NULL, DROP CONSTRAINT IF EXISTS ck_jobs_order,"
        " ADD CONSTRAINT ck_jobs_order CHECK ((order_key IS NULL) = (order_position IS NULL)"
        " AND char_length(order_key) BETWEEN 1 AND 500) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE ledger.jobs VALIDATE CONSTRAINT ck_jobs_order")
        op.execute("SET lock_timeout = 0")  # they wait for older transactions, and nobody waits for them
        for name, index in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS ledger.{name}")
            op.execute(f"CREATE {index}")
        op.execute("SET lock_timeout = '5s'")
    create_events()
    op.execute(OPEN_GATE.replace("{open}", OPENED))
    for function in FUNCTIONS.values():
        op.execute(function)
    for name, when in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {when}")
    op.execute(f"REVOKE ALL ON FUNCTION ledger.order_jobs({ORDER_ARGUMENTS}) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION ledger.order_jobs({ORDER_ARGUMENTS}) TO docworker_worker")
    op.execute(do(GRANT_TO_PRODUCERS))


def downgrade() -> None:
    """Only while no job waits for its turn: the release before would never let it go."""
    op.execute(
        "DO $$ BEGIN ALTER TABLE ledger.jobs NO FORCE ROW LEVEL SECURITY;"
        " IF EXISTS (SELECT FROM ledger.jobs WHERE order_key IS NOT NULL AND state = 'waiting')"
        " THEN RAISE EXCEPTION 'jobs wait for those before them: let these end, or cancel the ones that wait'; END IF;"
        " ALTER TABLE ledger.jobs FORCE ROW LEVEL SECURITY; END $$"
    )
    for name in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON ledger.jobs")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION ledger.{signature}")
    op.execute(OPEN_GATE.replace("{open}", OPENED_BEFORE))
    op.drop_table("order_events", schema="ledger")
    for name in INDEXES:
        op.execute(f"DROP INDEX ledger.{name}")
    op.execute("ALTER TABLE ledger.jobs DROP CONSTRAINT ck_jobs_order")
    for column in ("blocks", "order_position", "order_key"):
        op.drop_column("jobs", column, schema="ledger")


def create_events() -> None:
    op.create_table(
        "order_events",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("order_key", sa.Text(), nullable=False),
        sa.Column("told_by", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "order_key", "told_by", name="pk_order_events"),
        schema="ledger",
    )
    condition = f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute("ALTER TABLE ledger.order_events ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE ledger.order_events FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_organization ON ledger.order_events USING ({condition}) WITH CHECK ({condition})")
    op.execute(
        "CREATE POLICY every_event ON ledger.order_events TO docworker_dispatcher USING (true) WITH CHECK (true)"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.order_events TO docworker_worker, docworker_dispatcher")

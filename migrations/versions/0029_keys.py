"""Jobs may have a key that limits how many of them are under way at a time.

Those that are due wait until the dispatcher admits them. What may have changed of a key is told to it by rows that
triggers write, so it looks at keys that have changed and at no others, and nobody who writes a job waits for anybody.
The release before enters jobs without such a key, admits none, and lets those go whose time comes.
"""

import sqlalchemy as sa
from alembic import op

from docworker.migrations.functions import replace_in
from docworker.migrations.names import do

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

ENDS = "('succeeded', 'failed', 'cancelled')"
CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"
SETTINGS = "SET search_path = pg_catalog, pg_temp"
NOBODY = "'00000000-0000-0000-0000-000000000000'"

# A job whose gate opens goes on waiting where it has a key, and one of a limited key stands in no line before its time.
OPEN_GATE = "ledger.open_gate(uuid, uuid)"
OPENED_BEFORE = "CASE WHEN order_key IS NULL THEN 'queued' ELSE 'waiting' END"
OPENED = (
    "CASE WHEN order_key IS NULL AND (limit_key IS NULL OR run_at > clock_timestamp()) THEN 'queued' ELSE 'waiting' END"
)

TOLD_BY = "CAST(CAST(pg_current_xact_id() AS text) AS bigint)"
# One row for a key and a transaction, however many jobs that changes, and no two transactions write the same one.
TELL_KEY = f"""
CREATE FUNCTION ledger.tell_key() RETURNS trigger LANGUAGE plpgsql {SETTINGS} AS $$
DECLARE
    job record;
BEGIN
    IF TG_OP = 'DELETE' THEN job := OLD; ELSE job := NEW; END IF;
    INSERT INTO ledger.key_events (organization_id, limit_key, told_by)
    VALUES (job.organization_id, job.limit_key, {TOLD_BY})
    ON CONFLICT DO NOTHING;
    IF pg_try_advisory_xact_lock(hashtext('docworker'), hashtext('ledger.ring')) THEN
        PERFORM pg_notify('docworker_jobs', '');
    END IF;
    RETURN NULL;
END
$$
"""  # noqa: S608
# A limit of each organization is of all that have such jobs now; who comes later is told of by its jobs.
TELL_KEY_LIMIT = f"""
CREATE FUNCTION ledger.tell_key_limit() RETURNS trigger LANGUAGE plpgsql {SETTINGS} AS $$
DECLARE
    changed record;
BEGIN
    IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
    INSERT INTO ledger.key_events (organization_id, limit_key, told_by)
    SELECT DISTINCT organization_id, limit_key, {TOLD_BY} FROM ledger.jobs
    WHERE limit_key = changed.limit_key AND changed.organization_id IN (organization_id, {NOBODY})
      AND state IN ('waiting', 'queued') AND NOT later
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$
"""  # noqa: S608
# Called in the transaction that has just enqueued these jobs. It has rights and organization for itself, as
# `ledger.enqueue_many`.
KEY_JOBS = f"""
CREATE FUNCTION ledger.key_jobs(
    organization_id uuid, jobs uuid[], limit_key text
) RETURNS uuid[] LANGUAGE plpgsql SECURITY DEFINER {SETTINGS} AS $$
#variable_conflict use_column
DECLARE
    organization CONSTANT uuid := key_jobs.organization_id;
    before CONSTANT text := coalesce(current_setting('docworker.organization_id', true), '');
BEGIN
    IF before NOT IN ('', organization::text) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('this transaction is of the organization %s, not of %s', before, organization);
    ELSIF key_jobs.limit_key IS NULL OR char_length(key_jobs.limit_key) NOT BETWEEN 1 AND 500 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a limit_key has 1 to 500 characters';
    END IF;
    PERFORM set_config('docworker.organization_id', organization::text, true);
    UPDATE ledger.jobs AS job
    SET limit_key = key_jobs.limit_key, state = CASE WHEN job.later THEN job.state ELSE 'waiting' END
    WHERE job.organization_id = organization AND job.id = ANY(key_jobs.jobs) AND job.limit_key IS NULL
      AND job.order_key IS NULL AND job.unique_key IS NULL
      AND job.state = 'queued' AND job.dispatches = 0 AND job.claimed_at IS NULL
      AND job.created_at >= transaction_timestamp();
    PERFORM set_config('docworker.organization_id', before, true);
    RETURN key_jobs.jobs;
END
$$
"""  # noqa: S608
KEY_ARGUMENTS = "uuid, uuid[], text"

FUNCTIONS = {
    "tell_key()": TELL_KEY,
    "tell_key_limit()": TELL_KEY_LIMIT,
    f"key_jobs({KEY_ARGUMENTS})": KEY_JOBS,
}
TRIGGERS = {
    "tell_key_of_new": "AFTER INSERT ON ledger.jobs FOR EACH ROW"
    " WHEN (NEW.limit_key IS NOT NULL AND NEW.state IN ('waiting', 'queued')) EXECUTE FUNCTION ledger.tell_key()",
    "tell_key": "AFTER UPDATE OF state, later ON ledger.jobs FOR EACH ROW"
    " WHEN (NEW.limit_key IS NOT NULL AND NEW.state NOT IN ('dispatched', 'running'))"
    " EXECUTE FUNCTION ledger.tell_key()",
    "tell_key_of_gone": "AFTER DELETE ON ledger.jobs FOR EACH ROW"
    f" WHEN (OLD.limit_key IS NOT NULL AND OLD.state NOT IN {ENDS}) EXECUTE FUNCTION ledger.tell_key()",
}
INDEX = (
    "INDEX CONCURRENTLY ix_jobs_limit_key ON ledger.jobs (limit_key, organization_id, state, run_at, id)"
    " WHERE limit_key IS NOT NULL AND NOT later AND state IN ('waiting', 'queued', 'dispatched', 'running')"
)
GRANT_TO_PRODUCERS = f"""
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'docworker_producer') THEN
        GRANT EXECUTE ON FUNCTION ledger.key_jobs({KEY_ARGUMENTS}) TO docworker_producer;
    END IF;
END
"""


def upgrade() -> None:
    op.execute(
        "ALTER TABLE ledger.jobs ADD COLUMN IF NOT EXISTS limit_key text,"
        " DROP CONSTRAINT IF EXISTS ck_jobs_limit_key,"
        " ADD CONSTRAINT ck_jobs_limit_key CHECK (limit_key IS NULL"
        " OR char_length(limit_key) BETWEEN 1 AND 500 AND order_key IS NULL AND unique_key IS NULL) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE ledger.jobs VALIDATE CONSTRAINT ck_jobs_limit_key")
        op.execute("SET lock_timeout = 0")  # they wait for older transactions, and nobody waits for them
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ledger.ix_jobs_limit_key")
        op.execute(f"CREATE {INDEX}")
        op.execute("SET lock_timeout = '5s'")
    create_tables()
    replace_in(OPEN_GATE, OPENED_BEFORE, OPENED)
    for function in FUNCTIONS.values():
        op.execute(function)
    for name, when in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {when}")
    op.execute(
        "CREATE TRIGGER tell_key_limit AFTER INSERT OR UPDATE OR DELETE ON ledger.key_limits"
        " FOR EACH ROW EXECUTE FUNCTION ledger.tell_key_limit()"
    )
    op.execute(f"REVOKE ALL ON FUNCTION ledger.key_jobs({KEY_ARGUMENTS}) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION ledger.key_jobs({KEY_ARGUMENTS}) TO docworker_worker")
    op.execute(do(GRANT_TO_PRODUCERS))


def downgrade() -> None:
    """Only while no job waits for its key: the release before would never let it go. Limits of keys are lost."""
    op.execute(
        "DO $$ BEGIN ALTER TABLE ledger.jobs NO FORCE ROW LEVEL SECURITY;"
        " IF EXISTS (SELECT FROM ledger.jobs WHERE limit_key IS NOT NULL AND state = 'waiting')"
        " THEN RAISE EXCEPTION 'jobs wait for the limit of their key: let these end, or cancel them'; END IF;"
        " ALTER TABLE ledger.jobs FORCE ROW LEVEL SECURITY; END $$"
    )
    op.drop_table("key_limits", schema="ledger")
    for name in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON ledger.jobs")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION ledger.{signature}")
    replace_in(OPEN_GATE, OPENED, OPENED_BEFORE)
    op.drop_table("key_events", schema="ledger")
    op.execute("DROP INDEX ledger.ix_jobs_limit_key")
    op.execute("ALTER TABLE ledger.jobs DROP CONSTRAINT ck_jobs_limit_key")
    op.drop_column("jobs", "limit_key", schema="ledger")


def create_tables() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "key_limits",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("limit_key", sa.Text(), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.CheckConstraint("max_running >= 0", name=op.f("ck_key_limits_max_running")),
        sa.PrimaryKeyConstraint("organization_id", "limit_key", name=op.f("pk_key_limits")),
        schema="ledger",
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.key_limits TO docworker_dispatcher")
    op.create_table(
        "key_events",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("limit_key", sa.Text(), nullable=False),
        sa.Column("told_by", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "limit_key", "told_by", name=op.f("pk_key_events")),
        schema="ledger",
    )
    op.create_index("ix_key_events_told_by", "key_events", ["told_by"], schema="ledger")
    condition = f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute("ALTER TABLE ledger.key_events ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE ledger.key_events FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_organization ON ledger.key_events USING ({condition}) WITH CHECK ({condition})")
    op.execute("CREATE POLICY every_event ON ledger.key_events TO docworker_dispatcher USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.key_events TO docworker_worker, docworker_dispatcher")

"""Jobs wait for the end of others: a gate for each that waits, and a mark on those that it waits for.

Triggers keep the gates, so whatever ends a job opens them in its own transaction: a worker, the judge, an operator's
hand. They are asked for marked jobs alone; for all others there is a condition on a column that is false. The release
before enters jobs that nobody waits for and that wait for nobody.
"""

import sqlalchemy as sa
from alembic import op

from docworker.migrations.names import do

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

STATES = "state IN ('waiting', 'queued', 'dispatched', 'running', 'succeeded', 'failed', 'cancelled')"
STATES_BEFORE = "state IN ('queued', 'dispatched', 'running', 'succeeded', 'failed', 'cancelled')"
ENDS = "('succeeded', 'failed', 'cancelled')"
CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"
SETTINGS = "SET search_path = pg_catalog, pg_temp"

# The job that a gate holds goes its way; who lets it go has locked the gate. A job that comes into its lane rings like
# one that is enqueued.
OPEN_GATE = f"""
CREATE FUNCTION ledger.open_gate(organization uuid, gate uuid) RETURNS void LANGUAGE plpgsql {SETTINGS} AS $$
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
        state = CASE WHEN is_met THEN 'queued' ELSE 'cancelled' END,
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
"""  # noqa: S608

# Locks first, in the order of ids, and marks: from then on nothing ends unseen. What had ended by then is counted as
# it is, and of a tree its children are looked at in turn; the children of those that live are looked at when they end,
# so none that was enqueued before the end of its parent is missed, and no child has to look for its parents. What is
# dispatched while we hold it is passed over by its claim: it is soon dispatched again, as after a fold. A child that
# waits for this very tree is none of it.
ADD_MEMBERS = f"""
CREATE FUNCTION ledger.add_members(organization uuid, gate uuid, jobs uuid[], as_tree boolean) RETURNS void
LANGUAGE plpgsql {SETTINGS} AS $$
DECLARE
    more uuid[] := jobs;
    added record;
BEGIN
    WHILE cardinality(more) > 0 LOOP
        WITH held AS MATERIALIZED (
            SELECT id FROM ledger.jobs
            WHERE organization_id = organization AND id = ANY(more) AND id <> gate
            ORDER BY id FOR NO KEY UPDATE
        )
        UPDATE ledger.jobs AS job
        SET awaited = true,
            redispatch_at = CASE WHEN job.state = 'dispatched'
                            THEN least(job.redispatch_at, clock_timestamp() + interval '1 second') END
        FROM held WHERE job.organization_id = organization AND job.id = held.id AND NOT job.awaited;
        WITH new AS (
            INSERT INTO ledger.gate_members (organization_id, gate_id, job_id, is_tree, ended_as)
            SELECT organization, gate, id, as_tree, CASE WHEN state IN {ENDS} THEN state END
            FROM ledger.jobs
            WHERE organization_id = organization AND id = ANY(more) AND id <> gate
            ON CONFLICT (organization_id, gate_id, job_id) DO NOTHING
            RETURNING job_id, ended_as
        )
        SELECT count(*) FILTER (WHERE ended_as IS NULL) AS pending,
               count(*) FILTER (WHERE ended_as = 'succeeded') AS succeeded,
               count(*) FILTER (WHERE ended_as = 'failed') AS failed,
               count(*) FILTER (WHERE ended_as = 'cancelled') AS cancelled,
               array_agg(job_id) FILTER (WHERE ended_as IS NOT NULL) AS gone
        INTO added FROM new;
        UPDATE ledger.gates
        SET pending = pending + added.pending, succeeded = succeeded + added.succeeded, failed = failed + added.failed,
            cancelled = cancelled + added.cancelled
        WHERE organization_id = organization AND id = gate;
        EXIT WHEN NOT as_tree OR added.gone IS NULL;
        SELECT array_agg(child.id) INTO more FROM ledger.jobs AS child
        WHERE child.organization_id = organization AND child.parent_id = ANY(added.gone)
          AND NOT EXISTS (
              SELECT FROM ledger.gate_members AS own
              WHERE child.gated AND own.organization_id = organization AND own.gate_id = child.id
                AND own.job_id = child.parent_id AND own.is_tree
          );
    END LOOP;
END
$$
"""  # noqa: S608

# Each gate that counts this job has a row for it that knows as what it was counted. So a job that is run again is
# counted back, whatever has become of the job behind the gate; that one waits again if this had cancelled it.
TELL_GATES = f"""
CREATE FUNCTION ledger.tell_gates() RETURNS trigger LANGUAGE plpgsql {SETTINGS} AS $$
DECLARE
    ended CONSTANT text := CASE WHEN NEW.state IN {ENDS} THEN NEW.state END;
    member record;
BEGIN
    IF current_setting('docworker.copying', true) = 'on' THEN
        RETURN NULL;
    END IF;
    FOR member IN
        SELECT gate_id, is_tree FROM ledger.gate_members
        WHERE organization_id = NEW.organization_id AND job_id = NEW.id ORDER BY gate_id
    LOOP
        IF ended IS NOT NULL AND member.is_tree THEN
            PERFORM ledger.add_members(NEW.organization_id, member.gate_id, ARRAY(
                SELECT child.id FROM ledger.jobs AS child
                WHERE child.organization_id = NEW.organization_id AND child.parent_id = NEW.id
                  AND NOT EXISTS (
                      SELECT FROM ledger.gate_members AS own
                      WHERE child.gated AND own.organization_id = child.organization_id AND own.gate_id = child.id
                        AND own.job_id = child.parent_id AND own.is_tree
                  )
            ), true);
        END IF;
        PERFORM ledger.count_member(NEW.organization_id, member.gate_id, NEW.id, ended);
    END LOOP;
    RETURN NULL;
END
$$
"""  # noqa: S608
COUNT_MEMBER = f"""
CREATE FUNCTION ledger.count_member(organization uuid, gate uuid, job uuid, ended text) RETURNS void
LANGUAGE plpgsql {SETTINGS} AS $$
DECLARE
    before text;
    still_pending bigint;
BEGIN
    SELECT ended_as INTO before FROM ledger.gate_members
    WHERE organization_id = organization AND gate_id = gate AND job_id = job;
    IF NOT FOUND OR before IS NOT DISTINCT FROM ended THEN
        RETURN;
    END IF;
    UPDATE ledger.gate_members SET ended_as = ended
    WHERE organization_id = organization AND gate_id = gate AND job_id = job;
    UPDATE ledger.gates
    SET pending = pending + CAST(ended IS NULL AS integer) - CAST(before IS NULL AS integer),
        succeeded = succeeded + CAST(ended IS NOT DISTINCT FROM 'succeeded' AS integer)
                  - CAST(before IS NOT DISTINCT FROM 'succeeded' AS integer),
        failed = failed + CAST(ended IS NOT DISTINCT FROM 'failed' AS integer)
               - CAST(before IS NOT DISTINCT FROM 'failed' AS integer),
        cancelled = cancelled + CAST(ended IS NOT DISTINCT FROM 'cancelled' AS integer)
                  - CAST(before IS NOT DISTINCT FROM 'cancelled' AS integer)
    WHERE organization_id = organization AND id = gate
    RETURNING pending INTO still_pending;
    IF ended IS NULL THEN
        UPDATE ledger.jobs
        SET state = 'waiting', finished_at = NULL, error_class = NULL, error_message = NULL
        WHERE organization_id = organization AND id = gate AND state = 'cancelled' AND error_class = 'ConditionNotMet';
    ELSIF still_pending = 0 THEN
        PERFORM ledger.open_gate(organization, gate);
    END IF;
END
$$
"""  # noqa: S608

# A job that is removed unfinished has ended for those that wait for it.
FORGET_GATES = f"""
CREATE FUNCTION ledger.forget_gates() RETURNS trigger LANGUAGE plpgsql {SETTINGS} AS $$
DECLARE
    member record;
BEGIN
    IF OLD.gated THEN
        DELETE FROM ledger.gate_members WHERE organization_id = OLD.organization_id AND gate_id = OLD.id;
        DELETE FROM ledger.gates WHERE organization_id = OLD.organization_id AND id = OLD.id;
    END IF;
    IF OLD.awaited AND OLD.state NOT IN {ENDS} AND current_setting('docworker.copying', true) IS DISTINCT FROM 'on' THEN
        FOR member IN
            SELECT gate_id FROM ledger.gate_members
            WHERE organization_id = OLD.organization_id AND job_id = OLD.id ORDER BY gate_id
        LOOP
            PERFORM ledger.count_member(OLD.organization_id, member.gate_id, OLD.id, 'cancelled');
        END LOOP;
    END IF;
    RETURN NULL;
END
$$
"""  # noqa: S608

# Called in the transaction that has just enqueued these jobs: nobody has seen them queued. It has rights and
# organization for itself, as `ledger.enqueue_many`. Those that were enqueued before, under the same ids, stay as they
# are.
AWAIT_JOBS = f"""
CREATE FUNCTION ledger.await_jobs(
    organization_id uuid, jobs uuid[], after uuid[], trees uuid[], opens_when text
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER {SETTINGS} AS $$
#variable_conflict use_column
DECLARE
    organization CONSTANT uuid := await_jobs.organization_id;
    before CONSTANT text := coalesce(current_setting('docworker.organization_id', true), '');
    missing uuid;
    gate uuid;
BEGIN
    IF before NOT IN ('', organization::text) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('this transaction is of the organization %s, not of %s', before, organization);
    END IF;
    PERFORM set_config('docworker.organization_id', organization::text, true);
    PERFORM FROM ledger.jobs WHERE organization_id = organization AND id = ANY(await_jobs.after || await_jobs.trees)
    ORDER BY id FOR NO KEY UPDATE;
    SELECT wanted INTO missing FROM unnest(await_jobs.after || await_jobs.trees) AS wanted
    WHERE NOT EXISTS (SELECT FROM ledger.jobs WHERE organization_id = organization AND id = wanted) LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'there is no job %s to wait for: it never was, belongs to another organization, or has been pruned',
            missing);
    END IF;
    FOR gate IN
        UPDATE ledger.jobs SET state = 'waiting', gated = true, later = false
        WHERE organization_id = organization AND id = ANY(await_jobs.jobs) AND NOT gated
          AND state IN ('queued', 'waiting') AND dispatches = 0 AND claimed_at IS NULL
          AND created_at >= transaction_timestamp() AND id <> ALL(await_jobs.after || await_jobs.trees)
        RETURNING id
    LOOP
        INSERT INTO ledger.gates (organization_id, id, opens_when) VALUES (organization, gate, await_jobs.opens_when);
        PERFORM ledger.add_members(organization, gate, await_jobs.trees, true);
        PERFORM ledger.add_members(organization, gate, await_jobs.after, false);
        PERFORM ledger.open_gate(organization, gate);
    END LOOP;
    PERFORM set_config('docworker.organization_id', before, true);
END
$$
"""  # noqa: S608
AWAIT_ARGUMENTS = "uuid, uuid[], uuid[], uuid[], text"

FUNCTIONS = {
    "open_gate(uuid, uuid)": OPEN_GATE,
    "add_members(uuid, uuid, uuid[], boolean)": ADD_MEMBERS,
    "count_member(uuid, uuid, uuid, text)": COUNT_MEMBER,
    "tell_gates()": TELL_GATES,
    "forget_gates()": FORGET_GATES,
    f"await_jobs({AWAIT_ARGUMENTS})": AWAIT_JOBS,
}
TRIGGERS = {
    "tell_gates": "AFTER UPDATE OF state ON ledger.jobs FOR EACH ROW"
    f" WHEN (NEW.awaited AND OLD.state <> NEW.state AND (NEW.state IN {ENDS} OR OLD.state IN {ENDS}))",
    "forget_gates": "AFTER DELETE ON ledger.jobs FOR EACH ROW WHEN (OLD.gated OR OLD.awaited)",
}
GRANT_TO_PRODUCERS = f"""
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'docworker_producer') THEN
        GRANT EXECUTE ON FUNCTION ledger.await_jobs({AWAIT_ARGUMENTS}) TO docworker_producer;
    END IF;
END
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():  # a lock that stops the queue is held for each statement alone
        allow(STATES, "state <> 'waiting' OR unique_key IS NULL")
        op.execute("SET lock_timeout = 0")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ledger.ix_jobs_waiting")
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_jobs_waiting ON ledger.jobs (organization_id, id) WHERE state = 'waiting'"
        )
        op.execute("SET lock_timeout = '5s'")
    for column in ("awaited", "gated"):
        op.add_column(
            "jobs", sa.Column(column, sa.Boolean(), server_default=sa.text("false"), nullable=False), schema="ledger"
        )
    create_tables()
    for function in FUNCTIONS.values():
        op.execute(function)
    for name, when in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION ledger.{name}()")
    op.execute(f"REVOKE ALL ON FUNCTION ledger.await_jobs({AWAIT_ARGUMENTS}) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION ledger.await_jobs({AWAIT_ARGUMENTS}) TO docworker_worker")
    op.execute(do(GRANT_TO_PRODUCERS))


def downgrade() -> None:
    """Only while no job waits for others: the release before would never let it go."""
    op.execute(
        "DO $$ BEGIN ALTER TABLE ledger.jobs NO FORCE ROW LEVEL SECURITY;"
        " IF EXISTS (SELECT FROM ledger.jobs WHERE state = 'waiting')"
        " THEN RAISE EXCEPTION 'jobs wait for others: let those end, or cancel the ones that wait'; END IF;"
        " ALTER TABLE ledger.jobs FORCE ROW LEVEL SECURITY; END $$"
    )
    for name in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON ledger.jobs")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION ledger.{signature}")
    op.drop_table("gate_members", schema="ledger")
    op.drop_table("gates", schema="ledger")
    op.drop_index("ix_jobs_waiting", "jobs", schema="ledger")
    for column in ("gated", "awaited"):
        op.drop_column("jobs", column, schema="ledger")
    with op.get_context().autocommit_block():
        allow(STATES_BEFORE, None)


def allow(states: str, waiting: str | None) -> None:
    """What is there already holds to them. It is looked at when no lock is held, and this may be repeated."""
    checks = {"ck_jobs_state": states} | ({} if waiting is None else {"ck_jobs_waiting": waiting})
    changes = ["DROP CONSTRAINT IF EXISTS ck_jobs_state", "DROP CONSTRAINT IF EXISTS ck_jobs_waiting"]
    changes += [f"ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID" for name, condition in checks.items()]
    op.execute(f"ALTER TABLE ledger.jobs {', '.join(changes)}")
    op.execute(f"ALTER TABLE ledger.jobs {', '.join(f'VALIDATE CONSTRAINT {name}' for name in checks)}")


def create_tables() -> None:
    op.create_table(
        "gates",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("opens_when", sa.Text(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)
            for name in ("pending", "succeeded", "failed", "cancelled")
        ),
        sa.CheckConstraint("opens_when IN ('succeeded', 'failed', 'any')", name="ck_gates_opens_when"),
        sa.CheckConstraint("least(pending, succeeded, failed, cancelled) >= 0", name="ck_gates_counts"),
        sa.PrimaryKeyConstraint("organization_id", "id", name="pk_gates"),
        schema="ledger",
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "gate_members",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("gate_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("is_tree", sa.Boolean(), nullable=False),
        sa.Column("ended_as", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "gate_id", "job_id", name="pk_gate_members"),
        schema="ledger",
    )
    op.create_index("ix_gate_members_job", "gate_members", ["organization_id", "job_id"], schema="ledger")
    for table in ("ledger.gates", "ledger.gate_members"):
        condition = f"organization_id = {CURRENT_ORGANIZATION}"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_organization ON {table} USING ({condition}) WITH CHECK ({condition})")
        op.execute(f"CREATE POLICY every_job ON {table} TO docworker_dispatcher USING (true) WITH CHECK (true)")
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO docworker_worker, docworker_dispatcher")

"""The end of a job whose children are waited for takes as long as it has children, whatever the server takes them for.

By the statistics of a table that has just grown, each job of the ledger was looked for in the list of the children: of
ten thousand that took longer than a statement may, so their parent could not end.
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

ENDS = "('succeeded', 'failed', 'cancelled')"

# As before in all that it does. Each job is looked up by its key, and from then on by where it is.
ADD_MEMBERS = """
CREATE OR REPLACE FUNCTION ledger.add_members(organization uuid, gate uuid, jobs uuid[], as_tree boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp{settings} AS $$
DECLARE
    more uuid[] := jobs;
    added record;
BEGIN
    WHILE cardinality(more) > 0 LOOP
        {mark}
        WITH new AS (
            INSERT INTO ledger.gate_members (organization_id, gate_id, job_id, is_tree, ended_as)
            SELECT organization, gate, id, as_tree, CASE WHEN state IN {ENDS} THEN state END
            FROM {members}
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
        SELECT array_agg(child.id) INTO more FROM {children}
          AND NOT EXISTS (
              SELECT FROM ledger.gate_members AS own
              WHERE child.gated AND own.organization_id = organization AND own.gate_id = child.id
                AND own.job_id = child.parent_id AND own.is_tree
          );
    END LOOP;
END
$$
"""
EACH = "(SELECT DISTINCT wanted FROM unnest(more) AS wanted WHERE wanted <> gate ORDER BY wanted) AS one"
# Two statements: the second one sees what those have done whose locks the first one has waited for.
MARK = f"""PERFORM FROM {EACH} CROSS JOIN LATERAL (
            SELECT FROM ledger.jobs WHERE organization_id = organization AND id = one.wanted FOR NO KEY UPDATE
        ) AS job;
        UPDATE ledger.jobs AS job
        SET awaited = true,
            redispatch_at = CASE WHEN job.state = 'dispatched'
                            THEN least(job.redispatch_at, clock_timestamp() + interval '1 second') END
        FROM {EACH} CROSS JOIN LATERAL (
            SELECT ctid FROM ledger.jobs
            WHERE organization_id = organization AND id = one.wanted AND NOT awaited OFFSET 0
        ) AS held
        WHERE job.ctid = held.ctid;"""  # noqa: S608
MEMBERS = f"""{EACH} CROSS JOIN LATERAL (
                SELECT id, state FROM ledger.jobs WHERE organization_id = organization AND id = one.wanted OFFSET 0
            ) AS job"""  # noqa: S608
CHILDREN = """unnest(added.gone) AS parent CROSS JOIN LATERAL (
            SELECT id, gated, parent_id FROM ledger.jobs
            WHERE organization_id = organization AND parent_id = parent OFFSET 0
        ) AS child
        WHERE child.id <> gate"""
MARK_BEFORE = """WITH held AS MATERIALIZED (
            SELECT id FROM ledger.jobs
            WHERE organization_id = organization AND id = ANY(more) AND id <> gate
            ORDER BY id FOR NO KEY UPDATE
        )
        UPDATE ledger.jobs AS job
        SET awaited = true,
            redispatch_at = CASE WHEN job.state = 'dispatched'
                            THEN least(job.redispatch_at, clock_timestamp() + interval '1 second') END
        FROM held WHERE job.organization_id = organization AND job.id = held.id AND NOT job.awaited;"""
MEMBERS_BEFORE = """ledger.jobs
            WHERE organization_id = organization AND id = ANY(more) AND id <> gate"""
CHILDREN_BEFORE = """ledger.jobs AS child
        WHERE child.organization_id = organization AND child.parent_id = ANY(added.gone)"""


# A plan that was made while the table was small is kept for as long as the connection lives.
BY_INDEX = "enable_seqscan"
ASKED_FOR_EACH_JOB = ("tell_gates()", "count_member(uuid, uuid, uuid, text)", "open_gate(uuid, uuid)")


def upgrade() -> None:
    settings = f" SET {BY_INDEX} = off"
    op.execute(ADD_MEMBERS.format(ENDS=ENDS, settings=settings, mark=MARK, members=MEMBERS, children=CHILDREN))
    for function in ASKED_FOR_EACH_JOB:
        op.execute(f"ALTER FUNCTION ledger.{function} SET {BY_INDEX} = off")


def downgrade() -> None:
    op.execute(
        ADD_MEMBERS.format(ENDS=ENDS, settings="", mark=MARK_BEFORE, members=MEMBERS_BEFORE, children=CHILDREN_BEFORE)
    )
    for function in ASKED_FOR_EACH_JOB:
        op.execute(f"ALTER FUNCTION ledger.{function} RESET {BY_INDEX}")

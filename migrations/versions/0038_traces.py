"""Jobs keep the trace that they were enqueued in. The release before enters jobs without one, and passes over it."""

from alembic import op

from docworker.migrations.names import do

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

# Called in the transaction that has just enqueued these jobs, or folded into them. It has rights and organization for
# itself, as `ledger.enqueue_many`.
TRACE_JOBS = """
CREATE FUNCTION ledger.trace_jobs(
    organization_id uuid, jobs uuid[], traceparent text
) RETURNS uuid[] LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    organization CONSTANT uuid := trace_jobs.organization_id;
    before CONSTANT text := coalesce(current_setting('docworker.organization_id', true), '');
BEGIN
    IF before NOT IN ('', organization::text) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('this transaction is of the organization %s, not of %s', before, organization);
    ELSIF trace_jobs.traceparent IS NULL
       OR trace_jobs.traceparent !~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a traceparent is as the W3C''s Trace Context has it';
    END IF;
    PERFORM set_config('docworker.organization_id', organization::text, true);
    UPDATE ledger.jobs AS job
    SET traceparent = trace_jobs.traceparent
    WHERE job.organization_id = organization AND job.id = ANY(trace_jobs.jobs)
      AND job.claimed_at IS NULL AND job.state IN ('waiting', 'queued', 'dispatched');
    PERFORM set_config('docworker.organization_id', before, true);
    RETURN trace_jobs.jobs;
END
$$
"""
ARGUMENTS = "uuid, uuid[], text"
GRANT_TO_PRODUCERS = f"""
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'docworker_producer') THEN
        GRANT EXECUTE ON FUNCTION ledger.trace_jobs({ARGUMENTS}) TO docworker_producer;
    END IF;
END
"""


def upgrade() -> None:
    op.execute("ALTER TABLE ledger.jobs ADD COLUMN IF NOT EXISTS traceparent text")
    op.execute(TRACE_JOBS)
    op.execute(f"REVOKE ALL ON FUNCTION ledger.trace_jobs({ARGUMENTS}) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION ledger.trace_jobs({ARGUMENTS}) TO docworker_worker")
    op.execute(do(GRANT_TO_PRODUCERS))


def downgrade() -> None:
    """Which jobs belong to which trace is lost; nothing else needs it."""
    op.execute(f"DROP FUNCTION ledger.trace_jobs({ARGUMENTS})")
    op.drop_column("jobs", "traceparent", schema="ledger")

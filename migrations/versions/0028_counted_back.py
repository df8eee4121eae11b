"""A job that is run again is counted back by one look-up, however many jobs of its organization have ended.

The job behind the gate was looked for among all that have ended, by the index that holds those.
"""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

COUNT_MEMBER = """
CREATE OR REPLACE FUNCTION ledger.count_member(organization uuid, gate uuid, job uuid, ended text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
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
        WHERE organization_id = organization AND id = gate AND {is_cancelled} AND error_class = 'ConditionNotMet';
    ELSIF still_pending = 0 THEN
        PERFORM ledger.open_gate(organization, gate);
    END IF;
END
$$
"""
# By its key: no index of states is asked for this.
IS_CANCELLED, IS_CANCELLED_BEFORE = "state || '' = 'cancelled'", "state = 'cancelled'"


def upgrade() -> None:
    op.execute(COUNT_MEMBER.replace("{is_cancelled}", IS_CANCELLED))


def downgrade() -> None:
    op.execute(COUNT_MEMBER.replace("{is_cancelled}", IS_CANCELLED_BEFORE))

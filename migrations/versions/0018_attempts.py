"""What became of each attempt of a job is kept, with what it has logged; jobs say how far they are.

A trigger writes it, for whoever ends an attempt, the release before included. It does not fire for an attempt that
succeeds.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"

# Of a job's attempts the first ten and the latest forty stay. The job is locked by the statement that fires this, so
# positions are counted without gaps.
KEEP = """
CREATE FUNCTION ledger.keep_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ended text := CASE
        WHEN NEW.state = 'cancelled' THEN 'cancelled'
        WHEN NEW.attempt < OLD.attempt AND NEW.given_back > OLD.given_back THEN 'given_back'
        WHEN NEW.attempt < OLD.attempt AND NEW.faults = OLD.faults AND NEW.state = 'queued' THEN 'snoozed'
        WHEN NEW.error_class = 'LeaseExpired' THEN 'rescued'
        WHEN NEW.state = 'failed' THEN 'failed'
        ELSE 'retried' END;
    has_reason bool := ended IN ('rescued', 'failed', 'retried');
    kept_at int;
BEGIN
    INSERT INTO ledger.attempts AS kept (organization_id, job_id, claim_token, position, attempt, worker, claimed_at,
        ended_at, outcome, error_class, error_message, progress)
    SELECT NEW.organization_id, NEW.id, coalesce(OLD.claim_token, gen_random_uuid()), coalesce(max(position), 0) + 1,
        greatest(OLD.attempt, 0), OLD.claimed_by, OLD.claimed_at, clock_timestamp(), ended,
        CASE WHEN has_reason THEN left(NEW.error_class, 200) END,
        CASE WHEN has_reason THEN left(NEW.error_message, 2000) END,
        CASE WHEN NEW.progress ->> 'claim' = CAST(OLD.claim_token AS text) THEN NEW.progress END
    FROM ledger.attempts WHERE organization_id = NEW.organization_id AND job_id = NEW.id
    ON CONFLICT (organization_id, job_id, claim_token) DO UPDATE
    SET ended_at = excluded.ended_at, outcome = excluded.outcome, error_class = excluded.error_class,
        error_message = excluded.error_message, progress = excluded.progress
    WHERE kept.outcome IS NULL
    RETURNING position INTO kept_at;
    IF kept_at > 50 THEN
        DELETE FROM ledger.attempts
        WHERE organization_id = NEW.organization_id AND job_id = NEW.id AND position = kept_at - 40;
    END IF;
    RETURN NULL;
END
$$
"""
WHEN = "OLD.state = 'running' AND NEW.state NOT IN ('running', 'succeeded')"


def upgrade() -> None:
    op.add_column(
        "jobs", sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True), schema="ledger"
    )
    op.create_table(
        "attempts",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("claim_token", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("log", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint("position > 0 AND attempt >= 0", name=op.f("ck_attempts_numbers")),
        sa.CheckConstraint(
            "outcome IN ('failed', 'retried', 'given_back', 'rescued', 'cancelled', 'snoozed')",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.CheckConstraint("jsonb_typeof(log) = 'array'", name=op.f("ck_attempts_log")),
        sa.PrimaryKeyConstraint("organization_id", "job_id", "claim_token", name=op.f("pk_attempts")),
        schema="ledger",
    )
    op.execute("ALTER TABLE ledger.attempts ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE ledger.attempts FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY own_organization ON ledger.attempts"
        f" USING (organization_id = {CURRENT_ORGANIZATION}) WITH CHECK (organization_id = {CURRENT_ORGANIZATION})"
    )
    op.execute("CREATE POLICY every_attempt ON ledger.attempts TO docworker_dispatcher USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.attempts TO docworker_worker, docworker_dispatcher")
    op.execute(KEEP)
    op.execute(
        "CREATE TRIGGER keep_attempt AFTER UPDATE OF state ON ledger.jobs FOR EACH ROW"
        f" WHEN ({WHEN}) EXECUTE FUNCTION ledger.keep_attempt()"
    )


def downgrade() -> None:
    """What was kept of attempts is lost."""
    op.execute("DROP TRIGGER keep_attempt ON ledger.jobs")
    op.execute("DROP FUNCTION ledger.keep_attempt()")
    op.drop_table("attempts", schema="ledger")
    op.drop_column("jobs", "progress", schema="ledger")

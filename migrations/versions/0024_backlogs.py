"""Organizations may have a largest backlog: who would enqueue more is refused.

A dispatcher counts, and writes down whose bound is near; who enqueues reads a row of its own organization, which is
there only then. So neither counts a producer, nor does one wait for another. The release before refuses nobody.
"""

import sqlalchemy as sa
from alembic import op

from docworker.migrations.functions import replace_in

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"
ENQUEUE_MANY = "ledger.enqueue_many(uuid, text, jsonb[], uuid[], text[], integer, timestamptz, integer, uuid)"

# Who writes for no organization (a judge that has what became of lost jobs told) and what belongs to no organization
# are not refused.
HAS_ROOM = """
CREATE FUNCTION ledger.has_room(organization uuid, more bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_jobs bigint;
    found_bound bigint;
BEGIN
    SELECT coalesce(jobs, 0), coalesce(bound, most) INTO found_jobs, found_bound
    FROM ledger.backlogs WHERE organization_id = organization;
    IF found_jobs + more > found_bound AND organization <> '00000000-0000-0000-0000-000000000000'
        AND current_setting('docworker.organization_id', true) = organization::text THEN
        RAISE configuration_limit_exceeded USING MESSAGE = format(
            'the organization %s has %s%s due jobs waiting and may have %s, so %s more are not taken',
            organization, CASE WHEN found_jobs > found_bound THEN 'more than ' ELSE '' END,
            least(found_jobs, found_bound), found_bound, more);
    END IF;
    RETURN true;
END
$$
"""
BEFORE = "    IF enqueue_many.unique_keys IS NULL THEN\n"
CHECKED = """\
    IF enqueue_many.parent_id IS NULL THEN
        PERFORM ledger.has_room(organization, jobs);
    END IF;
"""


def upgrade() -> None:
    op.create_table(
        "backlogs",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("most", sa.BigInteger(), nullable=True),
        sa.Column("jobs", sa.BigInteger(), nullable=True),
        sa.Column("bound", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("most BETWEEN 1 AND 1000000000", name=op.f("ck_backlogs_most")),
        sa.CheckConstraint("(jobs IS NULL) = (bound IS NULL)", name=op.f("ck_backlogs_counted")),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_backlogs")),
        schema="ledger",
    )
    op.execute("ALTER TABLE ledger.backlogs ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE ledger.backlogs FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY own_organization ON ledger.backlogs"
        f" USING (organization_id = {CURRENT_ORGANIZATION}) WITH CHECK (organization_id = {CURRENT_ORGANIZATION})"
    )
    op.execute("CREATE POLICY every_backlog ON ledger.backlogs TO docworker_dispatcher USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT ON ledger.backlogs TO docworker_worker")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.backlogs TO docworker_dispatcher")
    op.execute(HAS_ROOM)
    replace_in(ENQUEUE_MANY, BEFORE, CHECKED + BEFORE)


def downgrade() -> None:
    """What was set is lost."""
    replace_in(ENQUEUE_MANY, CHECKED + BEFORE, BEFORE)
    op.execute("DROP FUNCTION ledger.has_room(uuid, bigint)")
    op.drop_table("backlogs", schema="ledger")

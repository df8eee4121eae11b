"""Other programs enqueue for no organization that goes away from a cluster besides home, or from a database of its own.

At home the catalog says so to each isolation level. Elsewhere `ledger.enqueue_many` looked for the organization first
and for its suspension after: a drop that was committed in between had taken both away. And a transaction with an older
snapshot did not see that it had gone. The release before works on as it is.
"""

from alembic import op

from docworker.migrations.functions import replace_in

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

ENQUEUE_MANY = "ledger.enqueue_many(uuid, text, jsonb[], uuid[], text[], integer, timestamptz, integer, uuid)"

# Who ends the writing for an organization has changed its row: that is a serialization failure for an older snapshot,
# also while a row is only locked. Those who lock it so do not wait for each other.
IS_HERE = """
CREATE FUNCTION ledger.is_here(organization uuid) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own_schema text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM FROM app.organizations WHERE id = organization FOR SHARE;
    ELSE
        PERFORM FROM app.organizations WHERE id = organization;
    END IF;
    IF FOUND THEN
        RETURN true;
    END IF;
    SELECT nspname INTO own_schema FROM pg_namespace
    WHERE obj_description(oid, 'pg_namespace') = 'docworker ' || organization::text;
    IF FOUND AND current_setting('transaction_isolation') <> 'read committed' THEN
        BEGIN
            EXECUTE format('SELECT FROM %I.organizations WHERE id = $1 FOR SHARE', own_schema) USING organization;
        EXCEPTION WHEN undefined_table THEN
            RAISE serialization_failure USING
                MESSAGE = format('the organization %s has gone since this transaction began', organization);
        END;
    END IF;
    RETURN own_schema IS NOT NULL;
END
$$
"""

THERE_AND_SERVED = """\
    ELSIF NOT EXISTS (SELECT FROM app.organizations WHERE id = organization)
        AND NOT EXISTS (
            SELECT FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') = 'docworker ' || organization::text
        ) THEN
        RAISE no_data_found USING
            MESSAGE = format('there is no organization %s in this database', organization),
            HINT = 'See `docworker tenants list`.';
    ELSIF EXISTS (SELECT FROM ledger.suspensions WHERE suspensions.organization_id = organization) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('the organization %s is not served here now', organization);
    END IF;
"""
# A drop takes both away at once, so who looks for the organization last does not miss that it has gone.
SERVED_AND_THERE = """\
    ELSIF EXISTS (SELECT FROM ledger.suspensions WHERE suspensions.organization_id = organization) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('the organization %s is not served here now', organization);
    ELSIF NOT ledger.is_here(organization) THEN
        RAISE no_data_found USING
            MESSAGE = format('there is no organization %s in this database', organization),
            HINT = 'See `docworker tenants list`.';
    END IF;
"""


def upgrade() -> None:
    op.execute(IS_HERE)
    replace_in(ENQUEUE_MANY, THERE_AND_SERVED, SERVED_AND_THERE)


def downgrade() -> None:
    replace_in(ENQUEUE_MANY, SERVED_AND_THERE, THERE_AND_SERVED)
    op.execute("DROP FUNCTION ledger.is_here(uuid)")

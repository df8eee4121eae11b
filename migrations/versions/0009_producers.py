"""Other programs enqueue jobs by a function of the ledger, in transactions of their own.

A program that is no session of ours has neither the rights on the ledger nor the organization in its transaction. The
function has both for its own statement alone, and checks what this package checks in Python.
"""

from alembic import op

from docworker.migrations.names import do

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

MANY = "uuid, text, jsonb[], uuid[], text[], integer, timestamptz, integer, uuid"
ONE = "uuid, text, jsonb, uuid, text, integer, timestamptz, integer, uuid"

# Raised with states of their own: 22023 for a value, P0002 for an organization that is not here, 55000 for one that is
# not served now. The setting of the caller's transaction is put back by hand: a function's SET clause would hide it,
# and an error undoes it in any case.
ENQUEUE_MANY = """
CREATE FUNCTION ledger.enqueue_many(
    organization_id uuid,
    kind text,
    arguments jsonb[],
    ids uuid[] DEFAULT NULL,
    unique_keys text[] DEFAULT NULL,
    priority integer DEFAULT 5,
    run_at timestamptz DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    parent_id uuid DEFAULT NULL
) RETURNS uuid[] LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    organization CONSTANT uuid := enqueue_many.organization_id;
    before CONSTANT text := coalesce(current_setting('docworker.organization_id', true), '');
    jobs CONSTANT integer := coalesce(cardinality(enqueue_many.arguments), 0);
    place record;
    enqueued uuid[];
BEGIN
    IF organization IS NULL OR enqueue_many.kind IS NULL
        OR array_position(enqueue_many.arguments, NULL) IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'organization_id, kind and arguments are needed, got NULL';
    ELSIF before NOT IN ('', organization::text) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('this transaction is of the organization %s, not of %s', before, organization),
            HINT = 'Enqueue for another organization in a transaction of its own.';
    ELSIF octet_length(enqueue_many.kind) NOT BETWEEN 1 AND 200 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('the name of a kind has 1 to 200 bytes, got %s', octet_length(enqueue_many.kind));
    ELSIF coalesce(enqueue_many.priority NOT BETWEEN 0 AND 9, true) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('priority goes from 0 (first) to 9, got %s', enqueue_many.priority);
    ELSIF coalesce(enqueue_many.max_attempts NOT BETWEEN 1 AND 1000, true) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('max_attempts goes from 1 to 1000, got %s', enqueue_many.max_attempts);
    ELSIF enqueue_many.run_at < '1900-01-01 UTC' OR enqueue_many.run_at >= '9900-01-01 UTC' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('run_at lies between 1900-01-01 and 9900-01-01, got %s', enqueue_many.run_at);
    ELSIF enqueue_many.ids IS NOT NULL AND enqueue_many.unique_keys IS NOT NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'give an id or a unique_key, not both: an id names one job, a key folds several';
    ELSIF cardinality(enqueue_many.ids) <> jobs OR cardinality(enqueue_many.unique_keys) <> jobs
        OR array_position(enqueue_many.ids, NULL) IS NOT NULL
        OR array_position(enqueue_many.unique_keys, NULL) IS NOT NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('give one id, or one unique_key, for each of %s jobs', jobs);
    ELSIF EXISTS (SELECT FROM unnest(enqueue_many.unique_keys) AS one WHERE char_length(one) NOT BETWEEN 1 AND 500) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a unique_key has 1 to 500 characters';
    ELSIF EXISTS (SELECT FROM unnest(enqueue_many.arguments) AS one WHERE jsonb_typeof(one) <> 'object') THEN
        RAISE invalid_parameter_value USING MESSAGE = 'arguments are an object of names and values';
    ELSIF EXISTS (SELECT FROM unnest(enqueue_many.arguments) AS one WHERE octet_length(one::text) > 8388608) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'the arguments of a job have at most 8 MiB',
            HINT = 'Keep the data in a table, and give its key.';
    ELSIF EXISTS (
        SELECT FROM unnest(enqueue_many.arguments) AS one
        WHERE one @? 'strict $.**{100} ? (@.type() == "object" || @.type() == "array")'
    ) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'arguments are nested at most 100 levels deep';
    ELSIF EXISTS (
        SELECT FROM unnest(enqueue_many.arguments) AS one
        WHERE one @? 'strict $.** ? (@.type() == "number" && (@ >= 1e300 || @ <= -1e300))'
    ) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a number in arguments has at most 300 digits: give it as a text';
    END IF;
    -- As every transaction that writes for an organization: who moves it away waits for us, and we see that he has.
    PERFORM pg_advisory_xact_lock_shared(('x' || right(replace(organization::text, '-', ''), 16))::bit(64)::bigint);
    PERFORM set_config('docworker.organization_id', organization::text, true);
    IF current_setting('transaction_isolation') = 'read committed' THEN
        SELECT cluster, database_name, state INTO place FROM catalog.placements
        WHERE placements.organization_id = organization;
    ELSE
        -- What an older snapshot shows may have changed since: this fails where it has.
        SELECT cluster, database_name, state INTO place FROM catalog.placements
        WHERE placements.organization_id = organization FOR SHARE;
    END IF;
    IF FOUND THEN
        IF place.cluster <> 'home' OR place.database_name IS NOT NULL THEN
            RAISE no_data_found USING
                MESSAGE = format('the organization %s is not in this database', organization),
                DETAIL = format('It is on %s%s.', place.cluster, ', in the database ' || place.database_name),
                HINT = 'Enqueue there.';
        ELSIF place.state NOT IN ('active', 'leaving') THEN
            RAISE object_not_in_prerequisite_state USING
                MESSAGE = format('the organization %s is %s', organization, place.state);
        END IF;
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
    IF enqueue_many.unique_keys IS NULL THEN
        SELECT coalesce(array_agg(coalesce(enqueue_many.ids[position], gen_random_uuid()) ORDER BY position), '{}')
        INTO enqueued FROM generate_series(1, jobs) AS position;
        INSERT INTO ledger.jobs (organization_id, id, kind, arguments, state, priority, run_at, later, attempt,
                                 max_attempts, faults, alone, dispatches, parent_id)
        SELECT organization, new.id, enqueue_many.kind, new.arguments, 'queued', enqueue_many.priority,
               coalesce(enqueue_many.run_at, clock_timestamp()),
               coalesce(enqueue_many.run_at > clock_timestamp(), false), 0,
               enqueue_many.max_attempts, 0, false, 0, enqueue_many.parent_id
        FROM unnest(enqueued, enqueue_many.arguments) AS new (id, arguments) ORDER BY new.id
        ON CONFLICT (organization_id, id) DO NOTHING;
    ELSE
        WITH given AS (
            SELECT * FROM unnest(enqueue_many.arguments, enqueue_many.unique_keys) WITH ORDINALITY
                AS given (arguments, unique_key, position)
        ), new AS (
            SELECT DISTINCT ON (unique_key COLLATE "C") * FROM given ORDER BY unique_key COLLATE "C", position DESC
        ), folded AS (
            INSERT INTO ledger.jobs AS waiting (organization_id, id, kind, arguments, state, priority, run_at, later,
                                                unique_key, attempt, max_attempts, faults, alone, dispatches, parent_id)
            SELECT organization, gen_random_uuid(), enqueue_many.kind, new.arguments, 'queued', enqueue_many.priority,
                   coalesce(enqueue_many.run_at, clock_timestamp()),
                   coalesce(enqueue_many.run_at > clock_timestamp(), false), new.unique_key, 0,
                   enqueue_many.max_attempts, 0, false, 0, enqueue_many.parent_id
            FROM new ORDER BY new.unique_key COLLATE "C"
            ON CONFLICT (organization_id, kind, unique_key)
                WHERE unique_key IS NOT NULL AND claimed_at IS NULL AND state IN ('queued', 'dispatched')
            DO UPDATE SET arguments = excluded.arguments,
                          run_at = least(waiting.run_at, excluded.run_at),
                          later = waiting.later AND excluded.later,
                          priority = least(waiting.priority, excluded.priority),
                          dispatched_lsn = NULL,
                          redispatch_at = CASE WHEN waiting.state = 'dispatched'
                                          THEN least(waiting.redispatch_at, clock_timestamp() + interval '1 second') END
            RETURNING id, unique_key
        )
        SELECT coalesce(array_agg(folded.id ORDER BY given.position), '{}') INTO enqueued
        FROM given JOIN folded ON folded.unique_key = given.unique_key;
    END IF;
    PERFORM set_config('docworker.organization_id', before, true);
    RETURN enqueued;
END
$$
"""

ENQUEUE = """
CREATE FUNCTION ledger.enqueue(
    organization_id uuid,
    kind text,
    arguments jsonb DEFAULT '{}',
    id uuid DEFAULT NULL,
    unique_key text DEFAULT NULL,
    priority integer DEFAULT 5,
    run_at timestamptz DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    parent_id uuid DEFAULT NULL
) RETURNS uuid LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT (ledger.enqueue_many(
        organization_id, kind, ARRAY[arguments],
        CASE WHEN id IS NOT NULL THEN ARRAY[id] END, CASE WHEN unique_key IS NOT NULL THEN ARRAY[unique_key] END,
        priority, run_at, max_attempts, parent_id
    ))[1]
$$
"""

# The role may be made later, by roles.sql, which grants the same then.
GRANT_TO_PRODUCERS = f"""
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'docworker_producer') THEN
        GRANT USAGE ON SCHEMA ledger TO docworker_producer;
        GRANT EXECUTE ON FUNCTION ledger.enqueue({ONE}), ledger.enqueue_many({MANY}) TO docworker_producer;
    END IF;
END
"""


def upgrade() -> None:
    op.execute(ENQUEUE_MANY)
    op.execute(ENQUEUE)
    op.execute(f"REVOKE ALL ON FUNCTION ledger.enqueue({ONE}), ledger.enqueue_many({MANY}) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION ledger.enqueue({ONE}), ledger.enqueue_many({MANY}) TO docworker_worker")
    op.execute(do(GRANT_TO_PRODUCERS))


def downgrade() -> None:
    op.execute(f"DROP FUNCTION ledger.enqueue({ONE})")
    op.execute(f"DROP FUNCTION ledger.enqueue_many({MANY})")
    op.execute(
        do(
            "BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'docworker_producer') THEN"
            " REVOKE USAGE ON SCHEMA ledger FROM docworker_producer; END IF; END"
        )
    )

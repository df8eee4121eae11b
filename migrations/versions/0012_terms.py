"""Documents are found by terms that do not depend on the server's locale, through an index that begins with the
organization.

`@@` is not leakproof: under row-level security no index serves it. So the look-up is a function with the rights of the
owner, whom a policy lets read all rows, and it names the transaction's organization itself, as the policies do.

The release before finds what it has indexed itself; what this one writes has no `vector`. What has no terms yet is
indexed by the schedule.
"""

import sqlalchemy as sa
from alembic import op

from docworker.migrations.names import do, quoted

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLE = "document_search"
TERMS, UNINDEXED = "ix_document_search_terms", "ix_document_search_unindexed"
SAMPLE, LANGUAGES = "ix_document_search_sample", "ix_document_search_organization_id_language"
FIND = """
CREATE OR REPLACE FUNCTION {function}(query tsquery, most bigint DEFAULT NULL) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}
"""
# Of a word that half of the documents have, the index would first give all of them. So where no more than `most` are
# asked for, a sixteenth of the documents is looked at before, by an index of its own.
IN_SAMPLE = "get_byte(uuid_send(document_id), 15) < 16"
BODY = """
    WITH sample AS MATERIALIZED (
        SELECT document_id FROM {table}
        WHERE most IS NOT NULL AND terms @@ query AND {mine} AND {in_sample}
        LIMIT most
    )
    SELECT document_id FROM sample WHERE (SELECT count(*) FROM sample) >= most
    UNION ALL
    (
        SELECT document_id FROM {table}
        WHERE terms @@ query AND {mine} AND (most IS NULL OR (SELECT count(*) FROM sample) < most)
        LIMIT most
    )
"""
MINE = "organization_id = (SELECT nullif(current_setting('docworker.organization_id', true), '')\\:\\:uuid)"
ARGUMENTS = "(tsquery, bigint)"
# As texts are: a rank is made of what is decompressed.
COMPRESS = """
BEGIN
    IF (SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression') THEN
        ALTER TABLE {table} ALTER COLUMN terms SET COMPRESSION lz4;
    END IF;
END
"""


def upgrade() -> None:
    upgrade_tenant("app")


def upgrade_tenant(schema: str) -> None:
    """May be run again after it was cut off: what comes before the indexes is committed before they are built."""
    table, function = quoted(schema, TABLE), quoted(schema, "find_documents")
    op.execute(
        f"ALTER TABLE {table} ALTER COLUMN vector DROP NOT NULL, ADD COLUMN IF NOT EXISTS terms tsvector,"
        " ADD COLUMN IF NOT EXISTS terms_version integer, ADD COLUMN IF NOT EXISTS language text,"
        " ADD COLUMN IF NOT EXISTS is_partial boolean DEFAULT false NOT NULL"
    )
    op.execute(do(COMPRESS.format(table=table)))
    op.execute(FIND.format(function=function, body=literal(BODY.format(table=table, mine=MINE, in_sample=IN_SAMPLE))))
    op.execute(f"REVOKE ALL ON FUNCTION {function}{ARGUMENTS} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {function}{ARGUMENTS} TO docworker_worker")
    op.execute(f"DROP POLICY IF EXISTS look_up ON {table}")
    op.execute(f"CREATE POLICY look_up ON {table} FOR SELECT TO CURRENT_USER USING (true)")
    indexes = {
        TERMS: f"ON {table} USING gin (terms)",
        SAMPLE: f"ON {table} USING gin (terms) WHERE {IN_SAMPLE}",
        LANGUAGES: f"ON {table} (organization_id, language)",
        UNINDEXED: f"ON {table} (organization_id, document_id) WHERE terms_version IS DISTINCT FROM version_number",
    }
    if has_rows(table):
        with op.get_context().autocommit_block():
            for name, definition in indexes.items():
                op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted(schema, name)}")  # half made, by an earlier try
                op.execute(f"CREATE INDEX CONCURRENTLY {name} {definition}")
    else:
        for name, definition in indexes.items():
            op.execute(f"DROP INDEX IF EXISTS {quoted(schema, name)}")
            op.execute(f"CREATE INDEX {name} {definition}")


def has_rows(table: str) -> bool:
    """Also where nobody can be asked. Who builds an index CONCURRENTLY waits for all others who do, which where an
    organization is made would be for nothing."""
    if op.get_context().as_sql:
        return True
    return bool(op.get_bind().scalar(sa.text(f"SELECT EXISTS (SELECT FROM {table})")))  # noqa: S608 -- a quoted name


def downgrade() -> None:
    downgrade_tenant("app")


def downgrade_tenant(schema: str) -> None:
    """What was indexed by this release is found by the release before when it has a new version."""
    table = quoted(schema, TABLE)
    op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(f"UPDATE {table} SET vector = '' WHERE vector IS NULL")  # noqa: S608 -- a quoted name
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"DROP POLICY look_up ON {table}")
    op.execute(f"DROP FUNCTION {quoted(schema, 'find_documents')}{ARGUMENTS}")
    op.execute(
        f"ALTER TABLE {table} DROP COLUMN is_partial, DROP COLUMN language, DROP COLUMN terms_version,"
        " DROP COLUMN terms, ALTER COLUMN vector SET NOT NULL"
    )


def literal(body: str) -> str:
    """A name in it may hold any dollar quote."""
    return "'" + body.replace("'", "''") + "'"

"""The look-up of words reads the words' index alone, not also the list of all documents of the organization.

The planner saw an index on `organization_id` fit the same condition, and no statement in a function knows how many
documents the organization has: it read the whole list for each word, which took longer than all else together.
"""

from alembic import op

from docworker.migrations.names import quoted

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

FIND = """
CREATE OR REPLACE FUNCTION {function}(query tsquery, most bigint DEFAULT NULL) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp {settings} AS {body}
"""
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
CURRENT = "(SELECT nullif(current_setting('docworker.organization_id', true), '')\\:\\:uuid)"
# No index serves IS NOT DISTINCT FROM. Each word begins with a sign of its organization: there is little to leave out.
MINE = f"organization_id IS NOT DISTINCT FROM {CURRENT}"
MINE_BEFORE = f"organization_id = {CURRENT}"


def upgrade() -> None:
    upgrade_tenant("app")


def upgrade_tenant(schema: str) -> None:
    replace_look_up(schema, MINE, settings="SET enable_seqscan = off")


def downgrade() -> None:
    downgrade_tenant("app")


def downgrade_tenant(schema: str) -> None:
    replace_look_up(schema, MINE_BEFORE, settings="")


def replace_look_up(schema: str, mine: str, *, settings: str) -> None:
    """Who may call it stays as it was."""
    body = BODY.format(table=quoted(schema, "document_search"), mine=mine, in_sample=IN_SAMPLE)
    function = quoted(schema, "find_documents")
    op.execute(FIND.format(function=function, settings=settings, body="'" + body.replace("'", "''") + "'"))

"""The present text of a document is stored once, in its latest version; an index that nothing used goes.

Processes of the release before look for the present text in the document, so a trigger copies it there until
`migrations.contract` takes it away. Where there is no organization yet, nobody misses anything: there is no trigger.

The index of the vectors serves no search: row-level security comes before `@@`, which is not leakproof.
"""

from alembic import op

from docworker.migrations.contract import WRITE_COPIES, change_copies
from docworker.migrations.names import quoted

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


KEEP_COPIES = """
CREATE OR REPLACE FUNCTION app.keep_copy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE app.documents SET content = NEW.content
    WHERE organization_id = NEW.organization_id AND id = NEW.document_id AND latest_version = NEW.version_number
      AND content IS DISTINCT FROM NEW.content;
    RETURN NULL;
END
$$;
DROP TRIGGER IF EXISTS keep_copy ON app.document_versions;
CREATE TRIGGER keep_copy AFTER INSERT ON app.document_versions FOR EACH ROW EXECUTE FUNCTION app.keep_copy();
"""
IN_USE = f"DO $in_use$ BEGIN IF EXISTS (SELECT FROM catalog.placements) THEN {KEEP_COPIES} END IF; END $in_use$"
VECTOR_INDEX = "ix_document_search_vector"


def upgrade() -> None:
    op.execute(IN_USE)
    upgrade_tenant("app")


def upgrade_tenant(schema: str) -> None:
    """Without copies: no release before this one knows of schemas of tenants."""
    op.execute(f"ALTER TABLE {quoted(schema, 'documents')} SET (fillfactor = 60)")
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted(schema, VECTOR_INDEX)}")


def downgrade() -> None:
    """Writes the copies back. Processes of this release must not run: after it they would leave documents without."""
    with op.get_context().autocommit_block():
        change_copies(WRITE_COPIES, op.get_bind().engine)
    downgrade_tenant("app")
    op.execute("DROP TRIGGER IF EXISTS keep_copy ON app.document_versions")
    op.execute("DROP FUNCTION IF EXISTS app.keep_copy()")


def downgrade_tenant(schema: str) -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted(schema, VECTOR_INDEX)}")  # half made, by an earlier try
        table = quoted(schema, "document_search")
        op.execute(f"CREATE INDEX CONCURRENTLY {VECTOR_INDEX} ON {table} USING gin (vector)")
    op.execute(f"ALTER TABLE {quoted(schema, 'documents')} RESET (fillfactor)")

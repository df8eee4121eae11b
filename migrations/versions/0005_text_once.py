"""The present text of a document is stored once, in its latest version; an index that nothing used goes.

Processes of the release before look for the present text in the document, so a trigger copies it there until
`migrations.contract` takes it away. Where there is no organization yet, nobody misses anything: there is no trigger.

The index of the vectors serves no search: row-level security comes before `@@`, which is not leakproof.
"""

from alembic import op

from docworker.migrations.contract import WRITE_COPIES, change_copies

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
VECTOR_INDEX = "app.ix_document_search_vector"


def upgrade() -> None:
    op.execute(IN_USE)
    op.execute("ALTER TABLE app.documents SET (fillfactor = 60)")
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {VECTOR_INDEX}")


def downgrade() -> None:
    """Writes the copies back. Processes of this release must not run: after it they would leave documents without."""
    with op.get_context().autocommit_block():
        change_copies(WRITE_COPIES)
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {VECTOR_INDEX}")  # half made, by an earlier try
        op.execute(
            f"CREATE INDEX CONCURRENTLY {VECTOR_INDEX.removeprefix('app.')} ON app.document_search USING gin (vector)"
        )
    op.execute("ALTER TABLE app.documents RESET (fillfactor)")
    op.execute("DROP TRIGGER IF EXISTS keep_copy ON app.document_versions")
    op.execute("DROP FUNCTION IF EXISTS app.keep_copy()")

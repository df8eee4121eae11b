"""`contract()`: takes out of the database what only processes of the release before this one need.

Run it when none of them runs any more. Every step may be repeated, and interrupted anywhere.
"""

from uuid import UUID

from sqlalchemy import Connection, Engine, TextClause, text

from docworker.db.cluster.engines import owner_engine
from docworker.db.settings import settings

CHUNK = 1000
"""How many documents are changed in one transaction."""

_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '5s'")
_ORGANIZATIONS = text("SELECT organization_id FROM catalog.placements ORDER BY organization_id")
_SET_ORGANIZATION = text("SELECT set_config('docworker.organization_id', :id, true)")
_KEEPS_COPIES = text("SELECT to_regprocedure('app.keep_copy()') IS NOT NULL")

# Which version is the latest one, and what the document holds, is looked at again for a row that somebody has changed
# meanwhile. `version` stays: the present text is the same before and after.
_CHANGE_COPIES = """
WITH chunk AS (
    SELECT id FROM app.documents
    WHERE organization_id = :organization AND id > :after AND latest_version > 0 AND content IS {present}
    ORDER BY id LIMIT :most FOR NO KEY UPDATE
), changed AS (
    UPDATE app.documents AS document SET content = {copy}
    FROM chunk JOIN app.document_versions AS version
      ON version.organization_id = :organization AND version.document_id = chunk.id
    WHERE document.organization_id = :organization AND document.id = chunk.id
      AND version.version_number = document.latest_version AND {condition}
)
SELECT id FROM chunk ORDER BY id DESC LIMIT 1
"""
REMOVE_COPIES = text(
    _CHANGE_COPIES.format(present="NOT NULL", copy="NULL", condition="document.content = version.content")
)
WRITE_COPIES = text(_CHANGE_COPIES.format(present="NULL", copy="version.content", condition="document.content IS NULL"))


def keeps_copies() -> bool:
    """Whether the present text is also kept in the document, for processes of the release before."""
    with _engine().connect() as connection:
        return bool(connection.scalar(_KEEPS_COPIES))


def contract() -> None:
    """Keep no copies of texts in documents any more, and remove those that are there."""
    with _engine().begin() as connection:
        connection.execute(_LOCK_TIMEOUT)
        connection.execute(text("DROP TRIGGER IF EXISTS keep_copy ON app.document_versions"))
        connection.execute(text("DROP FUNCTION IF EXISTS app.keep_copy()"))
    change_copies(REMOVE_COPIES, _engine())


def change_copies(statement: TextClause, engine: Engine) -> None:
    """Run a statement for the documents of each organization in this database's catalog, a chunk a transaction."""
    with engine.connect() as connection:
        organizations = connection.scalars(_ORGANIZATIONS).all()
        connection.rollback()
        for organization_id in organizations:
            after: UUID | None = UUID(int=0)
            while after is not None:
                after = _change_chunk(connection, statement, organization_id, after)


def _change_chunk(connection: Connection, statement: TextClause, organization_id: UUID, after: UUID) -> UUID | None:
    """The owner is under row-level security as well: it names the organization like everybody else."""
    with connection.begin():
        connection.execute(_LOCK_TIMEOUT)
        connection.execute(_SET_ORGANIZATION, {"id": str(organization_id)})
        last: UUID | None = connection.scalar(
            statement, {"organization": organization_id, "after": after, "most": CHUNK}
        )
        return last


def _engine() -> Engine:
    return owner_engine(settings())

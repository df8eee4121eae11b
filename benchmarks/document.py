"""`write_document`: one document as a job of any queue writes it, with the means of SQLAlchemy's tutorial.

One session to read from the replica, one to write to the master; optimistic locking by `version_id_col`. Same tables,
same roles, same step as docworker's own jobs.
"""

from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from benchmarks.kinds import normalize
from docworker.db.documents.reading import Unprocessed
from docworker.db.models import Document, DocumentStatus, DocumentVersion
from docworker.db.settings import settings


@cache
def engine(url: str) -> Engine:
    """An engine of this process's own: it is made by its first job, after any fork."""
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"), pool_pre_ping=True)


@event.listens_for(Session, "after_begin")
def set_organization(session: Session, _transaction: object, connection: Any) -> None:
    """The tables are under row-level security for all sides."""
    if "organization_id" in session.info:
        connection.execute(
            text("SELECT set_config('docworker.organization_id', :id, true)"),
            {"id": str(session.info["organization_id"])},
        )


def write_document(organization_id: str, document_id: str) -> None:
    """Read, normalize, write a version. Raises StaleDataError when the document has changed meanwhile."""
    key = (UUID(organization_id), UUID(document_id))
    info = {"organization_id": organization_id}
    with Session(engine(settings().replica_urls[0]), info=info, expire_on_commit=False) as session:
        document = session.get_one(Document, key)
    new = normalize(Unprocessed(key[1], document.version, "", None, None, document.content), None)
    with Session(engine(settings().master_database_url()), info=info) as session, session.begin():
        session.add(document)
        document.unprocessed_content, document.content_sha256 = None, new.content_sha256
        document.status = DocumentStatus.PROCESSED
        document.latest_version += 1
        session.flush()
        session.add(
            DocumentVersion(
                organization_id=key[0],
                document_id=key[1],
                version_number=document.latest_version,
                content=new.content,
                content_sha256=new.content_sha256,
                pipeline=new.pipeline,
            )
        )

"""An organization with a tree of documents and versions in it, written straight into the database."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from docworker.db.cluster import close_database, open_database
from docworker.db.documents.folders import ensure_folders
from docworker.db.documents.reading import parse_path
from docworker.db.documents.search import index_documents
from docworker.db.models import Document, DocumentStatus, DocumentVersion
from docworker.db.sessions import writing
from docworker.db.settings import settings
from tests.support.tenants import Tenant


class Library(Tenant):
    """A new organization in the open database."""

    def write(self, path: str, *texts: str, title: str | None = None, index: bool = True) -> UUID:
        """A document at `path` with a version for each text; pending when there is none."""
        *folders, filename = parse_path(path)
        with writing(self.id) as session:
            folder_id = ensure_folders(session, [tuple(folders)])[tuple(folders)]
            document = Document(
                organization_id=self.id,
                folder_id=folder_id,
                filename=filename,
                title=title,
                status=DocumentStatus.PROCESSED if texts else DocumentStatus.PENDING,
                latest_version=len(texts),
            )
            session.add(document)
            session.flush()
            for number, text in enumerate(texts, 1):
                session.add(
                    DocumentVersion(
                        organization_id=self.id,
                        document_id=document.id,
                        version_number=number,
                        title=title,
                        content=text,
                        content_sha256=hashlib.sha256(text.encode()).hexdigest(),
                        facts={"words": len(text.split())},
                        pipeline="tests/1",
                    )
                )
            session.flush()
            if index:
                index_documents(session, [document.id])
        return document.id


@contextmanager
def opened_database() -> Iterator[None]:
    """The database that the settings in force describe, open in this process."""
    open_database(settings(), application_name="tests")
    try:
        yield
    finally:
        close_database()

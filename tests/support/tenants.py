"""An organization with documents, for tests that need a tenant or two."""

import hashlib
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from docworker.db.catalog import AT_HOME, Place, place_of
from docworker.db.cluster import database
from docworker.db.documents.folders import ensure_folders
from docworker.db.documents.reading import parse_path
from docworker.db.documents.search import load_texts, terms_of, write_terms
from docworker.db.errors import UnavailableOrganizationError
from docworker.db.models import Document, DocumentStatus, DocumentVersion, Placement
from docworker.db.models.base import new_id
from docworker.db.sessions import organization_of, reading, writing
from docworker.db.tenants.organizations import create_organization

_VERSIONS_AND_JOBS = text("""
SELECT version.document_id, version.version_number, version.content, job.arguments ->> 'document_id'
FROM app.document_versions AS version
JOIN ledger.jobs AS job ON job.organization_id = version.organization_id AND job.id = version.job_id
""")


def index(session: Session, document_ids: Sequence[UUID]) -> int:
    """As the job `index_documents` does it, in one session."""
    organization_id = organization_of(session)
    return write_terms(session, [terms_of(organization_id, one) for one in load_texts(session, document_ids)])


def entered(organization_id: UUID | None = None, at: Place = AT_HOME) -> UUID:
    """An organization that the catalog knows, and of which there is nothing else yet."""
    organization_id = organization_id or new_id()
    placement = {
        "organization_id": organization_id,
        "slug": f"entered-{organization_id.hex}",
        "cluster": at.cluster,
        "schema": at.schema,
        "database": at.database,
    }
    with writing(None) as session:
        session.execute(insert(Placement).values(placement).on_conflict_do_nothing())
    return organization_id


def is_served(organization_id: UUID) -> bool:
    """By what this process believes."""
    try:
        place_of(organization_id, database())
    except UnavailableOrganizationError:
        return False
    return True


class Tenant:
    """A new organization in the open database, and short words for what is in it."""

    def __init__(self) -> None:
        self.slug = f"tenant-{new_id().hex}"
        self.id = create_organization(self.slug)

    def add(self, *texts: str) -> list[UUID]:
        """Documents with these texts, not processed yet."""
        documents = [
            Document(organization_id=self.id, id=new_id(), filename=f"{number}-{new_id()}.txt", content=text)
            for number, text in enumerate(texts)
        ]
        with writing(self.id) as session:
            session.add_all(documents)
        return [document.id for document in documents]

    def write(
        self, path: str, *texts: str, title: str | None = None, language: str | None = None, indexed: bool = True
    ) -> UUID:
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
                        facts={"words": len(text.split())} | ({"language": language} if language else {}),
                        pipeline="tests/1",
                    )
                )
            session.flush()
            if indexed:
                index(session, [document.id])
        return document.id

    def get(self, document_id: UUID) -> Document:
        with reading(self.id, source="master") as session:
            return session.get_one(Document, (self.id, document_id))

    def versions(self, document_id: UUID) -> list[DocumentVersion]:
        with reading(self.id, source="master") as session:
            return (
                session.query(DocumentVersion)
                .filter_by(document_id=document_id)
                .order_by(DocumentVersion.version_number)
                .all()
            )

    def versions_and_jobs(self) -> dict[UUID, list[tuple[int, str, str]]]:
        """Number, text, and the document that its job was for, of each version by document."""
        with reading(self.id, source="master") as session:
            found: dict[UUID, list[tuple[int, str, str]]] = {}
            for document_id, number, content, meant in session.execute(_VERSIONS_AND_JOBS):
                found.setdefault(document_id, []).append((number, content.strip(), meant))
        return found

    def change(self, document_id: UUID, text: str) -> None:
        """Somebody else writes the document."""
        with writing(self.id) as session:
            session.get_one(Document, (self.id, document_id)).content = text

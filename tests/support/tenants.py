"""An organization with documents, for tests that need a tenant or two."""

from uuid import UUID

from docworker.db.models import Document, DocumentVersion
from docworker.db.models.base import new_id
from docworker.db.sessions import reading, writing
from docworker.db.tenants.organizations import create_organization


class Tenant:
    """An organization and short words for what is in it."""

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

    def change(self, document_id: UUID, text: str) -> None:
        """Somebody else writes the document."""
        with writing(self.id) as session:
            session.get_one(Document, (self.id, document_id)).content = text

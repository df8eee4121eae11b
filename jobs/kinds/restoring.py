"""`restore`: an old version becomes the newest one again, here and now; `process_from_source`: and back."""

from uuid import UUID

from docworker.db.documents.versions import Outcome, restore_version
from docworker.db.documents.versions.locking import lock_document
from docworker.db.models import DocumentStatus
from docworker.db.sessions import writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document, while_others_are_faster
from docworker.jobs.kinds.indexing import enqueue_indexing


def restore(organization_id: UUID, document_id: UUID, version_number: int) -> Outcome:
    """Write a new version with the content of an old one, here and now; again while others are faster.

    Raises NotFoundError when there is no such document or version.
    """

    def once() -> Outcome:
        with writing(organization_id) as session:
            with session.begin_nested():
                outcome = restore_version(session, document_id, version_number)
            enqueue_indexing(session, {document_id: outcome})
        return outcome

    return while_others_are_faster()(once)


def process_from_source(organization_id: UUID, document_id: UUID) -> UUID:
    """Have a document processed again although somebody has brought its text back; returns the job's id.

    Raises NotFoundError.
    """
    with writing(organization_id) as session:
        lock_document(session, document_id).status = DocumentStatus.PENDING
        return enqueue(session, process_document, document_id=document_id)

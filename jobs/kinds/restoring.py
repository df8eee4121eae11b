"""`restore`: an old version becomes the newest one again, here and now."""

from uuid import UUID

from docworker.db.documents.versions import Outcome, restore_version
from docworker.db.sessions import writing
from docworker.jobs.kinds.documents import while_others_are_faster
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

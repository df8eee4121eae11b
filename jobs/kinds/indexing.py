"""`index_documents`: the full-text index follows each new version, in a job that commits with it."""

from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.documents.search import index_documents as write_search_vectors
from docworker.db.documents.versions import Outcome, Written
from docworker.jobs.enqueue import enqueue
from docworker.jobs.execution.attempts import Attempt
from docworker.jobs.task import job


def enqueue_indexing(session: Session, outcomes: dict[UUID, Outcome]) -> None:
    """Have the full text of new versions indexed soon, by a job that commits with them."""
    changed = sorted(document_id for document_id, one in outcomes.items() if one.written is Written.VERSION)
    if changed:
        enqueue(session, index_documents, document_ids=changed)


@job(priority=7, soft_limit_seconds=60, hard_limit_seconds=90)
def index_documents(attempt: Attempt, document_ids: list[UUID]) -> None:
    """Fill the full-text index with the latest text of these documents."""

    def effect(session: Session) -> None:
        write_search_vectors(session, document_ids)

    attempt.finish(effect)

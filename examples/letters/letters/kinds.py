"""`count_words`: of one document. `archive_letters`: many at a time."""

from functools import partial
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from docworker import Arguments, Attempt, Batch, Document, batch_job, job


@job(soft_limit_seconds=60, hard_limit_seconds=90)
def count_words(attempt: Attempt, document_id: UUID) -> None:
    """How many words a document has, as its title and as the job's result."""
    document = attempt.read(lambda session: session.get_one(Document, (attempt.organization_id, document_id)))
    words = len((document.content or "").split())  # no connection is held here

    def effect(session: Session) -> dict[str, int]:
        session.get_one(Document, (attempt.organization_id, document_id)).title = f"{words} words"
        return {"words": words}

    attempt.finish(effect)


class Letter(Arguments):
    """The arguments of one job of `archive_letters`."""

    document_id: UUID


@batch_job(arguments=Letter)
def archive_letters(batch: Batch[Letter]) -> None:
    """Give letters a title: one query reads them all, each is settled by itself, and one that is not there is left
    unsettled, and so has failed."""
    attempts = {attempt.arguments.document_id: attempt for attempt in batch.starting()}
    wanted = select(Document.id, Document.filename).where(Document.id.in_(attempts))
    for document_id, filename in batch.read(lambda session: session.execute(wanted).all()):
        attempts[document_id].finish(partial(_archive, batch.organization_id, document_id, filename))


def _archive(organization_id: UUID, document_id: UUID, filename: str, session: Session) -> dict[str, str]:
    session.get_one(Document, (organization_id, document_id)).title = f"Archive: {filename}"
    return {"archived": filename}

"""`process_folder` and `process_organization`: one job that makes many, one for each document.

Children are made in chunks; a chunk and the parent's cursor commit together under the parent's token, so a kill between
two chunks neither repeats nor skips one. How far the children are is counted in the ledger: `docworker jobs watch`.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, not_, or_, select
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.documents.folders import subtree
from docworker.db.errors import NotFoundError
from docworker.db.models import Document, DocumentStatus, Folder, Job
from docworker.db.sessions import writing
from docworker.jobs.enqueue import enqueue_many
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.pipeline.registry import installed_signature
from docworker.jobs.task import Attempt, job

CHUNK = 1000


@job(soft_limit_seconds=1500, hard_limit_seconds=1800)
def process_folder(attempt: Attempt, folder_id: UUID, force: bool = False) -> None:
    """Process the live documents in a folder and the folders below it, as `process_organization` does."""
    folder = attempt.read(lambda session: session.get(Folder, (attempt.organization_id, folder_id)))
    if folder is None or folder.deleted_at is not None:
        raise NotFoundError(f"no folder {folder_id} in this organization: it never was, or has been deleted")
    inside = subtree(attempt.organization_id, folder_id)
    _fan_out(attempt, select(Document.id).where(Document.folder_id.in_(select(inside.c.id))), force=force)


@job(soft_limit_seconds=1500, hard_limit_seconds=1800)
def process_organization(attempt: Attempt, force: bool = False) -> None:
    """Process the live documents of the organization whose text these very processors have not made of what they are
    now, and none that is unsupported or known to be bad to these; with `force`, all. The children get the priority
    of this job."""
    _fan_out(attempt, select(Document.id), force=force)


def _fan_out(attempt: Attempt, documents: Select[UUID], *, force: bool) -> None:
    """The cursor is a place in the primary key, not in time: a document that comes while this runs is processed by the
    job that its producer enqueues."""
    ours = documents.where(Document.organization_id == attempt.organization_id, Document.is_live).order_by(Document.id)
    if not force:
        ours = ours.where(_is_to_be_processed())
    after = UUID((attempt.claimed.cursor or {}).get("after", str(UUID(int=0))))
    while not attempt.should_stop:
        with writing(attempt.organization_id) as session:
            if not ledger.lock_owned(session, [attempt.claimed]):
                break
            chunk = session.scalars(ours.where(Document.id > after).limit(CHUNK)).all()
            if not chunk:
                ledger.succeed(session, [(attempt.claimed, None)])
            else:
                after = chunk[-1]
                _add_children(session, attempt, chunk)
        if not chunk:
            attempt.settle(ledger.AttemptEnd.SUCCEEDED)
            return


def _is_to_be_processed() -> ColumnElement[bool]:
    """A document whose source changes is set to be pending."""
    signature = installed_signature()
    return and_(
        or_(
            Document.status.in_((DocumentStatus.PENDING, DocumentStatus.FAILED)),
            Document.unprocessed_content.is_not(None),
            and_(Document.status == DocumentStatus.PROCESSED, Document.is_stale(signature)),
        ),
        not_(Document.is_known_bad(signature)),
    )


def _add_children(session: Session, attempt: Attempt, chunk: Sequence[UUID]) -> None:
    parent = session.get_one(Job, (attempt.organization_id, attempt.id))
    arguments = [{"document_id": one} for one in chunk]
    enqueue_many(session, process_document, arguments, parent_id=parent.id, priority=parent.priority)
    ledger.record_cursor(
        session,
        attempt.claimed,
        {"after": str(chunk[-1])},
        children_added=len(chunk),
        lease_seconds=database().settings.lease,
    )

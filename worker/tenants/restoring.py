"""`restore_tenant`: an organization, a folder or a document as it was at a moment, in short transactions.

Interrupted, it is run again: what is as it was then is left as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from docworker.db.documents.reading import parse_path, path_text
from docworker.db.documents.restoring import BROUGHT_BACK, Finding, Restoring, Scope, documents_at, folders_at
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models import Document, Organization
from docworker.db.retrying import again, is_conflict, may_pass
from docworker.db.sessions import reading, writing
from docworker.db.tenants.organizations import organization_id_of
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.indexing import index_documents
from docworker.worker.tenants.owner import only_one_for

_CHUNK_DOCUMENTS = 200
_TRIES = 5


def restore_tenant(
    slug: str,
    to: datetime,
    *,
    actor: str = "docworker",
    folder: str | None = None,
    document: str | None = None,
    dry_run: bool = False,
    on_found: Callable[[int], None] = lambda _: None,
) -> Iterator[Finding]:
    """Bring back what an organization had at `to`, or what was below a folder, or one document, by its id or its path;
    with `dry_run` only find out. The audit log says that `actor` did it. `on_found` is told how many documents are
    looked at.

    Raises InvalidArgumentError for a moment without an offset from UTC, in the future, or before the organization was
    made, and NotFoundError where there was nothing of that name.
    """
    if to.tzinfo is None:
        raise InvalidArgumentError(
            f"{to.isoformat()} may be meant in any time zone: give its offset as well, such as {to.isoformat()}+00:00"
        )
    organization_id = organization_id_of(slug)
    with nullcontext() if dry_run else only_one_for(slug):
        with reading(organization_id, source="master") as session:
            _check_moment(session, slug, to)
            scope = _scope(session, to, folder, document)
            restoring = Restoring(to, scope, actor=actor, dry_run=dry_run)
            on_found(restoring.count(session))
        yield from _run(organization_id, restoring, restoring.folders)
        after: UUID | None = None
        while chunk := _run(
            organization_id, restoring, partial(restoring.documents, after=after, most=_CHUNK_DOCUMENTS)
        ):
            yield from chunk
            after = chunk[-1].id
        with reading(organization_id, source="master") as session:
            yield from restoring.purged(session)


def _check_moment(session: Session, slug: str, moment: datetime) -> None:
    now, made = session.execute(select(func.clock_timestamp(), Organization.created_at)).one()
    if moment > now:
        raise InvalidArgumentError(
            f"{moment.isoformat()} is in the future, by the clock of the master, where it is {now.isoformat()}"
        )
    if moment < made:
        raise InvalidArgumentError(
            f"the organization {slug!r} was made at {made.isoformat()}: there is nothing of {moment.isoformat()}"
        )


def _scope(session: Session, moment: datetime, folder: str | None, document: str | None) -> Scope:
    if folder is not None and document is not None:
        raise InvalidArgumentError("give a folder or a document, not both")
    if document is not None:
        return Scope(document_ids=_document_ids(session, moment, document))
    path = parse_path(folder or "/")
    if not path:
        return Scope()
    found = folders_at(session, path, moment)
    if not found:
        raise NotFoundError(f"this organization had no folder {path_text(path)!r} then, and has none now")
    return Scope(folder_ids=tuple(found))


def _document_ids(session: Session, moment: datetime, reference: str) -> tuple[UUID, ...]:
    """An id is taken as it is, if there is anything of it: the document may be gone for good."""
    try:
        wanted = UUID(reference)
    except ValueError:
        path = parse_path(reference)
        found = documents_at(session, path, moment) if path else []
    else:
        scope = Scope(document_ids=(wanted,))
        is_there = session.scalar(select(Document.id).where(Document.id == wanted))
        found = [wanted] if is_there or Restoring(moment, scope).purged(session) else []
    if not found:
        raise NotFoundError(f"this organization had no document {reference!r} then, and has none now")
    return tuple(found)


def _run(organization_id: UUID, restoring: Restoring, step: Callable[[Session], list[Finding]]) -> list[Finding]:
    """A transaction, again while others are in the way."""

    def once() -> list[Finding]:
        if restoring.dry_run:
            with reading(organization_id, source="master") as session:
                return step(session)
        with writing(organization_id) as session:
            findings = step(session)
            changed = [one.id for one in findings if one.found in BROUGHT_BACK and not one.is_folder]
            if changed:
                enqueue(session, index_documents, document_ids=changed)
            return findings

    return again(retry_on=_is_in_the_way, times=_TRIES)(once)


def _is_in_the_way(error: BaseException) -> bool:
    """Somebody who takes the place of a document just when it is brought back is found at the next try."""
    return is_conflict(error) or may_pass(error) or isinstance(error, IntegrityError)

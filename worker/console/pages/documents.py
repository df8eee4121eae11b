"""`PAGE`: the documents of an organization, by folder and state or by what is looked for; `of_document`, `seen`: for
the pages of one document.

Read as the organization's own sessions read, under its row-level security, wherever it is. What shows something of a
text is an entry in the organization's audit log before it is shown.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from docworker.db.documents.listing import latest_of
from docworker.db.documents.reading import DocumentEntry, Filters, find_document, folder_at, parse_path
from docworker.db.documents.search import search_documents
from docworker.db.documents.search.finding import MOST_RANKED
from docworker.db.editing.audit import Doing, on_record
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models import DocumentStatus
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.worker.console.page import Page
from docworker.worker.console.view import SEES_DOCUMENTS, View

_SHOWN = 50
_FOUND = 20
STATUSES = [str(status) for status in DocumentStatus]
PATH = "/documents"


def owner_of(view: View) -> UUID:
    """The organization that the address names. Raises InvalidArgumentError where it names none, NotFoundError for one
    that has no documents."""
    owner = view.organization()
    if owner is None:
        raise InvalidArgumentError("name the organization whose document it is")
    if owner == SYSTEM_ORGANIZATION_ID:
        raise NotFoundError("the installation's own jobs have no documents")
    return owner


@contextmanager
def seen(view: View, owner: UUID, action: str, document_id: UUID | None, **what: Any) -> Iterator[Doing]:
    """What is read in the block is put on record at its end, in the organization's log; where that cannot be, it
    raises, and nothing is shown."""
    with on_record(action, actor=view.actor, subject="document", organization_id=owner, **what) as doing:
        doing.subject_id = document_id
        yield doing


def of_document(view: View) -> tuple[UUID, DocumentEntry]:
    """Whose document, and which, the address names. Raises NotFoundError."""
    owner, document_id = owner_of(view), view.path_id("document_id", "document")
    return owner, find_document(owner, str(document_id))


def _show(view: View) -> Mapping[str, Any]:
    asked = {name: view.asked(name) for name in ("organization", "q", "folder", "status")}
    shown: dict[str, Any] = {"asked": asked, "statuses": STATUSES, "documents": [], "hits": None, "following": None}
    if asked["organization"] is None:
        return {**shown, "is_first": True}
    owner = owner_of(view)
    status = asked["status"]
    if status is not None and status not in STATUSES:
        raise InvalidArgumentError(f"{status[:100]!r} is no state: choose one of {', '.join(STATUSES)}")
    filters = Filters(folder_at(owner, parse_path(asked["folder"] or "/")), status)
    if asked["q"] is not None:
        return {**shown, **_found(view, owner, asked, filters)}
    documents = latest_of(owner, filters, before=view.asked_id("behind"), most=_SHOWN)
    following = {**asked, "behind": documents[-1].id} if len(documents) == _SHOWN else None
    is_first = view.asked("behind") is None
    return {**shown, "documents": documents, "following": following, "is_first": is_first}


def _found(view: View, owner: UUID, asked: Mapping[str, str | None], filters: Filters) -> Mapping[str, Any]:
    words = asked["q"] or ""
    offset = view.asked_number("from", most=MOST_RANKED - _FOUND) or 0
    with seen(view, owner, "searched", None, words=words) as doing:
        hits = search_documents(owner, words, limit=_FOUND, offset=offset, filters=filters)
        doing.details["documents"] = [str(one.document_id) for one in hits]
    is_more = len(hits) == _FOUND and offset + 2 * _FOUND <= MOST_RANKED
    following = {**asked, "from": offset + _FOUND} if is_more else None
    return {"hits": hits, "following": following, "is_first": offset == 0}


PAGE = Page("documents", PATH, "Documents", _show, "Documents", role=SEES_DOCUMENTS)

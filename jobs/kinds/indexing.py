"""`index_documents`: the full-text index follows each new version, in a job that commits with it; `index_organization`
goes over what it does not know, page by page behind the governor."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.documents.search import load_texts, terms_of, unindexed, write_terms
from docworker.db.documents.search.indexing import IndexedTerms
from docworker.db.documents.versions import Outcome, Written
from docworker.db.ledger import AttemptEnd
from docworker.db.models import DocumentSearch
from docworker.db.sessions import writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.execution.attempts import Attempt
from docworker.jobs.kinds.pages import PagedRun, PageProgress
from docworker.jobs.task import job

TEXTS_AT_ONCE = 20
"""A text may have megabytes."""
PAGE_SECONDS = 10.0
"""What is made in this time is written, so that long texts after short ones are no page without end."""

_BEFORE_ALL = str(UUID(int=0))


@dataclass(frozen=True)
class IndexedPages(PageProgress):
    """How far an organization is; kept as the job's cursor, and at the end as its result."""

    indexed: int = 0


def enqueue_indexing(session: Session, outcomes: dict[UUID, Outcome]) -> None:
    """Have the full text of new versions indexed soon, by a job that commits with them."""
    changed = sorted(document_id for document_id, one in outcomes.items() if one.written is Written.VERSION)
    if changed:
        enqueue(session, index_documents, document_ids=changed)


@job(priority=7, soft_limit_seconds=60, hard_limit_seconds=90)
def index_documents(attempt: Attempt, document_ids: list[UUID]) -> None:
    """Fill the full-text index with the latest text of these documents; what takes longer than a page may is left to
    a job of its own, which commits with what was made."""
    rest = sorted(document_ids)
    terms: list[IndexedTerms] = []
    for last, made in _terms(attempt, rest, time.monotonic() + PAGE_SECONDS):
        terms.extend(made)
        rest = [one for one in rest if one > last]

    def effect(session: Session) -> None:
        write_terms(session, terms)
        if rest:
            enqueue(session, index_documents, document_ids=rest)

    attempt.finish(effect)


@job(priority=8, soft_limit_seconds=1500, hard_limit_seconds=1800, max_attempts=3)
def index_organization(attempt: Attempt) -> None:
    """Index what the index knows by an older text, by an older name, or as the release before did."""
    _Run(attempt, str(DocumentSearch.__table__), IndexedPages(**(attempt.claimed.cursor or {}))).go()


class _Run(PagedRun[IndexedPages]):
    def page(self, most: int) -> None:
        after = UUID(self.done.after or _BEFORE_ALL)
        ids = self.attempt.read(partial(unindexed, after=after, most=most))
        terms: list[IndexedTerms] = []
        for last, made in _terms(self.attempt, ids, time.monotonic() + PAGE_SECONDS):
            after = last
            terms.extend(made)
        with writing(self.attempt.organization_id) as session:
            if not self.is_owned(session):
                return
            indexed = self.done.indexed + write_terms(session, terms)
            done = replace(self.timed(self.done), after=str(after), indexed=indexed)
            (self.advance if ids else self.finish)(session, done)
        self.keep(done)
        if not ids:
            self.attempt.settle(AttemptEnd.SUCCEEDED)


def _terms(attempt: Attempt, document_ids: Sequence[UUID], ends_at: float) -> Iterator[tuple[UUID, list[IndexedTerms]]]:
    """Of those that the index does not know, read from a replica, some at a time with the last of their ids, which are
    in order; ends after the text during which it becomes `ends_at`. Texts are let go of as soon as some are indexed."""
    for start in range(0, len(document_ids), TEXTS_AT_ONCE):
        some = document_ids[start : start + TEXTS_AT_ONCE]
        made = []
        for text in attempt.read(partial(load_texts, document_ids=some)):
            made.append(terms_of(attempt.organization_id, text))
            if time.monotonic() > ends_at:
                yield text.document_id, made
                return
        yield some[-1], made

"""`index_documents`: the full-text index follows each new version, in a job that commits with it."""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.documents.search import load_texts, terms_of, unindexed, write_terms
from docworker.db.documents.search.indexing import IndexedTerms
from docworker.db.documents.versions import Outcome, Written
from docworker.db.sessions import writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.execution.attempts import Attempt
from docworker.jobs.task import job

TEXTS_AT_ONCE = 20
"""A text may have megabytes."""
CHUNK = 200


def enqueue_indexing(session: Session, outcomes: dict[UUID, Outcome]) -> None:
    """Have the full text of new versions indexed soon, by a job that commits with them."""
    changed = sorted(document_id for document_id, one in outcomes.items() if one.written is Written.VERSION)
    if changed:
        enqueue(session, index_documents, document_ids=changed)


@job(priority=7, soft_limit_seconds=60, hard_limit_seconds=90)
def index_documents(attempt: Attempt, document_ids: list[UUID]) -> None:
    """Fill the full-text index with the latest text of these documents."""
    terms = _terms(attempt, document_ids)

    def effect(session: Session) -> None:
        write_terms(session, terms)

    attempt.finish(effect)


@job(priority=8, soft_limit_seconds=600, hard_limit_seconds=660, max_attempts=3)
def index_organization(attempt: Attempt) -> None:
    """Index what the index knows by an older text, by an older name, or as the release before did."""
    indexed, after = 0, UUID(int=0)
    while (ids := attempt.read(partial(unindexed, after=after, most=CHUNK))) and not attempt.should_stop:
        terms = _terms(attempt, ids)
        with writing(attempt.organization_id) as session:
            indexed += write_terms(session, terms)
        after = ids[-1]
    if not attempt.saw_stop:
        attempt.finish(lambda _: {"indexed": indexed})


def _terms(attempt: Attempt, document_ids: Sequence[UUID]) -> list[IndexedTerms]:
    """Of those that the index does not know, read from a replica; texts are let go of as soon as they are indexed."""
    made: list[IndexedTerms] = []
    for start in range(0, len(document_ids), TEXTS_AT_ONCE):
        some = document_ids[start : start + TEXTS_AT_ONCE]
        texts = attempt.read(partial(load_texts, document_ids=some))
        made.extend(terms_of(attempt.organization_id, text) for text in texts)
    return made

"""`reprocess_stale`: makes the texts anew that processors of another version made, page by page behind the governor;
`reprocess_sample` shows what that would change, and writes nothing.

One job for each organization and pipeline, so a document is tried once by the same pipeline, whoever asks how often.
What the new processors fail on keeps its text.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID, uuid5

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.documents.reading import Unprocessed, load_unprocessed
from docworker.db.documents.stale import count_stale, stale_after, stale_sample
from docworker.db.documents.versions import NewText, Outcome, Rejected, Written, write_versions
from docworker.db.errors import DocworkerError
from docworker.db.faults import Fault, classify
from docworker.db.ledger import AttemptEnd
from docworker.db.models import Document, Job
from docworker.db.sessions import read, reading, writing
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.kinds.documents import enqueue_attachments, enqueue_recognition, process_document
from docworker.jobs.kinds.indexing import enqueue_indexing
from docworker.jobs.kinds.pages import PagedRun, PageProgress
from docworker.jobs.kinds.processing import pipeline, process
from docworker.jobs.task import Attempt, job

log = structlog.get_logger(__name__)

FIRST_SIZE = 4
"""A document may take a minute."""
PAGE_SECONDS = 10.0
"""What is made in this time is written, so that slow documents after quick ones are no page without end."""
SHOWN_FAILURES = 20
_NAMES = UUID("b0d3c7a4-62c5-4f0e-8a50-5f6e3b1f7d02")


@dataclass(frozen=True)
class Reprocessed(PageProgress):
    """How far an organization is; kept as the job's cursor, and at the end as its result.

    `estimate` is how many were stale at the beginning; `failures` are the last of the documents that failed, with the
    reason, and `forgiven` how many had failed when it last stopped for that.
    """

    documents: int = 0
    changed: int = 0
    failed: int = 0
    forgiven: int = 0
    estimate: int = 0
    failures: Sequence[Sequence[str]] = ()


def job_id_of(organization_id: UUID, signature: str) -> UUID:
    return uuid5(_NAMES, f"{organization_id} {signature}")


def start(organization_id: UUID, signature: str, *, most_failures: int) -> UUID:
    """Begin for an organization; what is done by this pipeline stays done."""
    job_id = job_id_of(organization_id, signature)
    with writing(organization_id) as session:
        enqueue(session, reprocess_stale, id=job_id, signature=signature, most_failures=most_failures)
    return job_id


def progress_of(organization_id: UUID, signature: str) -> tuple[Job, Reprocessed] | None:
    """The job, on the master's word, and how far it is; None where it was never begun."""
    with reading(organization_id, source="master") as session:
        found = session.get(Job, (organization_id, job_id_of(organization_id, signature)))
    return None if found is None else (found, Reprocessed(**(found.result or found.cursor or {})))


@job(priority=9, max_running=1, soft_limit_seconds=1500, hard_limit_seconds=1800)
def reprocess_stale(attempt: Attempt, signature: str, most_failures: int) -> None:
    """Make stale texts of the organization anew; stops when more documents fail than it may. One organization at a
    time."""
    ours = pipeline().signature
    if ours != signature:
        raise DocworkerError(
            f"the pipeline of this worker is {ours!r}, and {signature!r} is asked for: restart the workers with the "
            "release, and the packages, that the command was given in"
        )
    _Run(attempt, signature, most_failures).go()


class _Run(PagedRun[Reprocessed]):
    def __init__(self, attempt: Attempt, signature: str, most_failures: int) -> None:
        done = Reprocessed(**(attempt.claimed.cursor or {}))
        super().__init__(attempt, str(Document.__table__), done, first_size=FIRST_SIZE)
        self._signature, self._most_failures = signature, most_failures
        if not done.estimate:
            estimate = attempt.read(lambda session: count_stale(session, signature))
            self.done = replace(done, estimate=estimate)

    def page(self, most: int) -> None:
        after = None if self.done.after is None else UUID(self.done.after)
        ids = self.attempt.read(lambda session: stale_after(session, self._signature, after, most=most))
        documents = self.attempt.read(lambda session: load_unprocessed(session, ids))
        made: list[NewText | Rejected] = []
        ends_at = time.monotonic() + PAGE_SECONDS
        for number, one in enumerate(ids, 1):
            if one in documents:
                made.append(_try(documents[one], self.attempt.id))
            if time.monotonic() > ends_at:
                ids = ids[:number]
                break
        try:
            self._write(ids, made)
        except DBAPIError as error:
            if classify(error) is not Fault.BAD_INPUT:
                raise
            self._write_apart(made)

    def _write_apart(self, made: Sequence[NewText | Rejected]) -> None:
        """When the database refuses a row, that one alone has failed."""
        for one in made:
            try:
                self._write([one.document_id], [one])
            except DBAPIError as error:
                if classify(error) is not Fault.BAD_INPUT:
                    raise
                self._write([one.document_id], [Rejected(one.document_id, one.read_version, str(error.orig))])
            if self.attempt.settled:
                return

    def _write(self, ids: Sequence[UUID], made: Sequence[NewText | Rejected]) -> None:
        texts = [one for one in made if isinstance(one, NewText)]
        with writing(self.attempt.organization_id) as session:
            if not self.is_owned(session):
                return
            outcomes = write_versions(session, texts)
            enqueue_indexing(session, outcomes)
            enqueue_recognition(session, texts, outcomes)
            enqueue_attachments(session, texts, outcomes)
            _process_later(session, outcomes)
            done = self._counted(ids, made, outcomes)
            stops = done.failed - done.forgiven > self._most_failures
            if stops:
                self.advance(session, replace(done, forgiven=done.failed))
                ledger.fail(session, self.attempt.claimed, _too_many(done, self._most_failures))
            else:
                (self.advance if ids else self.finish)(session, done)
        self.keep(done)
        if stops:
            log.warning("reprocess.stopped", organization=str(self.attempt.organization_id), failed=done.failed)
            self.attempt.settle(AttemptEnd.FAILED)
        elif not ids:
            self.attempt.settle(AttemptEnd.SUCCEEDED)

    def _counted(
        self, ids: Sequence[UUID], made: Sequence[NewText | Rejected], outcomes: dict[UUID, Outcome]
    ) -> Reprocessed:
        done = self.timed(self.done)
        failures = [(str(one.document_id), one.reason[:200]) for one in made if isinstance(one, Rejected)]
        return replace(
            done,
            after=str(ids[-1]) if ids else done.after,
            documents=done.documents + len(made),
            changed=done.changed + sum(one.written is Written.VERSION for one in outcomes.values()),
            failed=done.failed + len(failures),
            failures=[*done.failures, *failures][-SHOWN_FAILURES:],
        )


def _process_later(session: Session, outcomes: dict[UUID, Outcome]) -> None:
    """What was changed meanwhile, if only its name: the job for one document reads it afresh."""
    changed = [{"document_id": one} for one, outcome in outcomes.items() if outcome.written is Written.CONFLICT]
    if changed:
        enqueue_many(session, process_document, changed)


def _too_many(done: Reprocessed, most: int) -> ledger.Failure:
    shown = "; ".join(f"{document_id}: {reason}" for document_id, reason in done.failures)
    return ledger.Failure(
        "TooManyFailures",
        f"stopped: {done.failed - done.forgiven} documents failed, and {most} may; the last ones: {shown}. They keep "
        "their texts. Mend the processors, which makes another version of them, or run it again to go on behind these",
    )


def _try(document: Unprocessed, job_id: UUID) -> NewText | Rejected:
    """As a worker does it; what fails is an answer here, unless the servers are to blame."""
    try:
        return process(document, job_id)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        if classify(error).is_infrastructure:
            raise
        return Rejected(document.id, document.version, f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Tried:
    """A document of a sample: its text now, and what would become of it, or why it would fail."""

    document_id: UUID
    before: str
    after: str | None
    failure: str | None = None

    @property
    def changes(self) -> bool:
        return self.after is not None and self.after != self.before


def reprocess_sample(organization_id: UUID, *, most: int) -> tuple[int, Iterator[Tried]]:
    """How many documents are stale, and some of them processed here, by the pipeline and the sandbox of a worker; all
    of it read from a replica."""
    signature = pipeline().signature
    stale = read(organization_id, lambda session: count_stale(session, signature))
    ids = read(organization_id, lambda session: stale_sample(session, signature, most=most))
    return stale, (one for document_id in ids for one in _tried(organization_id, document_id))


def _tried(organization_id: UUID, document_id: UUID) -> Iterator[Tried]:
    found = read(organization_id, lambda session: load_unprocessed(session, [document_id]))
    text = read(
        organization_id,
        lambda session: session.scalar(
            select(Document.content).where(Document.organization_id == organization_id, Document.id == document_id)
        ),
    )
    if document_id not in found or text is None:
        return  # deleted since
    made = _try(found[document_id], document_id)
    if isinstance(made, Rejected):
        yield Tried(document_id, text, None, made.reason)
    else:
        yield Tried(document_id, text, made.content)

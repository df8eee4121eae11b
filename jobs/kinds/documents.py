"""`process_document`, the main job: documents are read, processed with no connection held, and written as versions.

A batch is read with one query and written with a handful of statements. A document that conflicts or that the
database refuses is set apart, and its own job alone is retried or failed.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from tenacity import Retrying

from docworker.db import ledger
from docworker.db.documents.attachments import is_attachment, write_attachments
from docworker.db.documents.reading import Unprocessed, load_unprocessed
from docworker.db.documents.reconcile import fail_abandoned, fail_pending, reason_of
from docworker.db.documents.source_lock import forgotten_if_dropped
from docworker.db.documents.versions import (
    NewText,
    Outcome,
    Rejected,
    Written,
    reject,
    write_version,
    write_versions,
)
from docworker.db.errors import DocworkerError, NotFoundError
from docworker.db.faults import Fault, classify
from docworker.db.ledger import AttemptEnd
from docworker.db.models import Document, DocumentStatus, Job, JobState
from docworker.db.models.base import any_of
from docworker.db.retrying import again, is_conflict
from docworker.db.sessions import reading, writing
from docworker.jobs import metrics
from docworker.jobs.enqueue import enqueue_many
from docworker.jobs.execution.attempts import Attempt, Batch, settle
from docworker.jobs.execution.outcomes import settle_error
from docworker.jobs.kind import Arguments
from docworker.jobs.kinds.attachments import attached_files, keep_again, may_have_attachments
from docworker.jobs.kinds.indexing import enqueue_indexing
from docworker.jobs.kinds.processing import process
from docworker.jobs.kinds.recognition import StoppedError, needs_recognition, recognized
from docworker.jobs.pipeline.tesseract import is_installed
from docworker.jobs.task import batch_job, job

log = structlog.get_logger(__name__)
Result = NewText | Rejected

COMMIT_EVERY_SECONDS = 2.0
COMMIT_EVERY_CHARACTERS = 8 * 1024 * 1024
"""Slow documents are committed in parts, so that a crash costs seconds and not a batch; and long ones, so that a
process holds a few of them and not a batch."""


class ProcessDocument(Arguments):
    document_id: UUID


def fail_document(session: Session, job_id: UUID, arguments: dict[str, Any], failure: ledger.Failure) -> None:
    """A document whose job has failed for good is not left to wait for one."""
    document_id = _document_named(arguments)
    if document_id is not None:
        fail_pending(session, document_id, reason_of(job_id, failure.error_class, failure.message))


def _document_named(arguments: dict[str, Any]) -> UUID | None:
    """None where the job of these arguments names no document."""
    try:
        return UUID(arguments["document_id"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


_TOLD_AT_ONCE = 10_000


def fail_cancelled(organization_id: UUID, job_ids: Sequence[UUID]) -> None:
    """Have documents say at once that their jobs, among these, were cancelled, unless another job will process them.

    Raises UnavailableOrganizationError where nobody may write; `reconcile_documents` finds them later then.
    """
    kind = process_document.kind.name
    with writing(organization_id) as session:
        cancelled = session.scalars(
            select(Job.arguments).where(
                Job.organization_id == organization_id,
                Job.id == any_of(job_ids),
                Job.kind == kind,
                Job.state == JobState.CANCELLED,
            )
        )
        named = (_document_named(arguments) for arguments in cancelled)
        fail_abandoned(session, [one for one in named if one is not None], kind=kind)


def tell_cancelled(job_ids: Sequence[UUID], opened: Callable[[], AbstractContextManager[Session]]) -> None:
    """`fail_cancelled` for those of these jobs that process documents, of whichever organizations they are; where that
    cannot be done now `reconcile_documents` does it later. `opened` gives a session of the dispatcher's role."""
    kind = process_document.kind.name
    for start in range(0, len(job_ids), _TOLD_AT_ONCE):
        with opened() as session:
            jobs_of = ledger.by_organization(session, job_ids[start : start + _TOLD_AT_ONCE], kind=kind)
        for owner, ids in jobs_of.items():
            with suppress(DocworkerError, DBAPIError):
                fail_cancelled(owner, ids)


@batch_job(arguments=ProcessDocument, soft_limit_seconds=240, hard_limit_seconds=300, on_failure=fail_document)
def process_document(batch: Batch[ProcessDocument]) -> None:
    """Extract, normalize and describe a document, and keep the result as a new version if it differs."""
    process_documents(batch, process)


@job(priority=8, max_running=2, soft_limit_seconds=1740, hard_limit_seconds=1800, max_attempts=3)
def recognize_document(attempt: Attempt, document_id: UUID) -> None:  # noqa: ARG001 -- an argument of the job
    """Recognise the text in pages that hold pictures, and keep the document with it as a new version."""
    with suppress(StoppedError):  # given back
        process_one(attempt, lambda document, job_id: recognized(document, job_id, lambda: attempt.should_stop))


@job(soft_limit_seconds=240, hard_limit_seconds=300)
def keep_attachments(attempt: Attempt, document_id: UUID) -> None:
    """Have the files in a mail, and in the mails in it, become documents in a folder beside it, each processed by a job
    of its own. A mail that is such a document itself has none of its own."""
    with reading(attempt.organization_id, source="master") as session:
        is_inner = is_attachment(session, document_id)
        mail = None if is_inner else load_unprocessed(session, [document_id]).get(document_id)
    files = [] if mail is None else attached_files(attempt.organization_id, mail)

    def effect(session: Session) -> dict[str, Any] | None:
        kept = None if mail is None else write_attachments(session, mail, [file for file, _ in files])
        if kept is None:
            return None
        if kept.pending:
            arguments = [{"document_id": one} for one in kept.pending]
            enqueue_many(session, process_document, arguments, unique_keys=map(str, kept.pending))
        return {"new": len(kept.new), "changed": len(kept.changed), "gone": kept.gone}

    with forgotten_if_dropped(attempt.organization_id, [file.source.key for file, _ in files]):
        attempt.finish(effect)
    keep_again(attempt.organization_id, files)


def enqueue_attachments(session: Session, results: Iterable[Result], outcomes: Mapping[UUID, Outcome]) -> None:
    """Have the files in these mails become documents, by jobs that commit with the mails' texts; those in a mail's
    earlier versions may be gone."""
    mails = [one.document_id for one in results if may_have_attachments(one, outcomes[one.document_id])]
    if mails:
        arguments = [{"document_id": one} for one in mails]
        enqueue_many(session, keep_attachments, arguments, unique_keys=[str(one) for one in mails])


def enqueue_recognition(session: Session, results: Iterable[Result], outcomes: Mapping[UUID, Outcome]) -> None:
    """Have the pictures in these documents read, where Tesseract is installed, by jobs that commit with them."""
    kept = (Written.VERSION, Written.UNCHANGED, Written.REJECTED)
    pending = [
        one.document_id for one in results if needs_recognition(one) and outcomes[one.document_id].written in kept
    ]
    if pending and is_installed():
        arguments = [{"document_id": one} for one in pending]
        enqueue_many(session, recognize_document, arguments, unique_keys=[str(one) for one in pending])


def process_documents(batch: Batch[ProcessDocument], work: Callable[[Unprocessed, UUID], Result]) -> None:
    """Read all documents of the batch at once, then work and write, a few seconds' or megabytes' worth at a time."""
    document_ids = {attempt.id: attempt.arguments.document_id for attempt in batch.attempts}
    documents = _load(batch, set(document_ids.values()))
    part = _Part()
    for attempt in batch.starting():
        document_id = document_ids[attempt.id]
        if document_id not in documents:
            settle_error(attempt, NotFoundError(f"document {document_id} does not exist, or has been deleted"))
            continue
        try:
            part.add(attempt, work(documents[document_id], attempt.id))
        except Exception as error:
            if classify(error).is_infrastructure:  # the others would meet it too
                raise
            settle_error(attempt, error)
        if part.is_due:
            _write(batch.organization_id, part.done, work)
            part = _Part()
    _write(batch.organization_id, part.done, work)


_Done = tuple[Attempt[ProcessDocument], Result]


class _Part:
    """What is written with one commit."""

    def __init__(self) -> None:
        self.done: list[_Done] = []
        self._characters = 0
        self._begun_at = time.monotonic()

    def add(self, attempt: Attempt[ProcessDocument], result: Result) -> None:
        self.done.append((attempt, result))
        self._characters += len(result.content) if isinstance(result, NewText) else 0

    @property
    def is_due(self) -> bool:
        seconds = time.monotonic() - self._begun_at
        return seconds > COMMIT_EVERY_SECONDS or self._characters > COMMIT_EVERY_CHARACTERS


def _load(batch: Batch[ProcessDocument], wanted: set[UUID]) -> dict[UUID, Unprocessed]:
    found = batch.read(lambda session: load_unprocessed(session, wanted))
    missing = wanted - found.keys()
    if missing:
        # What a replica does not show is not proven absent.
        with reading(batch.organization_id, source="master") as session:
            found |= load_unprocessed(session, missing)
    return found


def _write(
    organization_id: UUID,
    done: Sequence[_Done],
    work: Callable[[Unprocessed, UUID], Result],
) -> None:
    """One transaction: lock the jobs still owned, write the effects of those, finish exactly those. When the database
    refuses a row, all of it is rolled back and each document is written apart."""
    if not done:
        return
    try:
        with writing(organization_id) as session:
            owned = ledger.lock_owned(session, [attempt.claimed for attempt, _ in done])
            mine = [(attempt, result) for attempt, result in done if attempt.id in owned]
            outcomes = write_versions(session, [result for _, result in mine])
            settled = _finish(session, mine, outcomes)
            enqueue_indexing(session, outcomes)
            enqueue_recognition(session, [result for _, result in mine], outcomes)
            enqueue_attachments(session, [result for _, result in mine], outcomes)
    except DBAPIError as error:
        if not _blames_a_row(error):
            raise
        log.info("batch.set_apart", organization=str(organization_id), jobs=len(done), error=str(error.orig))
        _write_apart([attempt for attempt, _ in done], work)
        return
    for outcome, attempts in settled.items():
        settle(attempts, outcome)
    _write_apart([attempt for attempt, _ in mine if not attempt.settled], work)
    settle([attempt for attempt, _ in done if attempt.id not in owned], AttemptEnd.FENCED)


def _blames_a_row(error: DBAPIError) -> bool:
    return classify(error) in (Fault.BAD_INPUT, Fault.CONFLICT)


def _finish(
    session: Session, mine: Sequence[_Done], outcomes: dict[UUID, Outcome]
) -> dict[AttemptEnd, list[Attempt[ProcessDocument]]]:
    """Finish the jobs whose document was written, verified unchanged, or rejected; the others stay as they are. That a
    format is not read is an answer: the job succeeds, and the document says so."""
    results: list[tuple[ledger.Claimed, str]] = []
    settled: dict[AttemptEnd, list[Attempt[ProcessDocument]]] = {AttemptEnd.SUCCEEDED: [], AttemptEnd.FAILED: []}
    for attempt, result in mine:
        outcome = outcomes[result.document_id]
        if outcome.written in (Written.VERSION, Written.UNCHANGED):
            results.append((attempt.claimed, _as_json(outcome)))
            settled[AttemptEnd.SUCCEEDED].append(attempt)
        elif not isinstance(result, Rejected) or outcome.written is not Written.REJECTED:
            continue
        elif result.status is DocumentStatus.UNSUPPORTED:  # nothing has gone wrong
            results.append((attempt.claimed, _as_json(outcome)))
            settled[AttemptEnd.SUCCEEDED].append(attempt)
        else:
            ledger.fail(session, attempt.claimed, ledger.Failure("PipelineError", result.reason))
            settled[AttemptEnd.FAILED].append(attempt)
    if results:
        ledger.succeed(session, results)
    return settled


def _as_json(outcome: Outcome) -> str:
    return json.dumps({"written": outcome.written, "version": outcome.version_number})


def _write_apart(attempts: Sequence[Attempt[ProcessDocument]], work: Callable[[Unprocessed, UUID], Result]) -> None:
    for attempt in attempts:
        try:
            process_one(attempt, work)
        except Exception as error:  # noqa: BLE001 - one document's trouble is its own job's
            settle_error(attempt, error)


def process_one(attempt: Attempt[ProcessDocument], work: Callable[[Unprocessed, UUID], Result]) -> None:
    """One document by itself: read from the master, work, write in a savepoint, and again while others are faster."""
    count = metrics.RETRIES.labels(attempt.kind.name, Fault.CONFLICT.value).inc
    while_others_are_faster(on_retry=count)(lambda: _process_once(attempt, work))


def while_others_are_faster(on_retry: Callable[[], None] = lambda: None) -> Retrying:
    """A few tries with growing random pauses; each must read afresh. The last conflict is raised."""
    return again(retry_on=is_conflict, times=5, first_pause_seconds=0.01, longest_pause_seconds=0.5, on_retry=on_retry)


def _process_once(attempt: Attempt[ProcessDocument], work: Callable[[Unprocessed, UUID], Result]) -> None:
    organization_id, document_id = attempt.organization_id, attempt.arguments.document_id
    with reading(organization_id, source="master") as session:
        document = session.get(Document, (organization_id, document_id))
    if document is None or not document.is_live:
        raise NotFoundError(f"document {document_id} does not exist, or has been deleted")
    text = document.content if document.source_key is None else None
    result = work(
        Unprocessed(document.id, document.version, document.filename, document.media_type, document.source_key, text),
        attempt.id,
    )
    with writing(organization_id) as session:
        if not ledger.lock_owned(session, [attempt.claimed]):
            attempt.settle(AttemptEnd.FENCED)
            return
        with session.begin_nested():
            if isinstance(result, Rejected):
                outcome = reject(session, document, result)
            else:
                outcome = write_version(session, document, result)
        settled = _finish(session, [(attempt, result)], {document_id: outcome})
        enqueue_indexing(session, {document_id: outcome})
        enqueue_recognition(session, [result], {document_id: outcome})
        enqueue_attachments(session, [result], {document_id: outcome})
    for ended, attempts in settled.items():
        settle(attempts, ended)

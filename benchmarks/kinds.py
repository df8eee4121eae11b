"""The kinds of job that are measured: one that does nothing and one document, each alone and in batches.

What is done to a document is the pipeline's `normalize` step, and a version if the text is new.
"""

import hashlib
from uuid import UUID

from docworker.db import ledger
from docworker.db.documents.reading import Unprocessed, load_unprocessed
from docworker.db.documents.versions import NewText, write_versions
from docworker.db.sessions import writing
from docworker.jobs.execution.attempts import Attempt, settle
from docworker.jobs.kind import Arguments
from docworker.jobs.kinds.documents import ProcessDocument, process_documents
from docworker.jobs.pipeline.normalize import normalized
from docworker.jobs.task import Batch, batch_job, job


class Nothing(Arguments):
    pass


def normalize(document: Unprocessed, job_id: UUID | None) -> NewText:
    """The step, as every side of a benchmark does it."""
    content = normalized(document.text or "")
    return NewText(
        document_id=document.id,
        read_version=document.version,
        title=None,
        content=content,
        content_sha256=hashlib.sha256(content.encode()).hexdigest(),
        pipeline="normalize/1",
        job_id=job_id,
    )


@job(name="benchmark.nothing")
def do_nothing(attempt: Attempt) -> None:
    """One job that does nothing."""


@batch_job(name="benchmark.nothings", arguments=Nothing)
def do_nothings(batch: Batch) -> None:
    """A batch of jobs that do nothing, ended with one statement."""
    attempts = list(batch.starting())
    with writing(batch.organization_id) as session:
        owned = ledger.lock_owned(session, [attempt.claimed for attempt in attempts])
        ledger.succeed(session, [(attempt.claimed, None) for attempt in attempts if attempt.id in owned])
    settle([attempt for attempt in attempts if attempt.id in owned], ledger.AttemptEnd.SUCCEEDED)


@job(name="benchmark.document")
def normalize_one(attempt: Attempt, document_id: UUID) -> None:
    """One document: read on the replica, write its version and the job's end together."""
    document = attempt.read(lambda session: load_unprocessed(session, [document_id]))[document_id]
    new = normalize(document, attempt.id)
    attempt.finish(lambda session: {"outcome": write_versions(session, [new])[document_id].written})


@batch_job(name="benchmark.normalize", arguments=ProcessDocument)
def normalize_document(batch: Batch) -> None:
    """A batch of documents, written with a handful of statements."""
    process_documents(batch, normalize)

"""What both sides do to a document: the pipeline's `normalize` step, and a version if the text is new."""

import hashlib
from uuid import UUID

from db.versions import NewText
from jobs.documents import ProcessDocument, process_documents
from jobs.pipeline.normalize import normalized
from jobs.processing import Unprocessed
from jobs.task import Batch, batch_job


def normalize(document: Unprocessed, job_id: UUID | None) -> NewText:
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


@batch_job(name="benchmark.normalize", arguments=ProcessDocument)
def normalize_document(batch: Batch) -> None:
    """Our side, as a kind of job."""
    process_documents(batch, normalize)

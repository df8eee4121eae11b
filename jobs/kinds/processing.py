"""`process`: one document through the pipeline of this process.

No database in here. Each process makes its own pipeline when it first needs it.
"""

import os
from dataclasses import dataclass
from uuid import UUID

from docworker.db.documents.reading import Unprocessed
from docworker.db.documents.store import source_store
from docworker.db.documents.versions import NewText, Rejected
from docworker.db.models import DocumentStatus
from docworker.db.settings import settings
from docworker.jobs.execution.reasons import without_addresses
from docworker.jobs.pipeline import confinement
from docworker.jobs.pipeline.draft import Original, PipelineError, Reason
from docworker.jobs.pipeline.extract import Extract
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.registry import Pipeline

_WAITS_FOR_INSTALLATION = (Reason.UNSUPPORTED, Reason.MISSING_EXTRA, Reason.NEEDS_OCR)


@dataclass(frozen=True)
class _Loaded:
    pid: int
    pipeline: Pipeline


_loaded: _Loaded | None = None


def pipeline() -> Pipeline:
    """The pipeline of this process; a child does not share its parent's.

    Raises ConfigurationError where confinement is required and the kernel does not offer it.
    """
    global _loaded
    if _loaded is None or _loaded.pid != os.getpid():
        known = settings()
        confinement.check(known.sandbox)
        limits = Limits(
            memory_bytes=known.extract_memory_bytes,
            cpu_seconds=known.extract_cpu_seconds,
            wall_seconds=known.extract_wall_seconds,
            output_bytes=known.extract_output_bytes,
            attachments=known.attachments_most,
            attachment_bytes=known.attachments_bytes,
        )
        _loaded = _Loaded(os.getpid(), Pipeline.load(limits, documents_per_child=known.extract_documents_per_child))
    return _loaded.pipeline


def extractor() -> Extract:
    """The step of this process's pipeline that opens files; raises as `pipeline` does."""
    return next(one for one in pipeline().processors if isinstance(one, Extract))


def close_pipeline() -> None:
    """End the parser process of this process's pipeline, if there is one."""
    global _loaded
    if _loaded is not None and _loaded.pid == os.getpid():
        _loaded.pipeline.close()
    _loaded = None


def process(document: Unprocessed, job_id: UUID) -> NewText | Rejected:
    """Run the pipeline over one document. What the document itself is at fault for is an answer, not an error.

    Raises SourceMissingError or SourceCorruptError when the store does not have what the document names.
    """
    return process_original(document, source_of(document), job_id)


def process_original(document: Unprocessed, original: Original, job_id: UUID) -> NewText | Rejected:
    """As `process`, of what was read from the store already."""
    try:
        made = pipeline().run(original)
    except PipelineError as error:
        return rejected(document, error)
    return NewText(
        document_id=document.id,
        read_version=document.version,
        title=made.title,
        content=made.content,
        content_sha256=made.content_sha256,
        facts=made.facts,
        pipeline=made.pipeline,
        job_id=job_id,
    )


def rejected(document: Unprocessed, error: PipelineError) -> Rejected:
    """What the document is at fault for; of this pipeline for good, unless something can be installed that helps."""
    is_unsupported = error.reason == Reason.UNSUPPORTED
    return Rejected(
        document.id,
        document.version,
        without_addresses(str(error) if is_unsupported else f"{error.reason}: {error}"),
        DocumentStatus.UNSUPPORTED if is_unsupported else DocumentStatus.FAILED,
        None if error.reason in _WAITS_FOR_INSTALLATION else pipeline().signature,
    )


def source_of(document: Unprocessed) -> Original:
    """What the store has of a document, or its text; raises as `process` does."""
    if document.source_key is None:
        return Original(media_type=document.media_type, filename=document.filename, text=document.text or "")
    return Original(
        media_type=document.media_type, filename=document.filename, data=source_store().get(document.source_key)
    )

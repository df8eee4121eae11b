"""`attached_files`: the files in a mail, in the source store, on their way to become documents.

Bytes that were kept and that no document came to name are swept like those of an import that was broken off.
"""

from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from uuid import UUID

from docworker.db.documents.attachments import AttachedFile
from docworker.db.documents.names import file_name_of
from docworker.db.documents.reading import Unprocessed
from docworker.db.documents.store import source_store
from docworker.db.documents.versions import NewText, Outcome, Rejected, Written
from docworker.db.sessions import writing
from docworker.jobs.kinds.processing import extractor, source_of
from docworker.jobs.pipeline.media_types import EML, HEAD_BYTES, UNSUPPORTED, media_type_of


def may_have_attachments(result: NewText | Rejected, outcome: Outcome) -> bool:
    """Whether there are files in a document that was written, or may have been in an earlier version of it."""
    if not isinstance(result, NewText) or outcome.written not in (Written.VERSION, Written.UNCHANGED):
        return False
    is_other_mail = result.facts.get("media_type") == EML and outcome.written is Written.VERSION
    return bool(result.facts.get("attachments")) or (is_other_mail and outcome.version_number != 1)


def attached_files(organization_id: UUID, mail: Unprocessed) -> list[tuple[AttachedFile, bytes]]:
    """The files in a mail with their bytes, which are kept in the store.

    Raises as `process` does, and PipelineError where the mail cannot be read.
    """
    found, numbers = [], Counter[str]()
    for one in extractor().attachments_of(source_of(mail)):
        name = file_name_of(one.name) or "attachment"
        numbers[name] += 1
        media_type = media_type_of(name, one.data[:HEAD_BYTES])
        unsupported = UNSUPPORTED if media_type is None else None
        source = source_store().put(organization_id, BytesIO(one.data))
        found.append((AttachedFile(name, numbers[name], source, media_type, unsupported), one.data))
    return found


def keep_again(organization_id: UUID, files: Sequence[tuple[AttachedFile, bytes]]) -> None:
    """Bytes that were already there may have been purged before the document that now protects them was written.
    Whoever drops the organization waits while they are kept again."""
    store = source_store()
    for file, data in files:
        if not store.exists(file.source.key):
            with writing(organization_id):
                store.put(organization_id, BytesIO(data))

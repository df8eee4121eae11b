"""`OPERATIONS` on documents: upload, look, list, text, delete.

An upload goes the way of `jobs.imports.receiving`: into a file while the sender sends, then store and database in one
transaction, with the job.
"""

import json
from uuid import UUID, uuid5

from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from docworker.db.documents.listing import page_of
from docworker.db.documents.reading import Filters, find_document, folder_at, load_version, parse_path
from docworker.db.documents.store import Spool
from docworker.db.editing.documents import change_documents, deleted
from docworker.db.errors import ConflictError, NotFoundError
from docworker.db.models import Job
from docworker.db.sessions import TenantSession, writing
from docworker.db.settings import settings
from docworker.db.tokens import Scope
from docworker.jobs.imports.receiving import async_spool, receive
from docworker.worker.api import answers
from docworker.worker.api.operations import Call, Operation, json_response
from docworker.worker.api.problems import ProblemError, not_found

IDEMPOTENCY_KEY = "Idempotency-Key"
MOST_KEY_CHARACTERS = 255


async def upload(call: Call) -> Response:
    key = idempotency_key(call)
    most = settings().max_source_bytes
    told = call.request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and len(told) < 20 and int(told) > most:
        raise ProblemError(413, "too-large", f"the file is larger than {most} bytes")
    async with async_spool(call.request.stream()) as spool:
        return await run_in_threadpool(_receive, call, spool, key)


def _receive(call: Call, spool: Spool, key: str | None) -> Response:
    organization_id, asked = call.caller.organization_id, call.asked
    media_type = call.request.headers.get("content-type")
    job_id = None
    with writing(organization_id) as session:
        if key is not None:
            of_upload = (key, asked.folder, asked.name, asked.if_taken, spool.source(organization_id).key)
            job_id = job_id_of(organization_id, *of_upload)
            known = _known_upload(session, job_id)
            if known is not None:
                return json_response(known)
        received = receive(
            session,
            spool,
            asked.name,
            folder=asked.folder,
            media_type=media_type,
            if_taken=asked.if_taken,
            job_id=job_id,
        )
    answer = answers.Received(document_id=received.document_id, job_id=received.job_id)
    place = call.location(f"/v1/documents/{received.document_id}")
    return json_response(answer, 201 if received.is_new else 200, place)


def _known_upload(session: TenantSession, job_id: UUID) -> answers.Received | None:
    """What was answered to the same request, if there was one; whoever sends it at the same time waits here."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"upload {job_id}", 0))))
    job = session.get(Job, (session.organization_id, job_id))
    if job is None:
        return None
    return answers.Received(document_id=UUID(job.arguments["document_id"]), job_id=job_id)


def idempotency_key(call: Call) -> str | None:
    """Raises ProblemError for one that is too long."""
    key = call.request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not 1 <= len(key) <= MOST_KEY_CHARACTERS:
        raise ProblemError(422, "invalid", f"an {IDEMPOTENCY_KEY} has 1 to {MOST_KEY_CHARACTERS} characters")
    return key


def job_id_of(organization_id: UUID, *parts: str) -> UUID:
    """The id of the job that a request with this key enqueues: the same for the same request. What is sent is part of
    it, so a key that is used for something else by mistake loses nothing."""
    return uuid5(organization_id, json.dumps(parts))


def get(call: Call) -> Response:
    return json_response(_found(call))


def _found(call: Call) -> answers.Document:
    try:
        entry = find_document(call.caller.organization_id, str(call.path("document_id")))
    except NotFoundError:
        raise not_found("document") from None
    return answers.Document.model_validate(entry)


def list_(call: Call) -> Response:
    organization_id, asked = call.caller.organization_id, call.asked
    filters = Filters(folder(organization_id, asked.folder), asked.status)
    page = page_of(organization_id, filters, after=asked.after, most=asked.limit)
    documents = [answers.Document.model_validate(one) for one in page]
    following = documents[-1].id if len(documents) == asked.limit else None
    return json_response(answers.Page(documents=documents, next=following))


def folder(organization_id: UUID, path: str) -> UUID | None:
    """The id of a folder, None for the root. Raises ProblemError where there is none."""
    try:
        return folder_at(organization_id, parse_path(path))
    except NotFoundError:
        raise not_found("folder") from None


def text(call: Call) -> Response:
    document = _found(call)
    number = call.asked.version or document.latest_version
    if not number:
        why = f": {document.status_reason}" if document.status_reason else ""
        raise ProblemError(409, "no-text", f"the document is {document.status} and has no text yet{why}")
    try:
        version = load_version(call.caller.organization_id, document.id, number)
    except NotFoundError:
        raise not_found("version") from None
    return Response(version.content, 200, {"Docworker-Version": str(number)}, "text/plain")


def delete(call: Call) -> Response:
    document = _found(call)
    ids, actor = [document.id], call.caller.actor
    for one in change_documents(call.caller.organization_id, ids, "deleted", deleted(), actor=actor):
        if one.error is not None:
            raise ConflictError(one.error)
    return Response(status_code=204)


OPERATIONS = (
    Operation(
        "upload_document",
        "POST",
        "/v1/documents",
        Scope.DOCUMENTS_WRITE,
        upload,
        "Send a file; a job makes its text.",
        {201: answers.Received, 200: answers.Received},
        query=answers.Upload,
        body="application/octet-stream",
        problems=(409, 413, 415),
        headers=(IDEMPOTENCY_KEY,),
    ),
    Operation(
        "list_documents",
        "GET",
        "/v1/documents",
        Scope.DOCUMENTS_READ,
        list_,
        "List documents, a page at a time.",
        {200: answers.Page},
        query=answers.PageAsked,
        problems=(404,),
    ),
    Operation(
        "get_document",
        "GET",
        "/v1/documents/{document_id:uuid}",
        Scope.DOCUMENTS_READ,
        get,
        "Look at a document.",
        {200: answers.Document},
        problems=(404,),
    ),
    Operation(
        "get_text",
        "GET",
        "/v1/documents/{document_id:uuid}/text",
        Scope.DOCUMENTS_READ,
        text,
        "Read the text of a document.",
        {200: None},
        query=answers.TextAsked,
        problems=(404, 409),
    ),
    Operation(
        "delete_document",
        "DELETE",
        "/v1/documents/{document_id:uuid}",
        Scope.DOCUMENTS_WRITE,
        delete,
        "Delete a document; it can be brought back for a while, by the command line.",
        {204: None},
        problems=(404, 409),
    ),
)

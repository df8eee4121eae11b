"""Documents that no job will process: found, and failed where their job has failed without a word on them.

Everything here is for the session's organization and is safe to repeat.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Text, Uuid, any_, case, cast, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from docworker.db.models import Document, DocumentStatus, Job, JobState
from docworker.db.models.ledger.job import LIVE_STATES
from docworker.db.sessions import organization_of

_DOCUMENT_ID = Job.arguments["document_id"].astext
_TOLD = (
    "GivenBack",
    "LeaseExpired",
    "LeftUnsettled",
    "SandboxError",
    "SoftTimeLimitExceeded",
    "SourceCorruptError",
    "SourceMissingError",
    "UnacceptedArgumentsError",
)
"""Failures whose messages are ours. What other exceptions say may hold text of the document, or addresses in memory."""
_UNTOLD = "processing failed with %s: `docworker jobs show %s` tells more"
"""Python and PostgreSQL fill in the class of the error and the id of the job alike."""


def reason_of(job_id: UUID, error_class: str, message: str) -> str:
    """Why a document could not be processed, by the failure of its job."""
    if error_class in _TOLD:
        return f"{error_class}: {message}"
    return _UNTOLD % (error_class, job_id)


def fail_pending(session: Session, document_id: UUID, reason: str) -> None:
    """Fail a document that is still to be processed, because its job has failed; one with a text keeps that."""
    session.execute(
        update(Document)
        .where(
            Document.organization_id == organization_of(session),
            Document.id == document_id,
            Document.status == DocumentStatus.PENDING,
            Document.is_live,
        )
        .values(_failed(reason))
        .execution_options(synchronize_session=False)
    )


def forgotten_documents(session: Session, *, kind: str, grace_seconds: float, most: int) -> list[UUID]:
    """Ids of documents that are pending for longer than the grace, with no live job of `kind` to process them."""
    organization_id = organization_of(session)
    has_live_job = exists().where(
        Job.organization_id == organization_id,
        Job.kind == kind,
        Job.state.in_(LIVE_STATES),
        cast(Document.id, Text) == _DOCUMENT_ID,
    )
    forgotten = (
        select(Document.id)
        .where(
            Document.organization_id == organization_id,
            Document.status == DocumentStatus.PENDING,
            Document.is_live,
            Document.updated_at < func.clock_timestamp() - timedelta(seconds=grace_seconds),
            ~has_live_job,
        )
        .order_by(Document.id)
        .limit(most)
    )
    return list(session.scalars(forgotten))


def fail_abandoned(session: Session, ids: Sequence[UUID], *, kind: str) -> set[UUID]:
    """Of these documents, fail those whose latest job failed or was cancelled without a word on the document, as when
    its worker was killed each time; the reason is the job's. Returns their ids.

    Finished jobs may be a million: they are only looked through for documents that are known to be forgotten.
    """
    if not ids:
        return set()
    organization_id = organization_of(session)
    latest = (
        select(
            cast(_DOCUMENT_ID, Uuid).label("id"),
            Job.finished_at,
            Job.state,
            case(
                (Job.error_class.in_(_TOLD), Job.error_class + ": " + Job.error_message),
                (Job.error_class.is_not(None), func.format(_UNTOLD, Job.error_class, Job.id)),
                else_=literal("its job was ") + Job.state,
            ).label("reason"),
        )
        .ext(distinct_on(_DOCUMENT_ID))
        .where(
            Job.organization_id == organization_id,
            Job.kind == kind,
            any_(cast([str(one) for one in ids], ARRAY(Text))) == _DOCUMENT_ID,
        )
        .order_by(_DOCUMENT_ID, Job.created_at.desc())
        .cte("latest")
        .prefix_with("MATERIALIZED")
    )
    abandoned = (
        select(Document.id, latest.c.reason)
        .join(latest, latest.c.id == Document.id)
        .where(
            Document.organization_id == organization_id,
            Document.status == DocumentStatus.PENDING,
            Document.is_live,
            latest.c.state.in_((JobState.FAILED, JobState.CANCELLED)),
            latest.c.finished_at > Document.updated_at,
        )
        .order_by(Document.id)
        .with_for_update(key_share=True, of=Document)
        .cte("abandoned")
        .prefix_with("MATERIALIZED")
    )
    failed = (
        update(Document)
        .where(Document.organization_id == organization_id, Document.id == abandoned.c.id)
        .values(_failed(abandoned.c.reason))
        .returning(Document.id)
    )
    return set(session.scalars(failed, execution_options={"synchronize_session": False}))


def _failed(reason: str | ColumnElement[str]) -> dict[str, Any]:
    return {
        "status": DocumentStatus.FAILED,
        "status_reason": reason,
        "rejected_by": None,
        "version": Document.version + 1,
        "updated_at": func.clock_timestamp(),
    }

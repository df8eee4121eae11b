"""`PAGE`: all that the ledger knows of a job: what it is, why it waits, its attempts with what they said."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.editing.audit import record_with
from docworker.db.errors import ConflictError, NotFoundError
from docworker.db.ledger import Filter
from docworker.db.ledger.telling.fanouts import children_of
from docworker.db.ledger.telling.listing import find_job
from docworker.db.ledger.telling.story import line_text, progress_of, progress_text
from docworker.db.ledger.telling.why import why
from docworker.db.models import Job, JobState
from docworker.db.models.ledger.job import LIVE_STATES
from docworker.jobs.kinds.documents import tell_cancelled
from docworker.worker.console.page import Action, Page
from docworker.worker.console.view import View


def _show(view: View) -> Mapping[str, Any]:
    job_id = view.path_id("job_id", "job")
    living = view.processes()
    with view.session() as session:
        owner = find_job(session, job_id)
        job = session.get(Job, (owner, job_id))
        if job is None:
            raise NotFoundError(f"no job {job_id}: it has just been pruned")
        story = ledger.told_of(session, job)
        answer = why(session, job, living) if job.state in LIVE_STATES else None
        children = children_of(session, owner, job_id)
        session.expunge(job)
    return {
        "job": job,
        "title": f"{job.kind[:60]} {str(job.id)[-12:]}",
        "slug": view.slugs([owner])[owner],
        "attempts": story.attempts,
        "left_out": story.left_out,
        "why": answer,
        "children": children,
        "progress": progress_of(job),
        "progress_text": progress_text,
        "line_text": line_text,
        "document_id": _document_of(job),
        "hides": view.options.hides_arguments,
        "may_retry": job.state in (JobState.FAILED, JobState.CANCELLED),
        "may_cancel": job.state in LIVE_STATES,
    }


def _document_of(job: Job) -> UUID | None:
    """The document that its arguments name."""
    named = job.arguments.get("document_id")
    try:
        return UUID(named) if isinstance(named, str) else None
    except ValueError:
        return None


def _change(
    view: View, change: Callable[[Session, Filter, Sequence[UUID]], list[UUID]], action: str, done: str, refused: str
) -> str:
    """In one transaction with its entry in the audit log."""
    job_id = view.path_id("job_id", "job")
    with view.session() as session:
        owner = find_job(session, job_id)
        changed = change(session, Filter(organization_id=owner), [job_id])
        if not changed:
            raise ConflictError(refused)
        slug = view.slugs([owner])[owner]
        record_with(session, action, actor=view.actor, subject="job", subject_id=job_id, jobs=1, slug=slug)
    return view.said(f"the job is {done}", f"/jobs/{job_id}")


def _retry(view: View) -> str:
    return _change(view, ledger.retry_failed, "retried", "queued again", "it has neither failed nor been cancelled")


def _cancel(view: View) -> str:
    place = _change(view, ledger.cancel, "cancelled", "cancelled", "it has ended already: there is nothing to cancel")
    tell_cancelled([view.path_id("job_id", "job")], view.session)
    return place


PAGE = Page(
    "job",
    "/jobs/{job_id}",
    "Job",
    _show,
    actions=(Action("retry", "/jobs/{job_id}/retry", _retry), Action("cancel", "/jobs/{job_id}/cancel", _cancel)),
    is_renewed=True,
)

"""`operations_on_jobs`: how far a job is, and jobs of the kinds that callers may enqueue."""

from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from docworker.db.cluster import database
from docworker.db.errors import NotFoundError
from docworker.db.ledger.telling.processes import processes
from docworker.db.ledger.telling.story import progress_of
from docworker.db.ledger.telling.why import why
from docworker.db.models import Job, JobState
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import HOME
from docworker.db.tenants.ledgers import ledgers_of
from docworker.db.tokens import Scope
from docworker.jobs.enqueue import enqueue_many
from docworker.jobs.progress import get_job
from docworker.worker.api import answers
from docworker.worker.api.documents import IDEMPOTENCY_KEY, idempotency_key, job_id_of
from docworker.worker.api.operations import Call, Operation, json_body, json_response
from docworker.worker.api.problems import ProblemError, not_found

_NOT_BEGUN = (JobState.WAITING, JobState.QUEUED, JobState.DISPATCHED)


def get(call: Call) -> Response:
    try:
        job = get_job(call.caller.organization_id, call.path("job_id"))
    except NotFoundError:
        raise not_found("job") from None
    return json_response(_shown(job, _waits(job) if job.state in _NOT_BEGUN else None))


def _waits(job: Job) -> answers.Waits | None:
    """Codes alone: what is told to people besides names jobs of other organizations, and who has paused something.
    None where the process has not the dispatcher's address of the ledger and of home."""
    (place,) = ledgers_of(job.organization_id)
    if any(database().cluster(*one).dispatcher is None for one in ((HOME, None), place)):
        return None
    with all_jobs_session() as session:
        living = processes(session)
    with all_jobs_session(*place) as session:
        now = session.get(Job, (job.organization_id, job.id))
        if now is None or now.state not in _NOT_BEGUN:
            return None
        answer = why(session, now, living)
    seconds = None if answer.forecast is None else answer.forecast.seconds
    return answers.Waits(reasons=[reason.code for reason in answer.reasons], begins_in_seconds=seconds)


def _shown(job: Job, waits: answers.Waits | None) -> answers.Job:
    told = progress_of(job)
    return answers.Job(
        id=job.id,
        kind=job.kind,
        state=job.state,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        created_at=job.created_at,
        run_at=job.run_at,
        finished_at=job.finished_at,
        progress=None if told is None else answers.Progress.model_validate(told),
        result=job.result,
        error=None
        if job.error_class is None
        else answers.JobError(name=job.error_class.rpartition(".")[2], message=job.error_message),
        waits=waits,
    )


def operations_on_jobs(tasks: Mapping[str, Any]) -> tuple[Operation, ...]:
    """`tasks` are those that callers may enqueue, by the names of their kinds."""

    async def enqueue(call: Call) -> Response:
        key = idempotency_key(call)
        asked = await json_body(call.request, answers.JobAsked)
        task = tasks.get(asked.kind)
        if task is None:
            known = ", ".join(sorted(tasks)) or "none"
            raise ProblemError(422, "unknown-kind", f"callers may enqueue no {asked.kind!r:.80}; they may: {known}")
        return await run_in_threadpool(_enqueue, call, asked, task, key)

    return (
        Operation(
            "get_job",
            "GET",
            "/v1/jobs/{job_id:uuid}",
            Scope.JOBS_READ,
            get,
            "Look how far a job is, and what came of it.",
            {200: answers.Job},
            problems=(404,),
        ),
        Operation(
            "enqueue_job",
            "POST",
            "/v1/jobs",
            Scope.JOBS_WRITE,
            enqueue,
            "Enqueue a job of a kind that callers may.",
            {202: answers.Enqueued},
            body=answers.JobAsked,
            problems=(413,),
            headers=(IDEMPOTENCY_KEY,),
        ),
    )


def _enqueue(call: Call, asked: answers.JobAsked, task: Any, key: str | None) -> Response:
    organization_id = call.caller.organization_id
    ids = None if key is None else [job_id_of(organization_id, key, asked.model_dump_json())]
    with writing(organization_id) as session:
        (job_id,) = enqueue_many(session, task, [asked.arguments], priority=asked.priority, ids=ids)
    return json_response(answers.Enqueued(job_id=job_id), 202, call.location(f"/v1/jobs/{job_id}"))

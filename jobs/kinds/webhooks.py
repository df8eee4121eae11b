"""`send_webhook`, and `deliver_webhook`, the kind that delivers an event to an endpoint.

A delivery is signed anew in each attempt and has the same `webhook-id` in all of them. No session is open while it
waits for an answer.
"""

import random
import time
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import Any, overload
from uuid import UUID

import structlog
from prometheus_client import Counter
from pydantic_core import PydanticSerializationError, to_jsonable_python
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from docworker.db import webhooks
from docworker.db.errors import ConfigurationError, InvalidArgumentError, RetryLaterError
from docworker.db.ledger.values import as_json, check_text
from docworker.db.sessions import TenantSession, aio
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue_many
from docworker.jobs.task import AsyncAttempt, job
from docworker.jobs.webhooks.addresses import RefusedAddressError
from docworker.jobs.webhooks.posting import Answer, NoAnswerError, post
from docworker.jobs.webhooks.signing import signed_headers

log = structlog.get_logger(__name__)

PAUSED = Counter("docworker_webhooks_paused_total", "Endpoints of webhooks that were paused by their failures.")

PAUSES_SECONDS = (5, 30, 120, 600, 3600, 10_800, 21_600, 43_200, 43_200, 43_200, 43_200, 43_200, 43_200)
"""Between attempts, up to a quarter less: three and a half days in all."""
MAX_ATTEMPTS = len(PAUSES_SECONDS) + 1
MOST_RETRY_AFTER_SECONDS = 86_400.0
WAIT_SECONDS = 3600.0
"""For so long a delivery to a paused endpoint puts itself off; `resume_webhook` lets it be due at once."""
NOT_INSTALLED_SECONDS = 60.0
"""Until a delivery may find a worker that has an HTTP client."""
GONE = 410


@overload
def send_webhook(session: Session, event_type: str, payload: Mapping[str, Any]) -> list[UUID]: ...
@overload
def send_webhook(session: AsyncSession, event_type: str, payload: Mapping[str, Any]) -> Awaitable[list[UUID]]: ...
def send_webhook(
    session: Session | AsyncSession, event_type: str, payload: Mapping[str, Any]
) -> list[UUID] | Awaitable[list[UUID]]:
    """Have an event delivered to each endpoint of the session's organization, once this transaction has committed;
    returns the ids of the jobs (awaitable with a session of asyncio's), which are the `webhook-id` of the deliveries.

    `event_type` is such as `invoice.paid`. Raises InvalidArgumentError for a payload that is no JSON. Those to a paused
    endpoint wait until it is resumed.
    """
    body = _event(event_type, payload)
    if isinstance(session, AsyncSession):
        return session.run_sync(_send, body)
    return _send(session, body)


def send_test(session: Session, endpoint_id: UUID) -> UUID:
    """Have an event `webhook.test` delivered to one endpoint; returns the job's id. Raises NotFoundError."""
    (job_id,) = _send(session, _event("webhook.test", {"endpoint_id": endpoint_id}), endpoint_id)
    return job_id


def _event(event_type: str, payload: Mapping[str, Any]) -> str:
    check_text("the type of an event", event_type, most=200)
    try:
        data = to_jsonable_python(dict(payload))
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise InvalidArgumentError(f"the payload of {event_type} cannot be written as JSON: {error}") from error
    event = {"type": event_type, "timestamp": datetime.now(UTC).isoformat(), "data": data}
    return as_json(event, f"the payload of {event_type}")


def _send(session: Session, body: str, endpoint_id: UUID | None = None) -> list[UUID]:
    assert isinstance(session, TenantSession)
    ids: list[UUID] = []
    for is_ordered, endpoints in webhooks.endpoints_by_order(session, endpoint_id).items():
        deliveries = [{"endpoint_id": one, "body": body} for one in endpoints]
        if is_ordered:
            keys = [f"webhook:{one}" for one in endpoints]
            ids += enqueue_many(session, deliver_webhook, deliveries, order_keys=keys, on_failure="pass")
        else:
            ids += enqueue_many(session, deliver_webhook, deliveries)
    return ids


@job(name=webhooks.KIND, max_attempts=MAX_ATTEMPTS, concurrency=50, soft_limit_seconds=120, hard_limit_seconds=150)
async def deliver_webhook(attempt: AsyncAttempt, endpoint_id: UUID, body: str) -> None:
    """Post an event to an endpoint, signed. An answer from 200 to 299 has delivered it."""
    target = await attempt.read(lambda session: webhooks.target_of(session, endpoint_id))
    if target is None:
        await attempt.finish(lambda _: {"delivered": False, "reason": "the endpoint has been removed"})
        return
    if target.is_paused:
        await _wait(attempt, endpoint_id)
        return
    sent = body.encode()
    headers = signed_headers(attempt.idempotency_key, int(time.time()), sent, target.secrets)
    answer: Answer | None = None
    try:
        answer = await post(target.url, sent, headers, settings())
    except ConfigurationError as error:
        log.error("webhook.not_sent", job=str(attempt.id), error=str(error))  # noqa: TRY400 - it says what to do
        await attempt.log(str(error))
        await attempt.snooze(NOT_INSTALLED_SECONDS)
        return
    except (NoAnswerError, RefusedAddressError) as error:
        problem = str(error)
    else:
        if 200 <= answer.status <= 299:
            await attempt.finish(_delivered(endpoint_id, answer))
            return
        problem = f"answered {answer.status}"
    await _failed(attempt, endpoint_id, problem, answer)


def _delivered(endpoint_id: UUID, answer: Answer) -> Any:
    def effect(session: Session) -> dict[str, Any]:
        webhooks.record_success(session, endpoint_id)
        return {"delivered": True, "status": answer.status}

    return effect


async def _failed(attempt: AsyncAttempt, endpoint_id: UUID, problem: str, answer: Answer | None) -> None:
    is_gone = answer is not None and answer.status == GONE

    def record(session: Session) -> tuple[bool, bool]:
        is_time = webhooks.record_failure(session, endpoint_id, problem)
        target = webhooks.target_of(session, endpoint_id)
        if target is None or target.is_paused or not (is_time or is_gone):
            return target is not None and target.is_paused, False
        return True, webhooks.pause_webhook(session, endpoint_id, problem, actor=f"job:{webhooks.KIND}")

    async with aio.writing(attempt.organization_id) as session:
        is_paused, is_news = await session.run_sync(record)
    if not is_paused:
        raise RetryLaterError(problem, seconds=_pause_seconds(attempt.claimed.attempt, answer))
    if is_news:
        _tell_of_pause(attempt.organization_id, endpoint_id, problem)
    await attempt.log("not delivered, and the endpoint is paused", reason=problem)
    await _wait(attempt, endpoint_id)


def _tell_of_pause(organization_id: UUID, endpoint_id: UUID, problem: str) -> None:
    PAUSED.inc()
    log.warning(
        "webhook.paused",
        organization=str(organization_id),
        endpoint=str(endpoint_id),
        reason=problem,
        hint="deliveries wait: `docworker webhooks resume` lets them go on",
    )


def _pause_seconds(attempt: int, answer: Answer | None) -> float:
    """What the receiver has asked for, else longer each time."""
    if answer is not None and answer.retry_after_seconds is not None:
        return min(max(answer.retry_after_seconds, 1.0), MOST_RETRY_AFTER_SECONDS)
    return PAUSES_SECONDS[min(attempt, len(PAUSES_SECONDS)) - 1] * random.uniform(0.75, 1.0)  # noqa: S311 - no secret


async def _wait(attempt: AsyncAttempt, endpoint_id: UUID) -> None:
    """Until the endpoint is resumed. Who resumes it wakes what has been put off by then, so look once more after."""
    await attempt.snooze(WAIT_SECONDS)
    async with aio.writing(attempt.organization_id) as session:
        target = await session.run_sync(webhooks.target_of, endpoint_id)
        if target is None or not target.is_paused:
            await session.run_sync(webhooks.wake_deliveries, endpoint_id, attempt.id)

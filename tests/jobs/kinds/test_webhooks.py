"""Events are delivered to a real server: signed, again with their id, in order, and not while it is paused."""

import asyncio
import base64
import hashlib
import hmac
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update
from structlog.testing import capture_logs

import docworker.aio
from docworker.db import list_webhooks, pause_webhook, remove_webhook, resume_webhook, rotate_webhook
from docworker.db.editing.audit import list_entries
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models import Job, WebhookEndpoint
from docworker.db.sessions import reading, writing
from docworker.db.webhooks import Webhook, add_webhook
from docworker.jobs.execution.coroutines import close_event_loop
from docworker.jobs.kinds.webhooks import MAX_ATTEMPTS, PAUSED, PAUSES_SECONDS, deliver_webhook, send_webhook
from docworker.jobs.testing import advance_clock, drain
from docworker.worker.tenants.owner import owning
from tests.support.adhoc_kinds import state
from tests.support.database import opened_database
from tests.support.http_server import Receiver, receiving
from tests.support.stack import applied
from tests.support.tenants import Tenant

KINDS = {deliver_webhook.kind.name: deliver_webhook.kind}


@pytest.fixture(scope="module", autouse=True)
def _to_this_machine(environment: dict[str, str]) -> Iterator[None]:
    allowed = {
        "DOCWORKER_WEBHOOK_ALLOW_HTTP": "true",
        "DOCWORKER_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.1/32",
        "DOCWORKER_WEBHOOK_PAUSE_FAILURES": "3",
        "DOCWORKER_WEBHOOK_PAUSE_AFTER": "3600",
    }
    with applied(environment | allowed), opened_database():
        yield
    close_event_loop()


@pytest.fixture
def tenant() -> Iterator[Tenant]:
    tenant = Tenant()
    yield tenant
    with writing(tenant.id) as session:
        left = update(Job).where(Job.organization_id == tenant.id, Job.finished_at.is_(None))
        session.execute(left.values(state="cancelled", finished_at=func.clock_timestamp()))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


class Endpoint:
    def __init__(self, tenant: Tenant, url: str, *, is_ordered: bool = True) -> None:
        self.tenant = tenant
        with writing(tenant.id) as session:
            self.id, self.secret = add_webhook(session, url, is_ordered=is_ordered, actor="test")

    def send(self, *numbers: int) -> list[UUID]:
        ids = []
        with writing(self.tenant.id) as session:
            for number in numbers:
                ids += send_webhook(session, "counted", {"number": number})
        return ids

    def look(self) -> Webhook:
        with reading(self.tenant.id, source="master") as session:
            (found,) = [one for one in list_webhooks(session) if one.id == self.id]
        return found

    def resume(self) -> bool:
        return resume_webhook(self.tenant.id, self.id, actor="test")

    def fail_since(self, seconds: int) -> None:
        """As if the first of its failures had been so long ago."""
        with writing(self.tenant.id) as session:
            since = datetime.fromtimestamp(datetime.now(UTC).timestamp() - seconds, UTC)
            session.execute(update(WebhookEndpoint).values(failing_since=since))


def delivered_now() -> int:
    return drain(KINDS)


def numbers_of(receiver: Receiver) -> list[int]:
    return [json.loads(one.body)["data"]["number"] for one in receiver.requests]


def signature_of(request: Any, secret: str) -> str:
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def test_an_event_is_delivered_once_committed_and_signed_by_the_endpoints_secret(
    tenant: Tenant, receiver: Receiver
) -> None:
    endpoint = Endpoint(tenant, receiver.url + "/hook")
    Endpoint(Tenant(), receiver.url + "/other")
    with writing(tenant.id) as session:
        (job_id,) = send_webhook(session, "document.processed", {"at": datetime(2026, 1, 1, tzinfo=UTC), "é": [1.5]})
        assert delivered_now() == 0
    assert delivered_now() == 1
    assert state(job_id).result == {"delivered": True, "status": 204}
    (request,) = receiver.requests
    event = json.loads(request.body)
    assert (request.path, event["type"]) == ("/hook", "document.processed")
    assert event["data"] == {"at": "2026-01-01T00:00:00Z", "é": [1.5]}
    assert request.headers["webhook-id"] == str(job_id)
    assert request.headers["webhook-signature"] == signature_of(request, endpoint.secret)
    assert abs(int(request.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60


def test_a_failed_delivery_comes_again_with_its_id_when_the_pause_is_over(tenant: Tenant, receiver: Receiver) -> None:
    endpoint = Endpoint(tenant, receiver.url)
    (job_id,) = endpoint.send(1)
    receiver.status = 500
    assert (delivered_now(), delivered_now()) == (1, 0)
    waiting = state(job_id)
    assert (waiting.state, waiting.attempt, waiting.error_message) == ("queued", 1, "answered 500")
    assert (endpoint.look().failures, endpoint.look().last_error) == (1, "answered 500")
    receiver.status = 200
    advance_clock(PAUSES_SECONDS[0])
    assert delivered_now() == 1
    assert receiver.ids == [str(job_id)] * 2
    assert receiver.requests[0].body == receiver.requests[1].body
    assert (endpoint.look().failures, endpoint.look().failing_since) == (0, None)


def test_what_the_receiver_asks_to_wait_is_waited(tenant: Tenant, receiver: Receiver) -> None:
    receiver.status, receiver.headers = 429, {"Retry-After": "5000"}
    endpoint = Endpoint(tenant, receiver.url)
    (job_id,) = endpoint.send(1)
    assert delivered_now() == 1
    advance_clock(4900)
    assert delivered_now() == 0
    receiver.status = 200
    advance_clock(101)
    assert delivered_now() == 1
    assert state(job_id).state == "succeeded"


def test_deliveries_to_an_endpoint_keep_their_order_and_one_that_is_out_of_attempts_lets_the_next_go(
    tenant: Tenant, receiver: Receiver
) -> None:
    endpoint = Endpoint(tenant, receiver.url)
    first, second, third = endpoint.send(1, 2, 3)
    receiver.status = 500
    assert delivered_now() == 1
    assert numbers_of(receiver) == [1]
    with writing(tenant.id) as session:
        session.execute(update(Job).where(Job.id == first).values(attempt=MAX_ATTEMPTS - 1))
    advance_clock(60)
    receiver.before = lambda _: setattr(receiver, "status", 500 if len(receiver.requests) == 2 else 200)
    while delivered_now():
        pass
    assert numbers_of(receiver) == [1, 1, 2, 3]
    assert [state(one).state for one in (first, second, third)] == ["failed", "succeeded", "succeeded"]


def test_without_order_one_that_fails_holds_up_no_other(tenant: Tenant, receiver: Receiver) -> None:
    endpoint = Endpoint(tenant, receiver.url, is_ordered=False)
    endpoint.send(1, 2)
    receiver.status = 500
    assert delivered_now() == 2


def test_who_is_gone_is_paused_at_once_and_what_waits_goes_on_in_order_when_it_is_resumed(
    tenant: Tenant, receiver: Receiver
) -> None:
    endpoint = Endpoint(tenant, receiver.url)
    ids = endpoint.send(1, 2)
    receiver.status = 410
    before = PAUSED._value.get()
    with capture_logs() as logs:
        assert delivered_now() == 1
    assert [one["endpoint"] for one in logs if one["event"] == "webhook.paused"] == [str(endpoint.id)]
    assert PAUSED._value.get() == before + 1
    assert endpoint.look().pause_reason == "answered 410"
    ids += endpoint.send(3)
    for _ in range(3):
        advance_clock(86400)
        delivered_now()
    assert numbers_of(receiver) == [1], "nothing is sent there while it is paused"
    assert {state(one).attempt for one in ids} == {0}, "to wait costs no attempt"
    receiver.status = 200
    assert endpoint.resume()
    while delivered_now():
        pass
    assert numbers_of(receiver) == [1, 1, 2, 3]
    assert receiver.ids == [str(ids[0]), *map(str, ids)]
    entries = [(one.action, one.actor) for one in list_entries(tenant.id, subject="webhook")]
    assert entries == [
        ("webhook.resumed", "test"),
        ("webhook.paused", "job:deliver_webhook"),
        ("webhook.added", "test"),
    ]


def test_so_many_failures_in_a_row_pause_it_when_they_last_long_enough(tenant: Tenant, receiver: Receiver) -> None:
    endpoint = Endpoint(tenant, receiver.url)
    (job_id,) = endpoint.send(1)
    receiver.status = 503
    for _ in range(4):
        assert delivered_now() == 1
        advance_clock(86400)
    assert endpoint.look().failures == 4
    assert endpoint.look().paused_at is None, "many in a short time are one outage"
    endpoint.fail_since(3700)
    assert delivered_now() == 1
    assert endpoint.look().pause_reason == "answered 503"
    assert (state(job_id).state, state(job_id).attempt) == ("queued", 4), "the delivery itself waits"
    receiver.status = 200
    assert endpoint.resume()
    assert endpoint.look().failures == 0
    assert delivered_now() == 1
    assert state(job_id).state == "succeeded"


RESUMED_BEFORE = """
CREATE FUNCTION public.resumed_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ledger.webhook_endpoints SET paused_at = NULL, pause_reason = NULL;
    RETURN NULL;
END
$$;
CREATE TRIGGER resumed_before AFTER UPDATE ON ledger.jobs FOR EACH ROW
WHEN (NEW.kind = 'deliver_webhook' AND NEW.state = 'queued' AND NEW.later) EXECUTE FUNCTION public.resumed_before()
"""


def test_one_that_was_resumed_before_a_delivery_had_put_itself_off_is_not_slept_through(
    tenant: Tenant, receiver: Receiver
) -> None:
    endpoint = Endpoint(tenant, receiver.url)
    endpoint.send(1)
    with writing(tenant.id) as session:
        pause_webhook(session, endpoint.id, "by hand", actor="test")
    with owning() as owner:
        owner.execute(text(RESUMED_BEFORE))
    try:
        assert delivered_now() == 2, "one that put itself off, and one that was woken by nobody else"
    finally:
        with owning() as owner:
            owner.execute(text("DROP FUNCTION public.resumed_before() CASCADE"))
    assert numbers_of(receiver) == [1]


def test_both_secrets_sign_after_a_rotation_until_the_old_one_is_over(tenant: Tenant, receiver: Receiver) -> None:
    endpoint = Endpoint(tenant, receiver.url)
    with writing(tenant.id) as session:
        new = rotate_webhook(session, endpoint.id, overlap_seconds=3600, actor="test")
    endpoint.send(1)
    delivered_now()
    with writing(tenant.id) as session:
        newest = rotate_webhook(session, endpoint.id, overlap_seconds=0, actor="test")
    endpoint.send(2)
    delivered_now()
    during, after = receiver.requests
    both = f"{signature_of(during, new)} {signature_of(during, endpoint.secret)}"
    assert during.headers["webhook-signature"] == both
    assert after.headers["webhook-signature"] == signature_of(after, newest)
    assert len({endpoint.secret, new, newest}) == 3


def test_what_waits_for_an_endpoint_that_is_removed_ends_and_sends_nothing(tenant: Tenant, receiver: Receiver) -> None:
    endpoint = Endpoint(tenant, receiver.url)
    (job_id,) = endpoint.send(1)
    with writing(tenant.id) as session:
        remove_webhook(session, endpoint.id, actor="test")
    assert delivered_now() == 1
    assert receiver.requests == []
    assert (state(job_id).result or {})["delivered"] is False
    with writing(tenant.id) as session, pytest.raises(NotFoundError, match="has no webhook"):
        rotate_webhook(session, endpoint.id, actor="test")


def test_a_worker_without_a_client_says_so_and_lets_deliveries_wait(
    tenant: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint(tenant, receiver.url)
    (job_id,) = endpoint.send(1)
    with monkeypatch.context() as without, capture_logs() as logs:
        without.setitem(sys.modules, "httpx2", None)
        assert delivered_now() == 1
    assert ["docworker[webhooks]" in one["error"] for one in logs if one["event"] == "webhook.not_sent"] == [True]
    assert (state(job_id).state, state(job_id).attempt, endpoint.look().failures) == ("queued", 0, 0)
    advance_clock(60)
    assert delivered_now() == 1
    assert receiver.ids == [str(job_id)]


def test_secrets_are_in_no_list_no_job_no_log_and_no_audit_entry(tenant: Tenant, receiver: Receiver) -> None:
    endpoint = Endpoint(tenant, receiver.url)
    receiver.status = 410
    endpoint.send(1)
    with capture_logs() as logs:
        delivered_now()
    with writing(tenant.id) as session:
        jobs = session.scalars(select(Job).where(Job.kind == deliver_webhook.kind.name)).all()
        shown = [(one.arguments, one.error_message, one.error_traceback, one.progress) for one in jobs]
    told = repr((logs, shown, endpoint.look(), list_entries(tenant.id)))
    assert "whsec" not in told
    assert endpoint.secret.removeprefix("whsec_") not in told


@pytest.mark.parametrize(
    "url", ["ftp://a.example", "https://", "//a.example", "https://me:pw@a.example", "https://a b.example", "x" * 3000]
)
def test_what_is_no_address_for_a_webhook_is_refused(tenant: Tenant, url: str) -> None:
    with writing(tenant.id) as session, pytest.raises(InvalidArgumentError):
        add_webhook(session, url, actor="test")


def test_a_session_of_asyncio_sends_as_well(tenant: Tenant, receiver: Receiver) -> None:
    Endpoint(tenant, receiver.url)

    async def send() -> list[UUID]:
        async with docworker.aio.lifespan(), docworker.aio.writing(tenant.id) as session:
            return await send_webhook(session, "counted", {"number": 1})

    (job_id,) = asyncio.run(send())
    assert delivered_now() == 1
    assert receiver.ids == [str(job_id)]


def test_what_is_no_json_is_refused_and_the_transaction_goes_on(tenant: Tenant, receiver: Receiver) -> None:
    Endpoint(tenant, receiver.url)
    with writing(tenant.id) as session:
        with pytest.raises(InvalidArgumentError, match="counted"):
            send_webhook(session, "counted", {"number": object()})
        assert len(send_webhook(session, "counted", {"number": 1})) == 1

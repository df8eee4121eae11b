"""A worker that is killed after a webhook was taken, and before that is in the ledger, has it delivered once more."""

import os
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from docworker.db.models import Job
from docworker.db.sessions import writing
from docworker.db.webhooks import add_webhook
from docworker.jobs.kinds.webhooks import send_webhook
from tests.support.adhoc_kinds import state
from tests.support.database import opened_database, somebody_waits
from tests.support.http_server import receiving
from tests.support.processes import Processes
from tests.support.stack import applied
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


@pytest.fixture
def tenant(environment: dict[str, str]) -> Iterator[Tenant]:
    """One whose events may be delivered to this machine."""
    allowed = {"DOCWORKER_WEBHOOK_ALLOW_HTTP": "true", "DOCWORKER_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.1/32"}
    with applied(environment | allowed), opened_database():
        yield Tenant()


def test_one_that_was_taken_by_a_killed_worker_comes_again_with_the_same_id(
    tenant: Tenant, processes: Processes, tmp_path: Path
) -> None:
    with receiving() as receiver:
        with writing(tenant.id) as session:
            add_webhook(session, receiver.url, actor="test")
            (job_id,) = send_webhook(session, "counted", {"number": 1})
        worker = {"DOCWORKER_LEASE": "2", "DOCWORKER_WORKER_PROCESSES": "1"}
        with writing(tenant.id) as holder:

            def hold(_: BaseHTTPRequestHandler) -> None:
                """Nobody can end the job from now on."""
                if len(receiver.requests) == 1:
                    holder.execute(select(Job.id).where(Job.id == job_id).with_for_update())

            receiver.before = hold
            processes.start("worker", environment=worker)
            processes.start("dispatcher", environment={"DOCWORKER_LEASE": "2"})
            eventually(lambda: len(receiver.requests) == 1 and somebody_waits(), within_seconds=40, what="an answer")
            os.kill(process_of(job_id), signal.SIGKILL)
            holder.rollback()
        eventually(lambda: state(job_id).state == "succeeded", within_seconds=60, what="it to be delivered once more")
        assert receiver.ids == [str(job_id)] * 2
        assert receiver.requests[0].body == receiver.requests[1].body
        assert state(job_id).attempt == 2


def process_of(job_id: UUID) -> int:
    return int(str(state(job_id).claimed_by).rpartition(":")[2])

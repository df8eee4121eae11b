"""Coroutine kinds through real processes: many jobs of one process wait for a server that takes its time."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from sqlalchemy import select

from docworker.db import ledger
from docworker.db.models import AuditEntry, Job
from docworker.db.sessions import all_jobs_session, reading, writing
from docworker.jobs.enqueue import enqueue_many
from tests.support.http_server import answering
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import fetch
from tests.support.waiting import eventually


class Slow:
    """How a server is that answers when it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.keys: list[str] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        self.keys.append(request.headers["Idempotency-Key"])
        assert self.answers.wait(60)


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.answers.set()


def test_many_wait_in_one_process_and_when_it_is_killed_only_those_are_charged(
    tenant: Tenant, slow: Slow, processes: Processes, tmp_path: Path
) -> None:
    with answering(slow) as url:
        install_user_package(tmp_path / "processes")
        processes.start("worker", environment={"DOCWORKER_LEASE": "2", "DOCWORKER_WORKER_PROCESSES": "1"})
        with writing(tenant.id) as session:
            ids = enqueue_many(session, fetch, [{"port": urlsplit(url).port}] * 12)
        processes.start("dispatcher", environment={"DOCWORKER_DISPATCH_WINDOW": "1"})
        eventually(lambda: len(slow.keys) == 4, within_seconds=40, what="four wait at the same time")
        with all_jobs_session() as session:
            pids = {ledger.get(session, one).claimed_by for one in ids} - {None}
        assert len(pids) == 1
        os.kill(int(str(pids.pop()).rpartition(":")[2]), signal.SIGKILL)
        slow.answers.set()

        eventually(lambda: states(ids) == {"succeeded": 12}, within_seconds=60, what="all to succeed")
        with all_jobs_session() as session:
            assert Counter(ledger.get(session, one).attempt for one in ids) == {1: 8, 2: 4}
        assert Counter(Counter(slow.keys).values()) == {1: 8, 2: 4}, "with the key of the attempt before"
        with reading(tenant.id, source="master") as session:
            assert len(session.scalars(select(AuditEntry)).all()) == 12, "each has one effect"


def states(ids: list[UUID]) -> Counter[str]:
    with all_jobs_session() as session:
        return Counter(session.scalars(select(Job.state).where(Job.id.in_(ids))))

"""What fails although nobody expected it is reported to Sentry, with its stack and nothing of what it was about."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docworker.db.faults import Fault
from docworker.db.ledger import AttemptEnd
from docworker.db.sessions import writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.sentry import is_surprise
from tests.support.http_server import Receiver, receiving
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import odd, record
from tests.support.waiting import eventually


@pytest.fixture
def sentry() -> Iterator[Receiver]:
    with receiving() as receiver:
        receiver.status = 200
        yield receiver


def events_of(sentry: Receiver) -> dict[str, Any]:
    """By the job that each is of."""
    events = {}
    for request in list(sentry.requests):
        body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        for line in body.splitlines():
            told = json.loads(line)
            if "exception" in told:
                events[told["tags"]["job"]] = told
    return events


def test_a_failure_is_reported_with_its_stack_and_no_words_of_it(
    tenant: Tenant, sentry: Receiver, processes: Processes, tmp_path: Path
) -> None:
    install_user_package(tmp_path / "processes")
    address = sentry.url.removeprefix("http://")
    worker = processes.start("worker", environment={"SENTRY_DSN": f"http://key@{address}/1"})
    processes.start("dispatcher")
    with writing(tenant.id) as session:
        enqueue(session, record)
        failed = str(enqueue(session, odd, how="panic", max_attempts=1))
        unspeakable = str(enqueue(session, odd, how="unspeakable", max_attempts=1))
    eventually(lambda: failed in events_of(sentry), within_seconds=60, what="a report")
    assert unspeakable in worker.wait_for_log("sentry.not_reported")
    (event,) = events_of(sentry).values()
    tags = {"job": failed, "kind": "tests.odd", "organization": str(tenant.id), "attempt": "1", "outcome": "failed"}
    assert (event["tags"], event["level"], event["transaction"]) == (tags, "error", "tests.odd")
    error = event["exception"]["values"][-1]
    assert (error["type"], error["value"]) == ("PanicError", "")
    assert "_panic" in [frame["function"] for frame in error["stacktrace"]["frames"]]
    assert not any("vars" in frame for frame in error["stacktrace"]["frames"])
    assert '"how"' not in json.dumps(event), "arguments"


@pytest.mark.parametrize("fault", Fault)
def test_what_is_expected_is_not_reported(fault: Fault) -> None:
    assert is_surprise(fault, AttemptEnd.RETRIED) is (fault in (Fault.UNKNOWN, Fault.OUR_BUG))
    assert is_surprise(fault, AttemptEnd.FAILED) is (fault is not Fault.BAD_INPUT)
    assert not is_surprise(fault, AttemptEnd.FENCED)

"""What spans say of jobs that are retried, put off, run together or enqueue others; and what they never say."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.database import opened_database
from tests.support.project import PROJECT
from tests.support.spans import collecting, spans_with_resources, values_of
from tests.support.tenants import Tenant

PROGRAM = """
from contextlib import suppress
from types import SimpleNamespace
from uuid import UUID, uuid4
from opentelemetry import trace
from sqlalchemy import text
from docworker import enqueue, enqueue_many, open_database, writing
from docworker.db import ledger
from docworker.db.sessions import all_jobs_session
from docworker.jobs.task import Attempt, Batch, batch_job, job
from docworker.jobs.testing import advance_clock, drain
from docworker.jobs.tracing import answering, attempts_traced, enqueuing, sending, start_tracing, stop_tracing
from docworker.jobs.kind import Arguments

class Nothing(Arguments):
    pass

@job(name="spans.plain")
def plain(attempt: Attempt, text: str) -> None:
    attempt.finish()

@job(name="spans.twice", max_attempts=2)
def twice(attempt: Attempt, text: str) -> None:
    if attempt.claimed.attempt == 1:
        raise ValueError(text)
    attempt.finish()

@job(name="spans.once", max_attempts=1)
def once(attempt: Attempt, text: str) -> None:
    raise ValueError(text)

@job(name="spans.later")
def later(attempt: Attempt, text: str) -> None:
    attempt.snooze(3000)

@job(name="spans.fenced")
def fenced(attempt: Attempt, text: str) -> None:
    with all_jobs_session() as session:
        assert ledger.cancel(session, ledger.Filter(organization_id=owner), [attempt.id])
    attempt.finish()

@job(name="spans.parent")
def parent(attempt: Attempt, text: str) -> None:
    attempt.finish(lambda session: enqueue(session, plain, text=text, parent_id=attempt.id) and None)

@job(name="spans.asks")
def asks(attempt: Attempt, text: str) -> None:
    with writing(attempt.organization_id) as session, suppress(Exception):
        session.execute(question, {"value": text})
    attempt.finish()

@batch_job(name="spans.batch", arguments=Nothing)
def batch(batch: Batch[Nothing]) -> None:
    with writing(batch.organization_id) as session:
        enqueue(session, plain, text="of a batch")
    for attempt in batch.starting():
        attempt.finish()

question = text("SELECT CAST(:value AS integer)")
secret = "the secret of the text"
about = {"attempt": 1, "max_attempts": 1, "queued_seconds": 0.0, "parent_id": None, "traceparent": None}
kinds = {one.kind.name: one.kind for one in (plain, twice, once, later, fenced, parent, asks, batch)}
owner = UUID(sys.argv[1])
unsettled = SimpleNamespace(claimed=SimpleNamespace(id=uuid4(), organization_id=owner, **about))
open_database()
start_tracing("spans")
tracer = trace.get_tracer("tests")
with writing(owner) as session:
    for one in (plain, twice, once, later, fenced, parent, asks):
        with tracer.start_as_current_span(f"root of {one.kind.name}"):
            enqueue(session, one, text=secret)
    with tracer.start_as_current_span("root of spans.batch"):
        enqueue_many(session, batch, [{}, {}])
    others = {enqueue(session, plain, text="other"): kept for kept in (None, "of another program")}
with all_jobs_session() as session:
    for one, kept in others.items():
        session.execute(text("UPDATE ledger.jobs SET traceparent = :kept WHERE id = :id"), {"id": one, "kept": kept})
drain(kinds)
advance_clock(1000)
drain(kinds)
for within in (
    enqueuing("raised.kind", owner, 1),
    sending("raised.kind", uuid4(), 1, ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]),
    answering("GET", "/raised", None),
):
    with suppress(LookupError), within:
        raise LookupError(secret)
with attempts_traced("unsettled.kind", [unsettled]):
    pass
stop_tracing()
"""
MEANT = {
    "OTEL_BSP_SCHEDULE_DELAY": "600000",  # all is sent by the flush at the end
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=tests",
}


@dataclass(frozen=True)
class Told:
    """The spans that a program has sent, with the attributes of its process."""

    spans: list[Any]
    process: dict[str, Any]
    bodies: bytes
    output: str

    def named(self, name: str, *, below: str | None = None) -> list[Any]:
        """In the order in which they began; of the trace of a root, if one is named."""
        traces = {one.trace_id for one in self.spans if one.name == below}
        found = [one for one in self.spans if one.name == name and (below is None or one.trace_id in traces)]
        return sorted(found, key=lambda one: int(one.start_time_unix_nano))

    def parent_of(self, span: Any) -> str | None:
        return next((one.name for one in self.spans if one.span_id == span.parent_span_id), None)


@pytest.fixture(scope="module")
def told(environment: dict[str, str]) -> Told:
    with opened_database():
        owner = Tenant().id
    return told_by(PROGRAM, str(owner), **MEANT)


def told_by(program: str, *arguments: str, **variables: str) -> Told:
    known = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with collecting() as collector:
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\n{program}", *arguments],
            cwd=PROJECT,
            env=known | where | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = spans_with_resources(collector)
        bodies = b"".join(one.body for one in collector.requests)
    return Told([span for _, span in found], found[0][0] if found else {}, bodies, done.stdout)


def test_each_attempt_of_a_job_has_a_span_of_its_own_below_where_it_was_enqueued(told: Told) -> None:
    attempts = told.named("process spans.twice", below="root of spans.twice")
    assert [told.parent_of(one) for one in attempts] == ["enqueue spans.twice"] * 2
    values = [values_of(one) for one in attempts]
    assert [one["docworker.attempt"] for one in values] == [1, 2]
    assert [one["docworker.outcome"] for one in values] == ["retried", "succeeded"]
    assert [one.get("error.type") for one in values] == ["ValueError", None]
    assert [one.status.code for one in attempts] == [Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET]
    assert {one["docworker.max_attempts"] for one in values} == {2}
    assert values[1]["docworker.queue_seconds"] > 900, "from due to claimed"


@pytest.mark.parametrize(
    ("kind", "outcome", "code"),
    [
        ("plain", "succeeded", Status.STATUS_CODE_UNSET),
        ("once", "failed", Status.STATUS_CODE_ERROR),
        ("later", "snoozed", Status.STATUS_CODE_UNSET),
        ("fenced", "fenced", Status.STATUS_CODE_UNSET),
    ],
)
def test_an_attempt_tells_how_it_ended(told: Told, kind: str, outcome: str, code: int) -> None:
    (attempt,) = told.named(f"process spans.{kind}", below=f"root of spans.{kind}")
    assert (values_of(attempt)["docworker.outcome"], attempt.status.code) == (outcome, code)


def test_an_attempt_whose_end_could_not_be_written_leaves_its_span_all_the_same(told: Told) -> None:
    (attempt,) = told.named("process unsettled.kind")
    assert "docworker.outcome" not in values_of(attempt)


def test_spans_follow_the_conventions_for_messaging(told: Told) -> None:
    (entered,) = told.named("enqueue spans.batch")
    (together,) = told.named("process spans.batch together")
    (attempt,) = told.named("process spans.later")
    for span, kind, name, operation in (
        (entered, Span.SPAN_KIND_PRODUCER, "enqueue", "create"),
        (together, Span.SPAN_KIND_CONSUMER, "process", "process"),
        (attempt, Span.SPAN_KIND_CONSUMER, "process", "process"),
    ):
        values = values_of(span)
        assert span.kind == kind, span.name
        assert values["messaging.system"] == "docworker"
        assert (values["messaging.operation.name"], values["messaging.operation.type"]) == (name, operation)
        assert values["docworker.organization_id"]
    assert values_of(entered)["messaging.destination.name"] == "spans.batch"
    assert values_of(entered)["messaging.batch.message_count"] == 2
    assert values_of(together)["messaging.batch.message_count"] == 2


def test_jobs_of_one_trace_that_run_together_stay_in_it(told: Told) -> None:
    attempts = told.named("process spans.batch", below="root of spans.batch")
    (together,) = told.named("process spans.batch together", below="root of spans.batch")
    assert {one.span_id for one in together.links} == {one.span_id for one in attempts}
    assert len(attempts) == 2
    (made,) = told.named("enqueue spans.plain", below="root of spans.batch")
    assert told.parent_of(made) == "process spans.batch together"


def test_a_child_names_its_parent(told: Told) -> None:
    (parent,) = told.named("process spans.parent")
    (child,) = told.named("process spans.plain", below="root of spans.parent")
    assert values_of(child)["docworker.parent_id"] == values_of(parent)["messaging.message.id"]
    assert told.parent_of(child) == "enqueue spans.plain"
    assert "docworker.parent_id" not in values_of(parent)


def test_a_job_of_no_trace_and_of_one_that_cannot_be_read_has_one_of_its_own(told: Told) -> None:
    known = {one.trace_id for one in told.spans if one.name.startswith("root of")}
    alone = [one for one in told.named("process spans.plain") if one.trace_id not in known]
    assert [one.parent_span_id for one in alone] == [b"", b""]
    assert len({one.trace_id for one in alone}) == 2


def test_a_statement_has_a_span_without_its_values_and_one_that_fails_its_code(told: Told) -> None:
    asked = [
        one
        for one in told.spans
        if told.parent_of(one) == "process spans.asks" and "CAST" in str(values_of(one).get("db.query.text"))
    ]
    (failed,) = asked
    values = values_of(failed)
    assert failed.kind == Span.SPAN_KIND_CLIENT
    assert (values["db.system.name"], values["db.operation.name"], values["error.type"]) == (
        "postgresql",
        "SELECT",
        "22P02",
    )
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert failed.end_time_unix_nano >= failed.start_time_unix_nano > 0


def test_no_span_says_what_jobs_were_given_or_what_errors_say(told: Told) -> None:
    raised = [*told.named("enqueue raised.kind"), *told.named("dispatch raised.kind"), *told.named("GET /raised")]
    assert [one.status.code for one in raised] == [Status.STATUS_CODE_ERROR] * 3
    assert [values_of(one)["error.type"] for one in raised] == ["LookupError"] * 3
    assert Counter(len(one.events) for one in told.spans) == {0: len(told.spans)}
    assert b"secret" not in told.bodies


def test_a_process_is_called_as_we_call_it_unless_the_variables_say_otherwise(told: Told) -> None:
    assert told.process["service.name"] == "spans"
    assert told.process["service.version"]
    assert told.process["deployment.environment.name"] == "tests"
    assert told_by(ALONE, OTEL_SERVICE_NAME="a shop").process["service.name"] == "a shop"


ALONE = """
from docworker.jobs.tracing import enqueuing, start_tracing, stop_tracing
start_tracing("alone")
with enqueuing("a.kind", None, 1):
    pass
stop_tracing()
"""


@pytest.mark.parametrize(
    ("variables", "spans"),
    [
        ({}, 1),
        ({"OTEL_TRACES_EXPORTER": "none"}, 0),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, 1),
        ({"OTEL_SDK_DISABLED": "true"}, 0),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, 0),
    ],
)
def test_the_variables_mean_what_they_mean_elsewhere(variables: dict[str, str], spans: int) -> None:
    told = told_by(ALONE, **variables)
    assert len(told.spans) == spans
    assert "tracing.not_installed" not in told.output


def test_traces_may_have_a_collector_of_their_own() -> None:
    with collecting() as collector:
        traces = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}
        assert told_by(ALONE, **traces).spans == []
        assert len(spans_with_resources(collector)) == 1

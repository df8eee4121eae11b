"""One trace leads from a producer over the dispatcher and a worker to the database and to the job's children."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from sqlalchemy import select

from docworker.db.models import Job
from docworker.db.sessions import reading, writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from tests.support.api import api_of, token_of
from tests.support.http_server import Receiver
from tests.support.processes import Processes
from tests.support.project import PROJECT
from tests.support.spans import collecting, one_of, spans_of, values_of
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import record
from tests.support.waiting import eventually

ENQUEUE = """
from uuid import UUID
from docworker import open_database, writing, enqueue
from docworker.db.models import Job
from docworker.db.sessions import reading
from docworker.jobs.kinds.documents import process_document
from tests.support.api import api_of, token_of
from tests.support.user_package.jobs import fan_out, odd
open_database()
tracer = trace.get_tracer("shop")
with writing(UUID({organization!r})) as session:
    with tracer.start_as_current_span("order"):
        print(enqueue(session, fan_out, children=2))
        enqueue(session, odd, how="panic", max_attempts=1)
        enqueue(session, process_document, document_id=UUID({documents[0]!r}))
    with tracer.start_as_current_span("other order"):
        enqueue(session, process_document, document_id=UUID({documents[1]!r}))
provider.shutdown()
"""


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with collecting() as receiver:
        yield receiver


DOCUMENT = process_document.kind.name
PURGE = "purge_deleted_documents"
ALL = Counter(
    {
        "dispatch tests.fan_out": 1,
        "process tests.record": 2,
        "process tests.odd": 1,
        f"process {DOCUMENT} together": 1,
    }
)


def test_a_trace_leads_from_the_producer_over_dispatcher_and_worker_to_children_and_database(
    tenant: Tenant, collector: Receiver, processes: Processes, tmp_path: Path
) -> None:
    configured = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    install_user_package(tmp_path / "processes")
    (set_up,) = re.findall(r"^```python\n(.*?)^```$", (PROJECT / "docs" / "tracing.md").read_text(), re.DOTALL | re.M)
    program = tmp_path / "shop.py"
    documents = [str(one) for one in tenant.add("a text", "another")]
    program.write_text(set_up + ENQUEUE.format(organization=str(tenant.id), documents=documents))
    worker = processes.start(
        "worker", environment={**configured, "DOCWORKER_WORKER_PROCESSES": "1", "DOCWORKER_LOG_FORMAT": "json"}
    )
    processes.start("dispatcher", environment=configured)
    producer = processes.start_command("shop", [sys.executable, str(program)], environment=configured)
    assert producer.wait(within_seconds=60) == 0, producer.log

    def all_there() -> bool:
        names = Counter(span.name for _, span in spans_of(collector))
        return names >= ALL

    eventually(all_there, within_seconds=60, what="the spans of all processes")
    spans = spans_of(collector)
    (order,) = (span for _, span in spans if span.name == "order")
    ours = [(service, span) for service, span in spans if span.trace_id == order.trace_id]
    names = {span.span_id: span.name for _, span in ours}
    assert {(service, names.get(span.parent_span_id), span.name) for service, span in ours} >= {
        ("shop", None, "order"),
        ("shop", "order", "enqueue tests.fan_out"),
        ("docworker-dispatcher", "enqueue tests.fan_out", "dispatch tests.fan_out"),
        ("docworker-worker", "enqueue tests.fan_out", "process tests.fan_out"),
        ("docworker-worker", "process tests.fan_out", "enqueue tests.record"),
        ("docworker-dispatcher", "enqueue tests.record", "dispatch tests.record"),
        ("docworker-worker", "enqueue tests.record", "process tests.record"),
    }
    attributes = values_of(one_of(spans, "process tests.fan_out"))
    assert attributes["messaging.message.id"] == producer.log.strip()
    assert attributes["docworker.organization_id"] == str(tenant.id)
    assert attributes["docworker.outcome"] == "succeeded"
    assert (attributes["docworker.attempt"], attributes["messaging.operation.type"]) == (1, "process")
    assert attributes["docworker.queue_seconds"] >= 0
    sent = one_of(spans, "dispatch tests.fan_out")
    said = values_of(sent)
    assert (sent.kind, said["messaging.operation.name"]) == (Span.SPAN_KIND_PRODUCER, "dispatch")
    assert (said["messaging.operation.type"], said["messaging.batch.message_count"]) == ("send", 1)
    with reading(tenant.id, source="master") as session:
        (message_id,) = session.scalars(select(Job.message_id).where(Job.id == UUID(producer.log.strip())))
    assert said["messaging.message.id"] == str(message_id), "the message's, not the job's"
    statements = [span for _, span in ours if names.get(span.parent_span_id) == "process tests.record"]
    assert "INSERT" in {values_of(span)["db.operation.name"] for span in statements}, "those of its effect"

    failed = one_of(spans, "process tests.odd")
    assert (failed.status.code, values_of(failed)["error.type"]) == (Status.STATUS_CODE_ERROR, "PanicError")
    assert "disco" not in str(spans), "what an error says"
    line = json.loads(worker.wait_for_log("attempt.ended"))
    assert (line["trace_id"], line["span_id"]) == (order.trace_id.hex(), failed.span_id.hex())

    both = {span.trace_id for _, span in spans if span.name == f"process {DOCUMENT}"}
    assert len(both) == 2
    for name in (f"dispatch {DOCUMENT}", f"process {DOCUMENT} together"):
        together = one_of(spans, name)
        assert values_of(together)["messaging.batch.message_count"] == 2
        assert {one.trace_id for one in together.links} == both
        assert together.trace_id not in both, "it is of neither"


def test_the_api_goes_on_with_the_trace_of_its_caller_and_each_tick_begins_one(
    tenant: Tenant, collector: Receiver, processes: Processes, tmp_path: Path
) -> None:
    configured = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    install_user_package(tmp_path / "processes", "tests.support.user_package.scheduled")
    processes.start("beat", environment=configured)
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    told = {"traceparent": f"00-{trace}-{span}-01"}
    token = token_of(tenant.id)
    job = {"kind": DOCUMENT, "arguments": {"document_id": str(tenant.add("a text")[0])}}
    with api_of(processes, configured, api_kinds=DOCUMENT) as api:
        assert api.ask("POST", "/v1/jobs", "nobody's", json=job, headers=told).status_code == 401
        answer = api.ask("POST", "/v1/jobs", token, json=job, headers=told)
        assert api.ask("GET", answer.headers["Location"], token, headers={"traceparent": "none"}).status_code == 200
        assert api.ask("POST", "/v1/jobs", token, json={**job, "kind": "none"}, headers=told).status_code == 422

        wanted = Counter({"POST /v1/jobs": 2, "GET /v1/jobs/{job_id}": 1, f"enqueue {PURGE}": 1})
        eventually(
            lambda: Counter(one.name for _, one in spans_of(collector)) >= wanted,
            within_seconds=60,
            what="the spans of the API and the beat",
        )
    spans = spans_of(collector)
    ours = [(service, one) for service, one in spans if one.trace_id.hex() == trace]
    names = {one.span_id: one.name for _, one in ours} | {bytes.fromhex(span): "the caller"}
    assert Counter((service, names[one.parent_span_id], one.name) for service, one in ours if not is_sql(one)) == {
        ("docworker-api", "the caller", "POST /v1/jobs"): 2,
        ("docworker-api", "POST /v1/jobs", f"enqueue {DOCUMENT}"): 1,
    }
    requests = [one for _, one in ours if one.name == "POST /v1/jobs"]
    assert {values_of(one)["http.response.status_code"] for one in requests} == {202, 422}, "who is nobody leaves none"
    assert {(one.kind, one.status.code) for one in requests} == {(Span.SPAN_KIND_SERVER, Status.STATUS_CODE_UNSET)}
    with reading(tenant.id) as session:
        (kept,) = session.scalars(select(Job.traceparent).where(Job.id == UUID(answer.json()["job_id"])))
    (entered,) = (one for _, one in ours if one.name == f"enqueue {DOCUMENT}")
    assert kept == f"00-{trace}-{entered.span_id.hex()}-01"

    asked = one_of(spans, "GET /v1/jobs/{job_id}")
    ticks = [(service, one) for service, one in spans if one.name == f"enqueue {PURGE}"]
    assert {service for service, _ in ticks} == {"docworker-beat"}
    begun = [asked, *(one for _, one in ticks)]
    assert not any(one.parent_span_id for one in begun)
    assert len({one.trace_id for one in begun}) == len(begun), "each is a trace of its own"


def is_sql(span: Any) -> bool:
    return "db.system.name" in values_of(span)


def test_what_a_process_has_not_sent_is_sent_when_it_ends_also_by_a_child_that_is_replaced(
    tenant: Tenant, collector: Receiver, processes: Processes, tmp_path: Path
) -> None:
    never = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    install_user_package(tmp_path / "processes")
    processes.start(
        "worker", environment={**never, "DOCWORKER_WORKER_PROCESSES": "1", "DOCWORKER_MAX_TASKS_PER_CHILD": "1"}
    )
    dispatcher = processes.start("dispatcher", environment=never)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("shop")

    def sent(name: str) -> int:
        return sum(span.name == name for _, span in spans_of(collector))

    with tracer.start_as_current_span("order"), writing(tenant.id) as session:
        enqueue(session, record)
    eventually(lambda: sent("process tests.record") == 1, within_seconds=60, what="the span of a child that is over")
    assert sent("dispatch tests.record") == 0
    dispatcher.stop(within_seconds=60)
    assert sent("dispatch tests.record") == 1

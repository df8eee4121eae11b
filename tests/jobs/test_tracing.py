"""What costs nothing where nobody traces, and what is refused or given up where somebody does."""

import os
import socket
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider

from docworker.db.sessions.trace import current_trace
from tests.support.project import PROJECT

UNTRACED = """
import sys
from docworker.jobs.tracing import answering, enqueuing, load_tracing, start_tracing, stop_tracing
load_tracing()
start_tracing("nobody")
told = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
with answering("GET", "/", told) as tell, enqueuing("a.kind", None, 1):
    tell(500)
stop_tracing()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
UNHEARD = """
import sys
from docworker.jobs.tracing import enqueuing, start_tracing, stop_tracing
start_tracing("somebody")
with enqueuing("a.kind", None, 1):
    pass
stop_tracing()
print("over")
"""
MOUNTED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from docworker.jobs.tracing import answering
kept, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)
TOLD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
with trace.get_tracer("application").start_as_current_span("the application's"):
    with answering("GET", "/mounted", TOLD) as tell:
        tell(404)
with answering("GET", "/alone", TOLD) as tell:
    tell(503)
with answering("GET", "/untold", TOLD[:-1]) as tell:
    tell(200)
of = {one.context.span_id: one.name for one in kept.get_finished_spans()} | {0x00F067AA0BA902B7: "the caller's"}
for one in kept.get_finished_spans():
    print(one.name, "of", of[one.parent.span_id] if one.parent else "nobody", one.status.status_code.name)
"""


def run(program: str, **environment: str) -> str:
    known = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=known | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


def test_opentelemetry_is_not_imported_where_no_exporter_is_named() -> None:
    assert run(UNTRACED, OTEL_SDK_DISABLED="true", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == "[]\n"
    assert run(UNTRACED) == "[]\n"


def test_a_collector_that_is_silent_does_not_hold_up_the_end_of_a_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        told = run(UNHEARD, OTEL_EXPORTER_OTLP_ENDPOINT=where, OTEL_EXPORTER_OTLP_TIMEOUT="600")
    assert told.endswith("over\n")


def test_a_request_is_in_the_trace_of_the_program_around_it_else_in_that_of_its_caller() -> None:
    assert run(MOUNTED).splitlines() == [
        "GET /mounted of the application's UNSET",
        "the application's of nobody UNSET",
        "GET /alone of the caller's ERROR",
        "GET /untold of nobody UNSET",
    ]


@pytest.mark.parametrize("named", [{"OTEL_TRACES_EXPORTER": "pigeon"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}])
def test_where_the_exporter_is_not_installed_the_log_says_so_and_all_goes_on(named: dict[str, str]) -> None:
    told = run(UNHEARD, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **named)
    assert "tracing.not_installed" in told
    assert told.endswith("over\n")


def test_the_trace_is_told_as_the_w3c_has_it() -> None:
    assert current_trace() is None
    with TracerProvider(shutdown_on_exit=False).get_tracer("tests").start_as_current_span("a span") as span:
        context = span.get_span_context()
        assert current_trace() == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

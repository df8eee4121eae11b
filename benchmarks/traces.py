"""`measure_traces`: jobs per second with nobody tracing and with all processes sending spans, in pairs of turns."""

import os
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sqlalchemy import text

from benchmarks import backlog
from benchmarks.kinds import do_nothing, do_nothings, normalize_document, normalize_one
from benchmarks.servers import wait_until
from docworker.db.sessions import all_jobs_session
from docworker.worker.local.servers.roles import DATABASE
from docworker.worker.local.stack import LocalStack

_WHERE = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SHAPES: tuple[tuple[str, Any, bool, float], ...] = (
    ("nothing, one by one", do_nothing, False, 1),
    ("nothing, in batches", do_nothings, False, 4),
    ("a document, one by one", normalize_one, True, 0.5),
    ("a document, in batches", normalize_document, True, 2),
)
"""Kinds, whether a job of theirs has a document, and how many jobs there are for each that was asked for."""


def measure_traces(servers: LocalStack, jobs: int, turns: int) -> None:
    """So many jobs of each kind a turn, or as many more as suit it; traced, each is of a trace of its own. Prints
    medians of the turns, and of the ratios within them."""
    print(f"{jobs} jobs a turn of the first kind, 2 worker processes, {os.cpu_count()} cores")
    print(f"{'jobs per second':26}{'untraced':>12}{'traced':>12}{'ratio':>9}{'spans/job':>11}")
    for name, task, document, times in _SHAPES:
        count = round(jobs * times)
        plain, traced, spans = [], [], 0
        for _ in range(turns):
            plain.append(_rate(servers, task, count, document=document))
            with _collecting() as received:
                traced.append(_rate(servers, task, count, document=document, is_traced=True))
            spans = received[0]
        ratio = statistics.median(one / other for one, other in zip(traced, plain, strict=True))
        one, other = statistics.median(plain), statistics.median(traced)
        print(f"{name:26}{one:>12,.0f}{other:>12,.0f}{ratio:>9.2f}{spans / count:>11.1f}", flush=True)


def _rate(servers: LocalStack, task: Any, jobs: int, *, document: bool, is_traced: bool = False) -> float:
    """From the first claim to the last end."""
    backlog.clear(servers)
    backlog.enter(servers, task, backlog.make_tenants(servers, 1), jobs, document=document)
    if is_traced:
        servers.master.execute(
            "UPDATE ledger.jobs SET traceparent ="
            " '00-' || md5(id::text) || '-' || left(md5(id::text || 'span'), 16) || '-01'",
            database=DATABASE,
        )
    servers.master.execute("VACUUM ANALYZE ledger.jobs", database=DATABASE)
    with backlog.running_workers() as running:
        wait_until(lambda: backlog.succeeded(task) >= jobs, 0.2, running)
        query = text(
            "SELECT CAST(extract(epoch FROM max(finished_at) - min(claimed_at)) AS double precision)"
            " FROM ledger.jobs WHERE kind = :kind AND state = 'succeeded'"
        )
        with all_jobs_session() as session:
            return jobs / float(session.scalar(query, {"kind": task.kind.name}) or 0)


@contextmanager
def _collecting() -> Iterator[list[int]]:
    """A collector that counts the spans it is sent, with its address in the environment of what is started."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    bodies: list[bytes] = []
    received = [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            """Not a line for each."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ[_WHERE] = f"http://127.0.0.1:{server.server_port}"
    try:
        yield received
    finally:
        del os.environ[_WHERE]
        server.shutdown()
        server.server_close()
        for body in bodies:
            sent = ExportTraceServiceRequest.FromString(body)
            received[0] += sum(len(scope.spans) for one in sent.resource_spans for scope in one.scope_spans)

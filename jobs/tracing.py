"""`start_tracing`, `answering`, `enqueuing`, `sending`, `attempts_traced`: jobs as spans of OpenTelemetry.

Names and attributes follow its semantic conventions for messaging; a kind of job is a destination. Where nobody has
imported OpenTelemetry, all of this does nothing; our own processes do so where an exporter is configured. No span holds
arguments, texts or messages of errors.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points, version
from typing import Any, Protocol
from uuid import UUID

import structlog
from sqlalchemy import Engine, event

from docworker.db.ledger import AttemptEnd, Claimed

log = structlog.get_logger(__name__)

_WHERE = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_MOST_OF_A_STATEMENT = 2_000
_MOST_LINKS = 128
_FLUSH_SECONDS = 2.0
_ENDED_BADLY = (AttemptEnd.FAILED, AttemptEnd.RETRIED)
_AS_ERROR = "error.type"
_OUR_FAULT = 500


class Traced(Protocol):
    """An attempt, as far as its span needs it."""

    claimed: Claimed
    span: Any


def load_tracing() -> None:
    """Import what `start_tracing` needs, before a fork."""
    _exporter()


def start_tracing(service: str) -> None:
    """Export spans of this process as the OTEL_… variables say, under this name unless they say another. To be called
    after a fork. Nothing happens where they name no exporter; where it is not installed, the log says so."""
    exporter = _exporter()
    if exporter is None:
        return
    from opentelemetry import trace  # noqa: PLC0415 - of an extra
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    named = Resource({"service.name": service, "service.version": version("docworker")})
    resource = Resource.create(dict(named.merge(OTELResourceDetector().detect()).attributes))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    trace.set_tracer_provider(provider)
    for name, listener in _LISTENERS.items():
        event.listen(Engine, name, listener)
    log.info("tracing.started", service=resource.attributes["service.name"])


def stop_tracing() -> None:
    """Send what has not been sent, for two seconds at most: where nobody takes it, it is lost."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    provider = trace and trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        # Its own bound is not kept: an exporter tries a collector that is away for ten seconds.
        flush = threading.Thread(target=provider.force_flush, daemon=True)
        flush.start()
        flush.join(_FLUSH_SECONDS)


def _exporter_asked_for() -> str | None:
    """By its name among entry points, as OpenTelemetry's own set-up has them."""
    asked = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or asked == "none":
        return None
    if asked in ("", "otlp"):
        if not asked and not any(os.environ.get(name) for name in _WHERE):
            return None
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        return "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    return asked


@cache
def _exporter() -> Callable[[], Any] | None:
    """What makes the exporter that is asked for; None where none is, or it is not there: jobs run all the same."""
    name = _exporter_asked_for()
    if name is None:
        return None
    try:
        import opentelemetry.sdk.trace  # noqa: F401, PLC0415 - of an extra

        for found in entry_points(group="opentelemetry_traces_exporter", name=name):
            made: Callable[[], Any] = found.load()
            return made
    except ModuleNotFoundError as error:
        log.warning("tracing.not_installed", package=error.name, remedy="pip install 'docworker[otel]'")
        return None
    log.warning("tracing.not_installed", exporter=name, remedy="install the package that has this exporter of traces")
    return None


@contextmanager
def enqueuing(kind: str, organization_id: UUID | None, jobs: int) -> Iterator[None]:
    """The span of a producer. Jobs that enter the ledger meanwhile belong to its trace."""
    tracer = _tracer()
    if tracer is None:
        yield
        return
    attributes = _destination(kind, "enqueue", "create") | {
        "docworker.organization_id": str(organization_id),
        "messaging.batch.message_count": jobs,
    }
    with _within(tracer.start_span(f"enqueue {kind}", kind=_kind("PRODUCER"), attributes=attributes)):
        yield


@contextmanager
def answering(method: str, route: str, traceparent: str | None) -> Iterator[Callable[[int], None]]:
    """The span of a request over HTTP, to be told its status. It is in the trace of the program around it, if there is
    one, else in that of the caller's `traceparent`; a trace of its own where that is missing or none."""
    tracer = _tracer()
    if tracer is None:
        yield lambda _: None
        return
    from opentelemetry import trace  # noqa: PLC0415 - of an extra

    here = trace.get_current_span().get_span_context()
    parent, _ = _parent_and_links([here if here.is_valid else _span_context(traceparent)])
    attributes = {"http.request.method": method, "http.route": route}
    span = tracer.start_span(f"{method} {route}", context=parent, kind=_kind("SERVER"), attributes=attributes)
    with _within(span):
        yield lambda status: _tell_status(span, status)


def _tell_status(span: Any, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= _OUR_FAULT:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - of an extra

        span.set_status(StatusCode.ERROR)


@contextmanager
def sending(kind: str, message_id: UUID, jobs: int, traces: Sequence[str]) -> Iterator[None]:
    """The span of the dispatcher, where jobs of a message were enqueued in `traces`: in that trace if it is one."""
    tracer = _tracer() if traces else None
    if tracer is None:
        yield
        return
    attributes = _destination(kind, "dispatch", "send") | {
        "messaging.message.id": str(message_id),
        "messaging.batch.message_count": jobs,
    }
    parent, links = _parent_and_links([_span_context(one) for one in traces])
    span = tracer.start_span(
        f"dispatch {kind}", context=parent, kind=_kind("PRODUCER"), attributes=attributes, links=links
    )
    with _within(span):
        yield


@contextmanager
def _within(span: Any, *, ends: bool = True) -> Iterator[None]:
    """What is done in the block belongs to the span. Of an error that leaves it the class is told, and no word of its
    message: those of servers quote values."""
    from opentelemetry import trace  # noqa: PLC0415 - of an extra

    with trace.use_span(span, end_on_exit=ends, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except Exception as error:
            name_error(span, type(error).__name__)
            span.set_status(trace.StatusCode.ERROR)
            raise


@contextmanager
def attempts_traced(kind: str, attempts: Sequence[Traced]) -> Iterator[None]:
    """A span for each attempt, in the trace of its job, from its claim until `end_span`. Several have a span together,
    with links to theirs; it is in their trace if all share one. What is done meanwhile belongs to the innermost."""
    tracer = _tracer()
    if tracer is None or not attempts:
        yield
        return
    for attempt in attempts:
        attempt.span = _begin(tracer, kind, attempt.claimed)
    together = None if len(attempts) == 1 else _begin_together(tracer, kind, attempts)
    try:
        with _within(together or attempts[0].span, ends=together is not None):
            yield
    finally:
        for attempt in attempts:
            attempt.span.end()  # whose end could not be written; it ends once


def end_span(span: Any, end: AttemptEnd) -> None:
    """None is the span of an attempt that nobody traces."""
    if span is None:
        return
    span.set_attribute("docworker.outcome", str(end))
    if end in _ENDED_BADLY:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - of an extra

        span.set_status(StatusCode.ERROR)
    span.end()


def name_error(span: Any, error_class: str) -> None:
    """Why an attempt is about to end badly."""
    if span is not None:
        span.set_attribute(_AS_ERROR, error_class)


def _begin(tracer: Any, kind: str, claimed: Claimed) -> Any:
    attributes = _destination(kind, "process", "process") | {
        "messaging.message.id": str(claimed.id),
        "docworker.organization_id": str(claimed.organization_id),
        "docworker.attempt": claimed.attempt,
        "docworker.max_attempts": claimed.max_attempts,
        "docworker.queue_seconds": round(claimed.queued_seconds, 6),
    }
    if claimed.parent_id is not None:
        attributes["docworker.parent_id"] = str(claimed.parent_id)
    parent, _ = _parent_and_links([_span_context(claimed.traceparent)])
    return tracer.start_span(f"process {kind}", context=parent, kind=_kind("CONSUMER"), attributes=attributes)


def _begin_together(tracer: Any, kind: str, attempts: Sequence[Traced]) -> Any:
    attributes = _destination(kind, "process", "process") | {
        "docworker.organization_id": str(attempts[0].claimed.organization_id),
        "messaging.batch.message_count": len(attempts),
    }
    parent, links = _parent_and_links([one.span.get_span_context() for one in attempts])
    return tracer.start_span(
        f"process {kind} together", context=parent, kind=_kind("CONSUMER"), attributes=attributes, links=links
    )


def _parent_and_links(contexts: Sequence[Any]) -> tuple[Any, list[Any]]:
    """The context to begin a span in: the first of them if all share one trace, else a new one. And links to them, if
    there are several."""
    from opentelemetry import trace  # noqa: PLC0415 - of an extra
    from opentelemetry.context import Context  # noqa: PLC0415

    known = [one for one in contexts if one is not None and one.is_valid]
    parent = Context()
    if known and len({one.trace_id for one in known}) == 1 and len(known) == len(contexts):
        parent = trace.set_span_in_context(trace.NonRecordingSpan(known[0]), parent)
    return parent, [trace.Link(one) for one in known[:_MOST_LINKS]] if len(contexts) > 1 else []


def _span_context(traceparent: str | None) -> Any:
    """None for what is no `traceparent`: other programs write the ledger as well."""
    if traceparent is None:
        return None
    from opentelemetry import trace  # noqa: PLC0415 - of an extra
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    found = TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())
    return trace.get_current_span(found).get_span_context()


def _destination(kind: str, name: str, operation: str) -> dict[str, Any]:
    return {
        "messaging.system": "docworker",
        "messaging.destination.name": kind,
        "messaging.operation.name": name,
        "messaging.operation.type": operation,
    }


def _kind(name: str) -> Any:
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - of an extra

    return SpanKind[name]


def _tracer() -> Any:
    """None where nobody in this process has anything to do with OpenTelemetry."""
    return _tracer_of_program() if "opentelemetry.trace" in sys.modules else None


@cache
def _tracer_of_program() -> Any:
    from opentelemetry import trace  # noqa: PLC0415 - of an extra

    return trace.get_tracer("docworker", version("docworker"))


def _begin_statement(connection: Any, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool) -> None:
    from opentelemetry import trace  # noqa: PLC0415 - of an extra

    if context is None or not trace.get_current_span().is_recording():
        return
    operation = statement.split(None, 1)[0].upper() if statement.strip() else "SQL"
    url = connection.engine.url
    context.docworker_span = _tracer_of_program().start_span(
        f"{operation} {url.database}",
        kind=_kind("CLIENT"),
        attributes={
            "db.system.name": "postgresql",
            "db.namespace": str(url.database),
            "db.operation.name": operation,
            "db.query.text": statement[:_MOST_OF_A_STATEMENT],
            "server.address": str(url.host),
        },
    )


def _end_statement(_connection: Any, _cursor: Any, _statement: str, _values: Any, context: Any, _many: bool) -> None:
    span = getattr(context, "docworker_span", None)
    if span is not None:
        span.end()


def _fail_statement(failed: Any) -> None:
    span = getattr(failed.execution_context, "docworker_span", None)
    if span is not None:
        name_error(
            span, getattr(failed.original_exception, "sqlstate", None) or type(failed.original_exception).__name__
        )
        end_span(span, AttemptEnd.FAILED)


_LISTENERS: Mapping[str, Callable[..., None]] = {
    "before_cursor_execute": _begin_statement,
    "after_cursor_execute": _end_statement,
    "handle_error": _fail_statement,
}

"""The spans that a collector of OpenTelemetry has been sent by OTLP, over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.http_server import Receiver, receiving


@contextmanager
def collecting() -> Iterator[Receiver]:
    """A collector that takes whatever it is sent."""
    with receiving() as receiver:
        receiver.status = 200
        yield receiver


def spans_of(collector: Receiver) -> list[tuple[str, Any]]:
    """Each span with the name of its service."""
    return [(resource["service.name"], span) for resource, span in spans_with_resources(collector)]


def spans_with_resources(collector: Receiver) -> list[tuple[dict[str, Any], Any]]:
    """Each span with the attributes of its process."""
    found = []
    for request in list(collector.requests):
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            about = values_of(resource.resource)
            found += [(about, span) for scope in resource.scope_spans for span in scope.spans]
    return found


def values_of(holder: Any) -> dict[str, Any]:
    """The attributes of a span or a process."""
    return {
        one.key: getattr(one.value, str(one.value.WhichOneof("value")))
        for one in holder.attributes
        if one.HasField("value")
    }


def one_of(spans: list[tuple[Any, Any]], name: str) -> Any:
    """The only span of this name."""
    (found,) = (span for _, span in spans if span.name == name)
    return found

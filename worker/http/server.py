"""`serving`: the HTTP server that every long-running process has: /metrics, /healthz and /readyz.

What is counted is defined where it is counted (`db.metrics`, `jobs.metrics`).
"""

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from docworker.db.errors import ConfigurationError
from docworker.db.settings import Settings
from docworker.worker import process_directory
from docworker.worker.http.health import Health, Report

log = structlog.get_logger(__name__)


class WithReadiness(Collector):
    """What a registry has, and whether the process is ready now, as /readyz says it."""

    def __init__(self, registry: CollectorRegistry | Collector, health: Health) -> None:
        self._registry = registry
        self._health = health

    def collect(self) -> Iterable[Metric]:
        yield from self._registry.collect()
        yield GaugeMetricFamily(
            "docworker_ready", "1 when the process can do its work now, else 0.", value=float(self._health.ready().well)
        )


class MetricsServer:
    """Listens from its construction on, answers from `start()` on, so that a taken port is known before work begins."""

    def __init__(
        self, host: str, port: int, *, setting: str = "", registry: CollectorRegistry | Collector = REGISTRY
    ) -> None:
        """Raises ConfigurationError, naming `setting`, when the port is taken. Port 0 is any free one."""
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            raise ConfigurationError(
                f"cannot serve metrics on {host}:{port}: {error.strerror}; "
                f"set {setting} to another port, or to 0 for a free one"
            ) from error
        self._registry = registry
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self, health: Health) -> None:
        self._server.health = health
        self._server.metrics = WithReadiness(self._registry, health)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics.listening", host=self._server.server_address[0], port=self.port)

    def stop(self) -> None:
        """Stop answering and free the port. Safe when never started and when called twice."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def forget(self) -> None:
        """In a forked child: let go of the parent's port."""
        self._server.socket.close()


@contextmanager
def serving(settings: Settings, process: str, health: Health) -> Iterator[MetricsServer]:
    """Serve the metrics and the health of a dispatcher or a beat for as long as the block lasts.

    Raises ConfigurationError when the port set for the process is taken.
    """
    directory = process_directory.claim(settings.state_directory, process)
    try:
        server = MetricsServer(
            settings.metrics_host,
            getattr(settings, f"{process}_metrics_port"),
            setting=f"DOCWORKER_{process.upper()}_METRICS_PORT",
        )
        directory.write_port(server.port)
        server.start(health)
        try:
            yield server
        finally:
            server.stop()
    finally:
        directory.remove()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    health: Health
    metrics: WithReadiness


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer_metrics()
            case "/healthz":
                self._answer_report(self.server.health.alive())
            case "/readyz":
                self._answer_report(self.server.health.ready())
            case _:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"try /metrics, /healthz or /readyz\n")

    def _answer_metrics(self) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._answer(HTTPStatus.OK, content_type, encode(self.server.metrics))

    def _answer_report(self, report: Report) -> None:
        status = HTTPStatus.OK if report.well else HTTPStatus.SERVICE_UNAVAILABLE
        body = {"status": "ok" if report.well else "not ok", **report.details}
        self._answer(status, "application/json", json.dumps(body).encode() + b"\n")

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        log.debug("metrics.request", line=format % args)

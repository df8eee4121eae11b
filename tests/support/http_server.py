"""Real HTTP servers on this machine: one that answers 204, and one that answers as it is told."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from docworker.worker.local.servers.server import HOST
from tests.support.certificates import Certificates


@contextmanager
def answering(before: Callable[[BaseHTTPRequestHandler], object]) -> Iterator[str]:
    """Its address; `before` is called with each request, in a thread of that request, before it is answered."""
    with receiving() as receiver:
        receiver.before = before
        yield receiver.url


@dataclass
class Received:
    """A request: its path, headers and body."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What a server has received, in order, and what it answers: `status` and `headers`."""

    url: str = ""
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Received] = field(default_factory=list)
    before: Callable[[BaseHTTPRequestHandler], object] = lambda _: None
    """Called with each request, in a thread of that request, before it is answered."""

    @property
    def ids(self) -> list[str]:
        return [one.headers["webhook-id"] for one in self.requests]


@contextmanager
def receiving(
    *, host: str = HOST, certificates: Certificates | None = None, name: str | None = None, port: int = 0
) -> Iterator[Receiver]:
    """A server at this address, called `name` in its URL; with certificates, of https."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append(Received(self.path, headers, body))
            receiver.before(self)
            self.send_response(receiver.status)
            for header, value in receiver.headers.items():
                self.send_header(header, value)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - as http.server asks for it

        def log_message(self, format: str, *arguments: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Of clients that go away, and of those that are shown a certificate that they do not trust."""

    with Server((host, port), Handler) as server:
        scheme = "http"
        if certificates is not None:
            scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates.certificate, certificates.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        receiver.url = f"{scheme}://{name or host}:{server.server_port}"
        try:
            yield receiver
        finally:
            server.shutdown()

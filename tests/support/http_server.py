"""A real HTTP server on this machine, which answers 204 to whatever it is sent."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from docworker.worker.local.servers.server import HOST


@contextmanager
def answering(before: Callable[[BaseHTTPRequestHandler], object]) -> Iterator[str]:
    """Its address; `before` is called with each request, in a thread of that request, before it is answered."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            before(self)
            self.send_response(204)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - as http.server asks for it

        def log_message(self, format: str, *arguments: object) -> None: ...

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{HOST}:{server.server_port}"
        finally:
            server.shutdown()

"""How long the console's pages take with many jobs: `python -m benchmarks --console JOBS`.

Each page is asked for once, for the first time since the console was started, then five times more; times are those of
the server, as its `Server-Timing` says. With `--pictures DIRECTORY` pictures of the pages are left there, as
`docs/images` has them.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import unescape
from http.cookiejar import CookieJar
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, Request, build_opener
from uuid import UUID

from benchmarks.console.ledger import enter, tell_processes
from benchmarks.servers import process, wait_until
from docworker.worker.local.servers.server import free_port
from docworker.worker.local.stack import LocalStack

AGAIN = 5
_TOKEN = "the token of a benchmark"
_TIME = re.compile(r"dur=([0-9.]{1,20})")


class Client:
    """Somebody who has logged in."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._opener: OpenerDirector = build_opener(HTTPCookieProcessor(CookieJar()))

    def is_answered(self) -> bool:
        with suppress(URLError):
            return bool(self._opener.open(f"{self.address}/healthz").status == 200)
        return False

    def log_in(self) -> None:
        form = urlencode({"token": _TOKEN, "next": "/healthz"}).encode()
        self._opener.open(Request(f"{self.address}/login", form, {"Origin": self.address})).close()

    def ask(self, path: str) -> tuple[float, str]:
        """Milliseconds of the server, and the page."""
        with self._opener.open(self.address + path) as answer:
            found = _TIME.search(answer.headers.get("Server-Timing", ""))
            return float(found[1]) if found else 0.0, answer.read().decode()

    def link(self, path: str, part: str) -> str:
        """The first address on a page that has this in it."""
        _, page = self.ask(path)
        return next(one for one in map(unescape, re.findall(r'href="([^"]*)"', page)) if part in one)


def measure_console(servers: LocalStack, jobs: int, pictures: Path | None) -> None:
    """Prints a line for each page: milliseconds the first time, the median of five more, and the most of these."""
    began = time.monotonic()
    slug = enter(servers, jobs)
    print(f"{jobs} jobs entered in {time.monotonic() - began:.0f} s")
    with serving() as client:
        pages = dict(_pages(client, slug))
        _tell_processes(client)
    print(f"{'page':<44} {'first ms':>9} {'again ms':>9} {'most ms':>8} {'kB':>6}")
    with serving() as client:
        for name, path in pages.items():
            first, page = client.ask(path)
            again = [client.ask(path)[0] for _ in range(AGAIN)]
            said = f"{first:>9.0f} {median(again):>9.0f} {max(again):>8.0f} {len(page) / 1000:>6.0f}"
            print(f"{name:<44} {said}", flush=True)
    if pictures is not None:
        from benchmarks.console.pictures import take  # needs playwright and a Chromium, which measuring does not

        with serving() as client:
            _tell_processes(client)
            take(client.address, _TOKEN, pages, pictures)


@contextmanager
def serving() -> Iterator[Client]:
    """A console of its own process, as it is started by its command."""
    port = free_port()
    os.environ.update(
        DOCWORKER_CONSOLE_OPERATOR_TOKEN=_TOKEN,
        DOCWORKER_CONSOLE_PORT=str(port),
        DOCWORKER_CONSOLE_METRICS_PORT="0",
    )
    client = Client(f"http://127.0.0.1:{port}")
    with process("docworker.worker.cli", "console", "--documents") as console:
        wait_until(client.is_answered, 0.05, [console])
        client.log_in()
        yield client


def _tell_processes(client: Client) -> None:
    running = re.findall(r'href="/jobs/([0-9a-f-]{36})', client.ask("/jobs?state=running")[1])
    tell_processes([UUID(one) for one in running[-12:]])


def _pages(client: Client, slug: str) -> Iterator[tuple[str, str]]:
    """Names and addresses."""
    of = f"organization={slug}"
    failed = "state=failed&kind=sync_account&reason=KeyError"
    yield "overview", "/"
    yield "failures", "/failures"
    yield "failures of an organization", f"/failures?{of}"
    yield "jobs", "/jobs"
    yield "jobs, next page", client.link("/jobs", "behind=")
    for state in ("failed", "queued", "running", "waiting"):
        yield f"jobs that are {state}", f"/jobs?state={state}"
    yield "jobs of a kind and a reason", f"/jobs?{failed}"
    yield "jobs of an organization", f"/jobs?{of}"
    yield "jobs of an organization, of no kind", f"/jobs?{of}&kind=nothing"
    yield "before all of a filter are retried", f"/jobs/change?change=retry&{failed}"
    for state in ("failed", "queued", "running", "waiting"):
        yield f"a {state} job", client.link(f"/jobs?state={state}", "/jobs/0")
    yield "backlog", "/backlog"
    yield "backlog of an organization", f"/backlog?{of}"
    yield "fan-outs", "/fanouts"
    yield "fan-outs of an organization", f"/fanouts?{of}"
    yield "schedules", "/schedules"
    yield "steering", "/steering"
    yield "processes", "/processes"
    yield "documents", f"/documents?{of}"
    yield "documents in a state, below a folder", f"/documents?{of}&status=failed&folder=/reports/2020"
    yield "documents with a word", f"/documents?{of}&q=replica"
    document = client.link(f"/documents?{of}", "/documents/0")
    yield "a document", document
    yield "a text", document.replace("?", "/versions/3?")
    yield "a comparison", document.replace("?", "/comparison?") + "&from=1&to=3"

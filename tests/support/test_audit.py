"""A vulnerable pin is found by what OSV answers, and where nobody answers, nothing is said to be well."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from docworker.worker.local.servers.server import HOST, free_port
from tests.support.audit import VULNERABLE, main

ADVISORY = {
    "id": "GHSA-462w-v97r-4m45",
    "aliases": ["CVE-2019-10906"],
    "summary": "a sandbox that can be left",
    "details": "a sandbox that can be left",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.10.1"}]}],
            "versions": ["2.10"],
        }
    ],
}


@contextmanager
def answering(status: int = 200) -> Iterator[str]:
    """The address of an OSV that knows of one advisory; with another status, of one that is out of order."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = (asked["package"]["name"].lower(), asked["version"]) == ("jinja2", "2.10")
            self.send_response(200 if asked["package"]["name"] == "pip" else status)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": [ADVISORY]} if known else {}).encode())

        def log_message(self, format: str, *arguments: object) -> None: ...

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}/v1/query"
        server.shutdown()


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    path = tmp_path / "constraints.txt"
    path.write_text("click==8.5.1\njinja2==2.10\n")
    return path


def test_a_vulnerable_pin_is_found(pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering() as url:
        assert main(pins, url) == VULNERABLE
        assert capsys.readouterr().err.splitlines() == [
            "audit: VULNERABLE: jinja2 2.10: CVE-2019-10906, GHSA-462w-v97r-4m45; fixed in 2.10.1"
        ]
        pins.write_text("click==8.5.1\njinja2==3.1.6\n")
        assert main(pins, url) == 0
    assert "no vulnerability" in capsys.readouterr().out


def test_where_nobody_answers_nothing_is_said_to_be_well(pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(pins, f"http://{HOST}:{free_port()}/v1/query") == 0
    assert "NOTHING WAS AUDITED" in capsys.readouterr().out
    with answering(status=500) as url:  # at the second question
        assert main(pins, url) == 1
    assert "VULNERABLE" not in capsys.readouterr().err


def test_a_line_that_pins_nothing_is_an_error(pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pins.write_text("click>=8\n")
    with answering() as url:
        assert main(pins, url) == 1
    assert "not pinned" in capsys.readouterr().err

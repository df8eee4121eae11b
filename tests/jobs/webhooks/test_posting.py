"""Requests go to the address that was checked, to whom the certificate says, and end in time whatever is answered."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from docworker.db.settings import Settings
from docworker.jobs.webhooks.addresses import RefusedAddressError
from docworker.jobs.webhooks.posting import Answer, NoAnswerError, post, retry_after_seconds
from tests.support.certificates import Certificates
from tests.support.http_server import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def here(**values: Any) -> Settings:
    return Settings(**{"webhook_allow_http": True, "webhook_allowed_networks": "127.0.0.1/32", **values})


def posted(url: str, settings: Settings) -> Answer:
    return asyncio.run(post(url, b"{}", {"webhook-id": "a"}, settings))


def test_it_is_posted_and_the_status_is_the_answer(receiver: Receiver) -> None:
    receiver.status, receiver.headers = 503, {"Retry-After": "120"}
    assert posted(receiver.url + "/hook?a=b", here()) == Answer(503, 120.0)
    (request,) = receiver.requests
    assert (request.path, request.body, request.headers["webhook-id"]) == ("/hook?a=b", b"{}", "a")
    assert request.headers["content-type"] == "application/json"


def test_this_machine_is_refused_unless_it_is_allowed(receiver: Receiver) -> None:
    with pytest.raises(RefusedAddressError, match=r"127\.0\.0\.1"):
        posted(receiver.url, here(webhook_allowed_networks=""))
    assert receiver.requests == []


def test_http_is_refused_unless_it_is_allowed(receiver: Receiver) -> None:
    with pytest.raises(NoAnswerError, match="not an https:// address"):
        posted(receiver.url, here(webhook_allow_http=False))
    assert receiver.requests == []


def test_a_redirect_is_an_answer_and_is_not_followed(receiver: Receiver) -> None:
    with receiving() as inside:
        receiver.status, receiver.headers = 302, {"Location": inside.url}
        assert posted(receiver.url, here()).status == 302
        assert inside.requests == []


def test_a_name_that_means_something_else_a_moment_later_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def changing(host: Any, *rest: Any, **named: Any) -> Any:
        if host != "hooks.example":
            return real(host, *rest, **named)
        looked_up.append(host)
        return real("127.0.0.2" if len(looked_up) == 1 else "127.0.0.1", *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    with receiving(host="127.0.0.2", name="hooks.example") as public:
        port = int(public.url.rpartition(":")[2])
        with receiving(port=port) as private:
            assert posted(public.url, here(webhook_allowed_networks="127.0.0.2/32")).status == 204
            assert (len(public.requests), private.requests, looked_up) == (1, [], ["hooks.example"])
            assert public.requests[0].headers["host"] == f"hooks.example:{port}"
            with pytest.raises(RefusedAddressError, match=r"hooks\.example has the address"):
                posted(public.url, here(webhook_allowed_networks="127.0.0.2/32"))


def test_the_certificate_is_to_be_of_the_name_and_of_who_is_trusted(tmp_path: Path) -> None:
    of_name = Certificates.made_in(tmp_path / "name", host="localhost")
    other = Certificates.made_in(tmp_path / "other", host="elsewhere.example")
    networks = "127.0.0.1/32 ::1/128"
    with receiving(certificates=of_name, name="localhost") as receiver:
        trusting = here(webhook_ca_file=of_name.authority, webhook_allowed_networks=networks)
        assert posted(receiver.url, trusting).status == 204
        with pytest.raises(NoAnswerError, match="certificate verify failed"):
            posted(receiver.url, here(webhook_allowed_networks=networks))
        with pytest.raises(NoAnswerError, match="certificate verify failed"):
            posted(receiver.url.replace("localhost", "127.0.0.1"), trusting)
    with (
        receiving(certificates=other, name="localhost") as receiver,
        pytest.raises(NoAnswerError, match="certificate verify failed"),
    ):
        posted(receiver.url, here(webhook_ca_file=other.authority, webhook_allowed_networks=networks))


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """Headers without an end, a byte at a time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


def flooding(handler: BaseHTTPRequestHandler) -> None:
    """Headers without an end, as fast as they go."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"x-header: " + b"y" * 1000 + b"\r\n")


@pytest.mark.parametrize("answer", [dripping, flooding])
def test_an_answer_without_an_end_is_given_up(receiver: Receiver, answer: Any) -> None:
    receiver.before = answer
    began = time.monotonic()
    with pytest.raises(NoAnswerError):
        posted(receiver.url, here(webhook_timeout=1))
    assert time.monotonic() - began < 10


def test_a_body_without_an_end_is_not_read(receiver: Receiver) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            handler.wfile.write(os.urandom(65536))

    receiver.before = endless
    assert posted(receiver.url, here()).status == 200


def test_who_does_not_listen_or_is_not_known_is_no_answer() -> None:
    with pytest.raises(NoAnswerError, match="ConnectError"):
        posted("http://127.0.0.1:9/", here())
    with pytest.raises(NoAnswerError, match="gaierror"):
        posted("http://no-such-name.invalid/", here())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("9" * 10_000, None),
        ("", None),
        (None, None),
        ("²", None),
        ("99999 Oct", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value) == seconds

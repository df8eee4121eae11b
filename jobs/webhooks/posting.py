"""`post`: sends a request to a checked address of its host, and says what was answered.

Redirects are not followed, and the body of an answer is not read: a status and a header are all that a delivery asks
for, and nobody learns from its errors what a server said. Each request has a connection of its own.
"""

import asyncio
import functools
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from docworker.db.errors import ConfigurationError, DocworkerError
from docworker.db.settings import Settings
from docworker.jobs.webhooks.addresses import allowed_addresses

_CONNECT_SECONDS = 5.0
_MOST_ADDRESSES = 3
_MOST_HEADER_CHARACTERS = 64


class NoAnswerError(DocworkerError):
    """The host is not known, does not answer in time, is not who it says, or answers what is no HTTP."""


@dataclass(frozen=True)
class Answer:
    """`retry_after_seconds` is what the receiver asks to wait, if it does."""

    status: int
    retry_after_seconds: float | None


async def post(url: str, body: bytes, headers: Mapping[str, str], settings: Settings) -> Answer:
    """Raises NoAnswerError; RefusedAddressError for a host that is nobody's to send to; ConfigurationError where the
    client is not installed."""
    client = _client()
    try:
        async with asyncio.timeout(settings.webhook_timeout):
            return await _post(client, url, body, headers, settings)
    except TimeoutError as error:
        raise NoAnswerError(f"no answer within {settings.webhook_timeout:g} s") from error
    except (client.HTTPError, client.InvalidURL, OSError, UnicodeError) as error:
        raise NoAnswerError(f"{type(error).__name__}: {error}") from error


async def _post(client: Any, url: str, body: bytes, headers: Mapping[str, str], settings: Settings) -> Answer:
    asked = client.URL(url)
    if asked.scheme != "https" and not settings.webhook_allow_http:
        raise NoAnswerError("not an https:// address, and DOCWORKER_WEBHOOK_ALLOW_HTTP is not set")
    host = asked.raw_host.decode("ascii")
    port = asked.port or (443 if asked.scheme == "https" else 80)
    addresses = await allowed_addresses(host.strip("[]"), port, settings.webhook_allowed_networks)
    named = {"Host": asked.netloc.decode("ascii"), "User-Agent": "docworker", "Content-Type": "application/json"}
    options = {"verify": _trust(settings.webhook_ca_file), "trust_env": False, "follow_redirects": False}
    async with client.AsyncClient(**options, timeout=client.Timeout(None, connect=_CONNECT_SECONDS)) as session:
        for is_last, address in _marked(addresses[:_MOST_ADDRESSES]):
            request = session.build_request(
                "POST",
                asked.copy_with(host=address),
                content=body,
                headers=named | dict(headers),
                extensions={"sni_hostname": host.strip("[]")},
            )
            try:
                answer = await session.send(request, stream=True)
            except (client.ConnectError, client.ConnectTimeout):
                if is_last:
                    raise
                continue
            await answer.aclose()
            return Answer(answer.status_code, retry_after_seconds(answer.headers.get("retry-after")))
    raise NoAnswerError(f"{host} has no address")


def _marked(addresses: list[str]) -> list[tuple[bool, str]]:
    return [(number == len(addresses), one) for number, one in enumerate(addresses, 1)]


def retry_after_seconds(value: str | None) -> float | None:
    """What a `Retry-After` says, in seconds or as a date (RFC 9110, 10.2.3); None where it says nothing."""
    if value is None or len(value) > _MOST_HEADER_CHARACTERS:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds)


def _client() -> Any:
    try:
        import httpx2  # noqa: PLC0415 - of an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "webhooks are delivered by an HTTP client: install it with `pip install 'docworker[webhooks]'`"
        ) from error
    return httpx2


@functools.cache
def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """Whom the system trusts, and besides who is in the file. Made once: it takes tens of milliseconds."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context

"""`ReadYourWrites`, for ASGI, and `WsgiReadYourWrites`: a user sees what he wrote a request ago, from replicas as well.

How far the master was after a user's last commit travels in a signed cookie (or header) to his next request, where each
session that reads without a position of its own takes it. What is forged, expired, malformed or of another installation
counts as none: the cookie is a hint, and no error.
"""

import hmac
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from contextvars import copy_context
from hashlib import sha256
from typing import Any

from docworker.db.cluster.positions import WalPosition
from docworker.db.errors import ConfigurationError, InvalidArgumentError
from docworker.db.sessions.remembered import Remembered, remembered

NAME = "docworker_seen"
MAX_AGE_SECONDS = 60.0
"""Replicas are behind by less; what is further behind reads without a position pass over."""
LEAST_SECRET_BYTES = 16

_PURPOSE = b"docworker read your writes\0"
_TOKEN = re.compile(r"([0-9]{1,12})~([0-9A-Fa-f/~]{1,400})\.([0-9a-f]{64})")


class _Tokens:
    """Signs what is remembered, and reads what was signed. Of several secrets the first one signs, all are accepted."""

    def __init__(
        self,
        secret: str | bytes | Sequence[str | bytes],
        *,
        name: str = NAME,
        header: bool = False,
        max_age_seconds: float = MAX_AGE_SECONDS,
    ) -> None:
        secrets = [secret] if isinstance(secret, str | bytes) else [*secret]
        self._secrets = [one.encode() if isinstance(one, str) else one for one in secrets]
        if not self._secrets or min(map(len, self._secrets)) < LEAST_SECRET_BYTES:
            raise ConfigurationError(
                f"the secret that signs positions has at least {LEAST_SECRET_BYTES} bytes: make one with "
                "secrets.token_urlsafe()"
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
            raise ConfigurationError(f"{name!r} cannot be the name of a cookie or header: use letters, digits, - and _")
        self._name = name
        self._header = header
        self._max_age_seconds = max_age_seconds

    def remembered_of(self, header_of: Callable[[str], str]) -> Remembered:
        """What a request brings, whose headers are asked for by their names in lower case."""
        if self._header:
            return self._read(header_of(self._name.lower()))
        for one in header_of("cookie").split(";"):
            name, _, value = one.strip().partition("=")
            if name == self._name:
                return self._read(value.strip('"'))
        return Remembered()

    def header_for(self, what: Remembered, *, is_secure: bool) -> tuple[str, str]:
        """What the response is to bring."""
        token = self._signed(f"{int(time.time() + self._max_age_seconds)}~{str(what).replace(' ', '~')}")
        if self._header:
            return self._name, token
        secure = "; Secure" if is_secure else ""
        age = f"Max-Age={int(self._max_age_seconds)}"
        return "Set-Cookie", f"{self._name}={token}; Path=/; {age}; HttpOnly; SameSite=Lax{secure}"

    def _signed(self, payload: str) -> str:
        return f"{payload}.{_signature(self._secrets[0], payload)}"

    def _read(self, token: str) -> Remembered:
        match = _TOKEN.fullmatch(token)
        if match is None:
            return Remembered()
        expires, positions, signature = match.groups()
        payload = f"{expires}~{positions}"
        if not any(hmac.compare_digest(signature, _signature(one, payload)) for one in self._secrets):
            return Remembered()
        if int(expires) <= time.time():
            return Remembered()
        try:
            return Remembered.parse(positions.replace("~", " "))
        except InvalidArgumentError:
            return Remembered()  # signed by a release that writes them in another way


def _signature(secret: bytes, payload: str) -> str:
    return hmac.new(secret, _PURPOSE + payload.encode(), sha256).hexdigest()


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class ReadYourWrites:
    """Wraps an ASGI application: `ReadYourWrites(app, secret=…)`, `app.add_middleware(ReadYourWrites, secret=…)`.

    `secret` signs, at least 16 bytes; give several to change it, the new one first. With `header=True` a header of that
    `name` carries the position instead of a cookie, for clients that keep none. It lasts for `max_age_seconds`.
    Only what is committed before the response begins is carried on.
    """

    def __init__(self, app: Any, secret: str | bytes | Sequence[str | bytes], **options: Any) -> None:
        self._app = app
        self._tokens = _Tokens(secret, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        def header_of(wanted: str) -> str:
            return "; ".join(
                value.decode("latin-1") for name, value in scope["headers"] if name.decode("latin-1").lower() == wanted
            )

        seen = self._tokens.remembered_of(header_of)

        async def send_with_position(message: Any) -> None:
            if message["type"] == "http.response.start" and seen.changed:
                name, value = self._tokens.header_for(seen, is_secure=scope.get("scheme") == "https")
                added = (name.lower().encode("latin-1"), value.encode("latin-1"))
                message = {**message, "headers": [*message.get("headers", ()), added]}
            await send(message)

        token = remembered.set(seen)
        try:
            await self._app(scope, receive, send_with_position)
        finally:
            remembered.reset(token)


class WsgiReadYourWrites:
    """As `ReadYourWrites`, for WSGI: `app.wsgi_app = WsgiReadYourWrites(app.wsgi_app, secret=…)`."""

    def __init__(self, app: Any, secret: str | bytes | Sequence[str | bytes], **options: Any) -> None:
        self._app = app
        self._tokens = _Tokens(secret, **options)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen = self._tokens.remembered_of(lambda name: str(environ.get(f"HTTP_{name.upper().replace('-', '_')}", "")))

        def start_with_position(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            if seen.changed:
                is_secure = environ.get("wsgi.url_scheme") == "https"
                headers = [*headers, self._tokens.header_for(seen, is_secure=is_secure)]
            return start_response(status, headers, *more)

        # The body may be made while it is sent, when this call is over.
        context = copy_context()
        context.run(remembered.set, seen)
        body = context.run(self._app, environ, start_with_position)
        return _Body(body, context.run)


class _Body:
    """A response's body, made in the context of its request."""

    def __init__(self, body: Iterable[bytes], run: Callable[..., Any]) -> None:
        self._body = body
        self._pieces: Iterator[bytes] | None = None
        self._run = run

    def __iter__(self) -> "_Body":
        return self

    def __next__(self) -> bytes:
        if self._pieces is None:
            self._pieces = self._run(iter, self._body)
        piece: bytes = self._run(next, self._pieces)
        return piece

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            self._run(close)


def remember_write(position: WalPosition) -> None:
    """Have the user of this request see everything up to `position`: for writes that no session of ours has made. Does
    nothing outside a request."""
    seen = remembered.get()
    if seen is not None:
        seen.note(position)

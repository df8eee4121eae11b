"""A user's next request sees his last write, however replicas lag; what is forged or old is ignored, never an error."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from docworker import (
    Document,
    InvalidArgumentError,
    ReadYourWrites,
    WalPosition,
    WsgiReadYourWrites,
    aio,
    position_after,
    reading,
    remember_write,
    writing,
)
from docworker.db.errors import ConfigurationError
from docworker.db.models.base import new_id
from docworker.db.sessions import middleware
from docworker.db.sessions.middleware import NAME
from docworker.db.sessions.remembered import MOST_SYSTEMS, Remembered
from docworker.db.sessions.routing import RoutingSession
from docworker.db.settings import settings
from docworker.worker.local.stack import LocalStack
from tests.support.faults import pause_replay, resume_replay
from tests.support.replicas import OpenDatabase
from tests.support.tenants import Tenant

SECRET = "a secret of thirty-two characters"
Work = Callable[[], Any]


async def never() -> Any:
    """Nobody reads a body."""


class Client:
    """Sends requests to a wrapped application, whose handler is a function without arguments; keeps the cookies."""

    def __init__(self, kind: str = "wsgi", *, scheme: str = "http", secret: Any = SECRET, **options: Any) -> None:
        self._kind, self._scheme, self._secret, self._options = kind, scheme, secret, options
        self.sent: dict[str, str] = {}
        self.headers: list[tuple[str, str]] = []

    def __call__(self, work: Work) -> Any:
        result = self._wsgi(work) if self._kind == "wsgi" else asyncio.run(self._asgi(work))
        for name, value in self.headers:
            if name.lower() == "set-cookie":
                self.sent["cookie"] = value.partition(";")[0]
            elif name.lower() == NAME:
                self.sent[NAME] = value
        return result

    def _wsgi(self, work: Work) -> Any:
        results: list[Any] = []

        def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            results.append(work())
            start_response("200 OK", [("X-Kept", "yes")])
            return iter([b"body"])

        def start(_status: str, headers: list[tuple[str, str]]) -> None:
            self.headers = headers

        environ: dict[str, Any] = {f"HTTP_{name.upper()}": value for name, value in self.sent.items()}
        wrapped = WsgiReadYourWrites(app, self._secret, **self._options)
        body = wrapped(environ | {"wsgi.url_scheme": self._scheme}, start)
        assert list(body) == [b"body"]
        return results[0]

    async def _asgi(self, work: Work) -> Any:
        results: list[Any] = []

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            results.append(await asyncio.to_thread(work))
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-kept", b"yes")]})
            await send({"type": "http.response.body", "body": b"body"})

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]

        headers = [(name.encode(), value.encode()) for name, value in self.sent.items()]
        scope = {"type": "http", "scheme": self._scheme, "headers": headers}
        await ReadYourWrites(app, self._secret, **self._options)(scope, never, send)
        return results[0]


@pytest.fixture
def lagging(servers: LocalStack, open_on: OpenDatabase) -> Iterator[Tenant]:
    """A tenant whose replicas do not replay what is written from now on."""
    open_on(servers, replica_wait=0.05, replica_max_lag=3600)
    tenant = Tenant()
    servers.wait_for_replicas()
    with reading(tenant.id):
        pass
    for replica in servers.replicas:
        pause_replay(replica)
    yield tenant
    for replica in servers.replicas:
        resume_replay(replica)


def target(tenant: Tenant) -> tuple[int, str]:
    """How many documents a request sees, and why it reads where it does; a lag that was sampled is being behind."""
    with reading(tenant.id) as session:
        assert session.choice is not None
        return session.query(Document).count(), session.choice.reason.replace("lagging", "behind")


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_the_next_request_sees_the_last_write(lagging: Tenant, kind: str) -> None:
    client, stranger = Client(kind), Client(kind)
    assert client(lambda: target(lagging)) == (0, "healthy")
    assert "cookie" not in client.sent
    client(lambda: lagging.add("one"))
    assert client(lambda: target(lagging)) == (1, "behind")
    assert ("x-kept", "yes") in [(name.lower(), value) for name, value in client.headers]
    assert len(client.headers) == 1, "a request that writes nothing brings no cookie"
    assert stranger(lambda: target(lagging)) == (0, "healthy")
    assert target(lagging) == (0, "healthy")


def test_a_body_that_is_made_while_it_is_sent_is_of_its_request(lagging: Tenant) -> None:
    client = Client()
    client(lambda: lagging.add("one"))

    def app(_environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield repr(target(lagging)).encode()

    environ = {"HTTP_COOKIE": client.sent["cookie"], "wsgi.url_scheme": "http"}
    body = WsgiReadYourWrites(app, SECRET)(environ, lambda *_: None)
    assert target(lagging) == (0, "healthy"), "between its pieces"
    assert list(body) == [b"(1, 'behind')"]
    assert target(lagging) == (0, "healthy"), "and after them"


def test_within_a_request_reads_see_what_it_has_written(lagging: Tenant) -> None:
    def work() -> Any:
        lagging.add("one")
        return target(lagging)

    assert Client()(work) == (1, "behind")


def test_replicas_are_used_again_once_they_have_caught_up(lagging: Tenant, servers: LocalStack) -> None:
    client = Client()
    client(lambda: lagging.add("one"))
    for replica in servers.replicas:
        resume_replay(replica)
    servers.wait_for_replicas()
    count, reason = client(lambda: target(lagging))
    assert (count, reason in ("caught_up", "waited")) == (1, True)


def test_every_way_to_commit_is_noticed(lagging: Tenant) -> None:
    def add(session: Any) -> None:
        session.add(Document(organization_id=lagging.id, filename=f"{new_id()}.txt"))

    def explicitly() -> None:
        with writing(lagging.id) as session:
            add(session)
            session.commit()

    def with_position() -> None:
        with writing(lagging.id) as session:
            add(session)
            session.commit_with_position()

    def within_a_savepoint() -> None:
        with writing(lagging.id) as session:
            session.begin_nested()
            add(session)
            session.commit()

    def by_routing() -> None:
        with RoutingSession(lagging.id) as session:
            add(session)
            session.commit()

    def by_hand() -> None:
        def elsewhere() -> None:
            with writing(lagging.id) as session:
                add(session)
                session.commit()
                positions.append(position_after(session))

        positions: list[WalPosition] = []
        other = threading.Thread(target=elsewhere)  # where nobody notices
        other.start()
        other.join()
        remember_write(positions[0])

    for count, work in enumerate((explicitly, with_position, within_a_savepoint, by_routing, by_hand), 1):
        client = Client()
        client(work)
        assert client(lambda: target(lagging)) == (count, "behind"), work.__name__


def test_what_was_rolled_back_or_only_read_is_no_write(lagging: Tenant) -> None:
    client = Client()

    def rolled_back() -> None:
        with writing(lagging.id) as session:
            session.add(Document(organization_id=lagging.id, filename="a.txt"))
            session.flush()
            session.rollback()

    client(rolled_back)
    client(lambda: target(lagging))
    assert client.sent == {}


def test_asyncio_sessions_take_part(lagging: Tenant) -> None:
    results: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        async with aio.writing(lagging.id) as session:
            session.add(Document(organization_id=lagging.id, filename="a.txt"))
        async with aio.reading(lagging.id) as session:
            assert session.session.choice is not None
            results.append(session.session.choice.number)  # why it is the master's depends on how busy replicas are
        results.append(len(await aio.list_documents(lagging.id)))
        await send({"type": "http.response.start", "status": 200})

    async def request() -> list[Any]:
        await aio.open_database(settings())
        async with aio.reading(lagging.id):
            pass
        try:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            await ReadYourWrites(app, SECRET)({"type": "http", "headers": []}, never, send)
            return sent
        finally:
            await aio.close_database()

    (start,) = asyncio.run(request())
    assert results == [None, 1]
    assert [name for name, _ in start["headers"]] == [b"set-cookie"]


def test_a_header_carries_it_for_clients_without_cookies(lagging: Tenant) -> None:
    for kind in ("wsgi", "asgi"):
        client = Client(kind, header=True)
        client(lambda: lagging.add("one"))
        assert list(client.sent) == [NAME]
        assert client(lambda: target(lagging))[1] == "behind"


def seen_of(cookie: str, **options: Any) -> str:
    """What a request with this cookie remembers."""
    return str(middleware._Tokens(options.pop("secret", SECRET), **options).remembered_of(lambda _: cookie))


POSITION = WalPosition(7, 1, 255)


def cookie_of(*positions: WalPosition, **options: Any) -> str:
    seen = Remembered()
    for one in positions:
        seen.note(one)
    tokens = middleware._Tokens(options.pop("secret", SECRET), **options)
    return tokens.header_for(seen, is_secure=False)[1].partition(";")[0]


def test_what_is_forged_expired_or_malformed_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    good = cookie_of(POSITION)
    assert seen_of(f"a=b; {good}; c=d") == seen_of(f'{NAME}="{good.partition("=")[2]}"') == str(POSITION)
    token = good.partition("=")[2]
    bad = [
        "",
        NAME,
        f"{NAME}=",
        f"{NAME}=\x00\xff~",
        f"{NAME}={token[:-1]}",
        f"{NAME}={token}0",
        f"{NAME}=9{token}",
        f"{NAME}={token.replace('/FF', '/FE')}",
        f"{NAME}={token[:-64]}{'0' * 64}",
        f"{NAME}={'9' * 100_000}",
        cookie_of(POSITION, secret="another secret of some length"),
        cookie_of(POSITION, max_age_seconds=-1),
        f"other={token}",
    ]
    assert [seen_of(one) for one in bad] == [""] * len(bad)
    malformed = middleware._Tokens(SECRET)._signed("99999999999~7/1/0")
    assert seen_of(f"{NAME}={malformed}") == ""


def test_secrets_can_be_changed() -> None:
    old, new = "an old secret, long enough", "a new secret, long enough"
    assert seen_of(cookie_of(POSITION, secret=old), secret=[new, old]) == str(POSITION)
    assert seen_of(cookie_of(POSITION, secret=[new, old]), secret=new) == str(POSITION)
    for secret in ("short", [], ["long enough to be a secret", "short"]):
        with pytest.raises(ConfigurationError, match="at least 16 bytes"):
            ReadYourWrites(None, secret)
    with pytest.raises(ConfigurationError, match="name of a cookie"):
        WsgiReadYourWrites(None, SECRET, name="a;b")


def test_a_position_of_another_installation_is_ignored(lagging: Tenant) -> None:
    client = Client()
    client.sent["cookie"] = cookie_of(WalPosition(7, 1, 2**60))
    assert client(lambda: target(lagging)) == (0, "healthy")


def test_one_of_each_system_is_kept_the_latest_of_few(servers: LocalStack) -> None:
    seen = Remembered()
    for system in range(MOST_SYSTEMS + 1):
        seen.note(WalPosition(system, 1, 10))
    seen.note(WalPosition(2, 1, 5))
    seen.note(WalPosition(3, 2, 5))
    again = Remembered.parse(str(seen))
    assert [str(again.of(one)) for one in range(MOST_SYSTEMS + 1)] == [
        "None",
        "1/1/0/A",
        "2/1/0/A",
        "3/2/0/5",
        "4/1/0/A",
    ]
    assert again.of(None) == WalPosition(3, 2, 5)
    with pytest.raises(InvalidArgumentError):
        Remembered.parse(" ".join(f"{one}/1/0/1" for one in range(MOST_SYSTEMS + 1)))


def test_cookies_are_for_the_server_alone() -> None:
    attributes = middleware._Tokens(SECRET).header_for(Remembered({7: POSITION}), is_secure=True)[1].split("; ")[1:]
    assert attributes == ["Path=/", "Max-Age=60", "HttpOnly", "SameSite=Lax", "Secure"]

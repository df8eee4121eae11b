"""The faulty links and halted processes that other tests rely on do what they promise."""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from docworker.worker.local.launching import children
from docworker.worker.local.servers.server import HOST
from docworker.worker.local.stack import LocalStack
from tests.support.network import Counters, Direction, Proxy, namespace, proxy_to, state_of, stopped, through
from tests.support.waiting import eventually

SHORT_SECONDS = 0.3
"""For what must not come."""


class Echo:
    """Sends back what it is sent."""

    def __init__(self, listener: socket.socket) -> None:
        self.connections: list[socket.socket] = []
        self._listener = listener
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def target(self) -> str:
        name = self._listener.getsockname()
        return name if isinstance(name, str) else f"{name[0]}:{name[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)


@pytest.fixture(params=["tcp", "unix"])
def echo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Echo]:
    if request.param == "tcp":
        listener = socket.create_server((HOST, 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
    with listener:
        yield Echo(listener)


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.target) as proxy:
        yield proxy


def connect(proxy: Proxy, *, timeout: float = 5) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=timeout)


def is_silent(connection: socket.socket) -> bool:
    return not select.select([connection], [], [], SHORT_SECONDS)[0]


def test_what_is_sent_comes_back(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        assert proxy.counters == Counters(accepted=1, connected=1, bytes_to_server=5, bytes_to_client=5)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b"", "the end is forwarded, and comes back too"
    eventually(lambda: proxy.counters.connected == 0)


def test_much_is_forwarded_whole(proxy: Proxy) -> None:
    sent = os.urandom(8_000_000)
    with connect(proxy) as connection:
        threading.Thread(target=connection.sendall, args=[sent], daemon=True).start()
        received = b""
        while len(received) < len(sent):
            received += connection.recv(1_000_000)
    assert received == sent


def test_a_frozen_link_takes_connections_and_bytes_and_gives_none(proxy: Proxy) -> None:
    with connect(proxy) as old:
        proxy.freeze()
        with connect(proxy) as new:
            for connection in (old, new):
                connection.sendall(b"hello")
                assert is_silent(connection)
            proxy.resume()
            assert [connection.recv(100) for connection in (old, new)] == [b"hello", b"hello"]


@pytest.mark.parametrize(("direction", "arrived"), [("to_server", 0), ("to_client", 5)])
def test_one_direction_alone_can_be_frozen(proxy: Proxy, direction: Direction, arrived: int) -> None:
    with connect(proxy) as connection:
        proxy.freeze(direction)
        connection.sendall(b"hello")
        assert is_silent(connection)
        assert proxy.counters.bytes_to_server == arrived
        proxy.resume()
        assert connection.recv(100) == b"hello"


def test_a_cut_link_answers_nobody_and_ends_nothing(proxy: Proxy) -> None:
    with connect(proxy) as old:
        for _ in range(2):
            proxy.cut()
            with pytest.raises(TimeoutError):
                connect(proxy, timeout=SHORT_SECONDS)
        old.sendall(b"hello")
        assert is_silent(old)
        proxy.resume()
        assert old.recv(100) == b"hello"
    with connect(proxy) as new:
        new.sendall(b"again")
        assert new.recv(100) == b"again"


def test_a_cut_link_can_refuse_new_connections(proxy: Proxy) -> None:
    with connect(proxy) as old:
        proxy.cut()
        proxy.cut(refuse=True)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        old.sendall(b"hello")
        assert is_silent(old)
        proxy.resume()
        assert old.recv(100) == b"hello"
    connect(proxy).close()


def test_reset_ends_both_sides_at_once(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    assert proxy.counters.connected == 0
    eventually(lambda: echo.connections[0].fileno() == -1, what="the other side to have ended")


def test_reset_also_ends_what_is_frozen(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        proxy.freeze()
        connection.sendall(b"hello")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(100)


def test_delay_holds_back_each_way(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        proxy.delay(SHORT_SECONDS)
        connection.sendall(b"hello")
        assert is_silent(connection), "there and back is twice as long"
        assert connection.recv(100) == b"hello"


def test_a_proxy_ends_with_whoever_started_it() -> None:
    script = (
        "from tests.support.network import Proxy; import os; print(Proxy('127.0.0.1:1').port, flush=True); os.abort()"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    port = int(ended.stdout)

    def refuses() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, port)) != 0

    eventually(refuses)


def test_settings_lead_through_proxies(stack: LocalStack) -> None:
    environment = stack.environment()
    with proxy_to(stack.master) as master, proxy_to(stack.replicas[1]) as replica, proxy_to(stack.broker) as broker:
        changed = through(environment, master, replica, broker)
        assert changed.keys() == {
            *("DOCWORKER_OWNER_URL", "DOCWORKER_MASTER_URL", "DOCWORKER_DISPATCHER_URL"),
            *("DOCWORKER_REPLICA_URLS", "DOCWORKER_BROKER_URL"),
        }
        with psycopg.connect(re.sub("/docworker$", "/postgres", changed["DOCWORKER_MASTER_URL"])) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert master.counters.accepted == 1
        assert f":{stack.replicas[0].port}/" in changed["DOCWORKER_REPLICA_URLS"]


def test_stopped_halts_a_family_and_lets_it_go_on() -> None:
    script = "import subprocess; subprocess.run(['sleep', '60'])"
    parent = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        (child,) = eventually(lambda: children(parent.pid))
        eventually(lambda: {state_of(parent.pid), state_of(child)} == {"S"})
        with pytest.raises(AssertionError, match="given up"), stopped(parent.pid):
            assert [state_of(parent.pid), state_of(child)] != ["T", "S"], "given up"
        with stopped(parent.pid, family=True):
            assert [state_of(parent.pid), state_of(child)] == ["T", "T"]
        eventually(lambda: [state_of(parent.pid), state_of(child)] == ["S", "S"])
        with stopped(parent.pid):
            parent.kill()
            parent.wait()
    finally:
        os.killpg(parent.pid, signal.SIGKILL)


def test_packets_of_a_namespace_vanish_and_come_again() -> None:
    listener = socket.create_server((HOST, 0))
    echo = Echo(listener)
    say = "import socket, sys; c = socket.create_connection(sys.argv[1].split(':'))\nfor line in sys.stdin.buffer:"
    say += " c.sendall(line); sys.stdout.buffer.write(c.recv(100)); sys.stdout.buffer.flush()"
    with listener, namespace() as inside, Proxy(echo.target, host=inside.host) as proxy:
        command = inside.command([sys.executable, "-c", say, f"{proxy.host}:{proxy.port}"])
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as talker:
            assert talker.stdin is not None
            assert talker.stdout is not None
            talker.stdin.write(b"one\n")
            assert talker.stdout.readline() == b"one\n"
            inside.cut()
            talker.stdin.write(b"two\n")
            assert not select.select([talker.stdout], [], [], SHORT_SECONDS)[0]
            assert talker.poll() is None, "no error either"
            assert proxy.counters == Counters(accepted=1, connected=1, bytes_to_server=4, bytes_to_client=4)
            inside.resume()
            assert talker.stdout.readline() == b"two\n"
            talker.stdin.close()

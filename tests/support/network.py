"""Links and processes that fail in the ways that leave no trace: frozen, cut without a word, slow, stopped.

`Proxy` stands between our processes and a server, and is put there by `through`. `stopped` halts processes. `Namespace`
is a network of its own for one process, whose packets vanish on demand, as behind a broken switch (root only).
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pytest

from docworker.worker.local.launching import children
from docworker.worker.local.servers.server import HOST, Server
from tests.support.waiting import eventually

PROXYING = Path(__file__).with_name("proxying.py")
WRONG_ADDRESS = "02:00:00:00:00:01"

Direction = Literal["both", "to_server", "to_client"]

_numbers = itertools.count(os.getpid() % 10_000 * 10)


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a proxy has seen: connections accepted ever and open now, and bytes that arrived."""

    accepted: int
    connected: int
    bytes_to_server: int
    bytes_to_client: int


class Proxy:
    """A link from a port of `host` to `target`, HOST:PORT or the path of a unix socket; a context manager.

    Every method returns when the link behaves so. What a freeze or cut held back arrives after `resume`, as what TCP
    sends again does.
    """

    def __init__(self, target: str, *, host: str = HOST) -> None:
        self.target = target
        self.host = host
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", PROXYING, f"{host}:0", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._answer()["port"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the link; connections are closed as if their ends had."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def freeze(self, direction: Direction = "both") -> None:
        """Accept and keep connections, forward nothing."""
        self._tell("freeze", to_server=direction != "to_client", to_client=direction != "to_server")

    def cut(self, *, refuse: bool = False) -> None:
        """Forward nothing and accept nobody: who connects gets no answer, or is refused. Connections stay open."""
        self._tell("cut", refuse=refuse)

    def reset(self) -> None:
        """End all connections with an RST, to both sides; new ones are served as before."""
        self._tell("reset")

    def delay(self, seconds: float) -> None:
        """What is sent from now on arrives that much later, each way."""
        self._tell("delay", seconds=seconds)

    def resume(self) -> None:
        """Be a link without faults again."""
        self._tell("resume")

    @property
    def counters(self) -> Counters:
        return Counters(**self._tell("count"))

    def _tell(self, command: str, **arguments: Any) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps({'command': command, **arguments})}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the proxy to {self.target} has ended with {self._process.wait()}"
        answer: dict[str, int] = json.loads(line)
        return answer


def proxy_to(server: Server, *, host: str = HOST) -> Proxy:
    """A proxy before a server of the local stack."""
    return Proxy(f"{HOST}:{server.port}", host=host)


def through(environment: Mapping[str, str], *proxies: Proxy) -> dict[str, str]:
    """The settings whose addresses lead through these proxies; for `Processes.start` and `applied`.

    Only what changes is returned, so that it may be laid over the settings in force.
    """
    changed = {}
    for name, value in environment.items():
        new = value
        for proxy in proxies:
            new = new.replace(proxy.target, f"{proxy.host}:{proxy.port}")
        if new != value:
            changed[name] = new
    return changed


@contextmanager
def stopped(*pids: int, family: bool = False) -> Iterator[None]:
    """Processes halted by SIGSTOP while the block lasts, with `family` also all that they have started.

    A server of the local stack is halted with `stopped(server.pid, family=True)`: postmaster and backends.
    """
    halted: list[int] = []
    try:
        for pid in pids:
            _halt(pid, halted, family)
        yield
    finally:
        for pid in reversed(halted):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _halt(pid: int, halted: list[int], family: bool) -> None:
    """Parents first: whoever is halted starts no further children."""
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        return
    halted.append(pid)
    eventually(lambda: state_of(pid) in {"T", "Z", ""}, what=f"process {pid} halts")
    for child in children(pid) if family else ():
        _halt(child, halted, family)


def state_of(pid: int) -> str:
    """R, S, D, T (halted), Z (a zombie), or '' when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Namespace:
    """A network namespace joined to ours by one link; made by `namespace`.

    A process started with `command` reaches what listens on `host`, such as a proxy, and nothing else. `cut` lets the
    packets of both sides vanish: no answer, no error, no end, and nothing is acknowledged.
    """

    def __init__(self, number: int) -> None:
        self.name = f"docworker{number}"
        self._ours, self._theirs = f"dw{number}a", f"dw{number}b"
        self.host, self._guest = (f"10.213.{number // 64 % 256}.{number % 64 * 4 + side}" for side in (1, 2))

    def make(self) -> None:
        """Raises OSError where that cannot be; what was made until then is gone again."""
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs, "netns", self.name)
            _ip("address", "add", f"{self.host}/30", "dev", self._ours)
            _ip("link", "set", self._ours, "up")
            _ip("-n", self.name, "address", "add", f"{self._guest}/30", "dev", self._theirs)
            _ip("-n", self.name, "link", "set", self._theirs, "up")
            _ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """The link goes with the namespace, and that with the last process in it."""
        _ip("netns", "del", self.name)
        with suppress(OSError):
            _ip("link", "del", self._ours)

    def command(self, command: list[str]) -> list[str]:
        """The command that runs `command` in the namespace, in the same process."""
        return [_ip_program(), "netns", "exec", self.name, *command]

    def cut(self) -> None:
        """Send every packet, from either side, to nobody."""
        for where, address, device in self._sides():
            _ip(*where, "neigh", "replace", address, "lladdr", WRONG_ADDRESS, "dev", device, "nud", "permanent")

    def resume(self) -> None:
        """Let packets through again."""
        for where, address, device in self._sides():
            _ip(*where, "neigh", "del", address, "dev", device)

    def _sides(self) -> tuple[tuple[tuple[str, ...], str, str], ...]:
        return ((), self._guest, self._ours), (("-n", self.name), self.host, self._theirs)


def _ip_program() -> str:
    return shutil.which("ip", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") or "ip"


def _ip(*arguments: str) -> None:
    done = subprocess.run([_ip_program(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A `Namespace`; the test is skipped where none can be made."""
    one = Namespace(next(_numbers))
    try:
        one.make()
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        yield one
    finally:
        one.remove()

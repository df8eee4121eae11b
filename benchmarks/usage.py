"""What processes use, from /proc: CPU seconds and resident memory, by what the processes are for (Linux only)."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from benchmarks.servers import Running
from docworker.db.settings import settings
from docworker.worker.local.launching import children, command_line
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.stack import LocalStack

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Use = Mapping[str, float]
"""Seconds or bytes by role: dispatcher, parent, keeper, children, and the servers where they are asked for."""


def resident_bytes(pid: int) -> int:
    """0 for a process that has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def cpu_seconds(pid: int, *, ended_children: bool = False) -> float:
    """User and system time of a process, and of those of its children that have ended; 0 when it has ended itself."""
    fields = _stat(pid)
    return sum(int(ticks) for ticks in fields[11 : 15 if ended_children else 13]) / TICKS


def _stat(pid: int) -> list[str]:
    """The fields of `stat` from the third, the state, on; zeros when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["0"] * 50


def memory_by_role(workers: Sequence[Running]) -> Use:
    """Resident bytes of the processes of a queue."""
    use: dict[str, float] = defaultdict(float)
    for running in workers:
        use[running.role] += resident_bytes(running.pid)
        for child in children(running.pid):
            use[_child_role(child)] += resident_bytes(child)
    return use


def cpu_by_role(servers: LocalStack, workers: Sequence[Running]) -> Use:
    """CPU seconds since their start of the producer (this process), a queue's processes, the broker and the servers.

    Children that have ended count as their parent's children. Of the master, the backends of clients are apart from
    what writes its pages and sends its log.
    """
    use: dict[str, float] = defaultdict(float, producer=cpu_seconds(os.getpid()))
    for running in workers:
        own = cpu_seconds(running.pid)
        use[running.role] += own
        use["children"] += cpu_seconds(running.pid, ended_children=True) - own
        for child in children(running.pid):
            use[_child_role(child)] += cpu_seconds(child, ended_children=True)
    master = postmaster(servers.master)
    others = _others_of(servers.master, master)
    use["broker"] = cpu_seconds(broker_pid())
    use["backends"] = _all_of(master) - others
    use["master's others"] = others
    use["replica"] = sum(_all_of(postmaster(replica)) for replica in servers.replicas)
    return use


def _child_role(pid: int) -> str:
    return "keeper" if "docworker.worker.consumer.keeper" in command_line(pid) else "children"


@contextmanager
def watching_memory(workers: Sequence[Running], samples: list[Use]) -> Iterator[None]:
    """Sample `memory_by_role` now, every second, and at the end."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            samples.append(memory_by_role(workers))

    samples.append(memory_by_role(workers))
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    samples.append(memory_by_role(workers))


def postmaster(server: PostgresServer) -> int:
    """The process id of a server: the parent of any of its backends."""
    with server.connect() as connection:
        return int(_stat(connection.info.backend_pid)[1])


def broker_pid() -> int:
    with redis.Redis.from_url(settings().broker_url) as client:
        return int(client.info("server")["process_id"])


def _all_of(pid: int) -> float:
    """A server with all its processes, also those that have ended."""
    return cpu_seconds(pid, ended_children=True) + sum(cpu_seconds(child) for child in children(pid))


def _others_of(server: PostgresServer, pid: int) -> float:
    """The server's own processes: the postmaster, and what is no client's backend."""
    query = "SELECT pid FROM pg_stat_activity WHERE backend_type <> 'client backend'"
    with server.connect() as connection:
        others = [int(other) for (other,) in connection.execute(query)]
    return cpu_seconds(pid) + sum(cpu_seconds(other) for other in others)

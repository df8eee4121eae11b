"""`take_turns`: each system runs a part of its jobs, then the next one, and so round and round.

A slow phase of the machine then meets all of them, and what is told of a system is the median of its turns. Of jobs
that do nothing the end is what the queue's own table says; Celery and dramatiq keep none, so their jobs count
themselves (see `peers.tally`). Of documents it is the commit of the last version, by the server's clock, which is this
machine's.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from benchmarks.peers.peer import Peer
from benchmarks.servers import BenchmarkError, Running, commit_times, make_documents, process, wait_until, written
from benchmarks.texts import SIZE_BYTES
from benchmarks.usage import Use, cpu_by_role, watching_memory
from docworker.worker.local.stack import LocalStack

WARM_UP = 50
WARM_UP_SINGLES = 20
WARM_BYTES = 3 * 1024**3


@dataclass(frozen=True)
class Load:
    """What a system runs in one turn: jobs that do nothing, documents at once, and documents one after the other on an
    idle system."""

    noops: int = 0
    documents: int = 0
    singles: int = 0


@dataclass
class Measured:
    """One system. Of each turn: rates in jobs a second, CPU in seconds a job, by role, bytes of log for each byte of a
    document; latencies in seconds of all singles; memory in bytes by role, of all samples."""

    noop_rates: list[float] = field(default_factory=list)
    document_rates: list[float] = field(default_factory=list)
    enqueue_rates: list[float] = field(default_factory=list)
    noop_cpu: list[Use] = field(default_factory=list)
    document_cpu: list[Use] = field(default_factory=list)
    log: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    memory: list[Use] = field(default_factory=list)

    @property
    def noop_rate(self) -> float:
        return statistics.median(self.noop_rates)

    @property
    def document_rate(self) -> float:
        return statistics.median(self.document_rates)


def take_turns(
    servers: LocalStack, loads: Mapping[str, tuple[Peer, Load]], turns: int
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Measure each, by name; every other round goes backwards. Returns the figures, and why others have none: a system
    that fails once is left out from then on."""
    measured = {name: Measured() for name in loads}
    failures: dict[str, str] = {}
    for number in range(1, turns + 1):
        for name in list(measured)[:: 1 if number % 2 else -1]:
            print(f"turn {number} of {turns}: {name}", file=sys.stderr, flush=True)
            try:
                _Turn(servers, *loads[name], measured[name]).run(first=number == 1)
            except BenchmarkError as error:
                failures[name] = str(error)
                del measured[name]
    return measured, failures


class _Turn:
    """The same course for all: warm up, no-ops, singles on an idle system, then documents at once."""

    def __init__(self, servers: LocalStack, peer: Peer, load: Load, measured: Measured) -> None:
        self.servers, self.peer, self.load, self.measured = servers, peer, load, measured
        self.workers: Sequence[Running] = ()

    def run(self, *, first: bool) -> None:
        if first:
            self._install()
        with ExitStack() as stack:
            self.workers = [stack.enter_context(process(*command)) for command in self.peer.workers]
            if self.load.noops:
                self._send_noops(WARM_UP)
                self._run_noops()
            if self.load.singles:
                self._run_singles()
            if self.load.documents:
                self._send_documents(*make_documents(WARM_UP, self.peer.name))
                self._run_documents()

    def _install(self) -> None:
        try:
            self.peer.install()
        except subprocess.CalledProcessError as error:
            raise BenchmarkError(f"{error}\n{(error.stderr or b'').decode(errors='replace')[-2000:]}") from error

    def _run_noops(self) -> None:
        self._settle()
        with self._measuring_cpu(self.measured.noop_cpu, self.load.noops):
            started = self._send_noops(self.load.noops)
        self.measured.noop_rates.append(self.load.noops / (self.peer.noops_done()[1] - started))

    def _send_noops(self, count: int) -> float:
        """Returns when the first was about to be sent, once the last is done."""
        before, _ = self.peer.noops_done()
        started = time.time()
        self.peer.send_noops(count)
        self._wait(lambda: self.peer.noops_done()[0] >= before + count)
        return started

    def _run_singles(self) -> None:
        organization_id, ids = make_documents(WARM_UP_SINGLES + self.load.singles, self.peer.name)
        started_at: dict[UUID, float] = {}
        for number, document_id in enumerate(ids, 1):
            started_at[document_id] = time.time()
            self.peer.send_documents(organization_id, [document_id])
            self._wait(lambda: written(organization_id) == number, 0.02)  # noqa: B023 - called at once
        committed_at = commit_times(organization_id)
        self.measured.latencies += [committed_at[one] - started_at[one] for one in ids[WARM_UP_SINGLES:]]

    def _run_documents(self) -> None:
        organization_id, ids = make_documents(self.load.documents, self.peer.name)
        self._settle()
        before = self._log_bytes()
        with (
            watching_memory(self.workers, self.measured.memory),
            self._measuring_cpu(self.measured.document_cpu, len(ids)),
        ):
            started, sent = self._send_documents(organization_id, ids)
        self.measured.log.append((self._log_bytes() - before) / (len(ids) * SIZE_BYTES))
        self.measured.enqueue_rates.append(len(ids) / (sent - started))
        self.measured.document_rates.append(len(ids) / (max(commit_times(organization_id).values()) - started))

    def _send_documents(self, organization_id: UUID, ids: list[UUID]) -> tuple[float, float]:
        """Returns when the first was about to be sent and when all were, once the last is done."""
        started = time.time()
        self.peer.send_documents(organization_id, ids)
        sent = time.time()
        self._wait(lambda: written(organization_id) >= len(ids))
        return started, sent

    def _log_bytes(self) -> int:
        """How much log the master has written so far."""
        return int(self.servers.master.execute("SELECT pg_current_wal_lsn() - '0/0'")[0][0])

    def _settle(self) -> None:
        self.servers.master.execute("CHECKPOINT")  # else what others wrote would be written out in this one's time
        warm_memory()

    def _wait(self, done: Callable[[], bool], interval_seconds: float = 0.5) -> None:
        wait_until(done, interval_seconds, self.workers)

    @contextmanager
    def _measuring_cpu(self, uses: list[Use], jobs: int) -> Iterator[None]:
        before = cpu_by_role(self.servers, self.workers)
        yield
        after = cpu_by_role(self.servers, self.workers)
        uses.append({role: (after[role] - before.get(role, 0)) / jobs for role in after})


def warm_memory() -> None:
    """Have the machine's free memory at hand, as on one that has been up for a while.

    A virtual machine may get a page from its host only when it is first touched, and that costs ten times as much as
    filling it: the first gigabyte that servers write would be measured, not what writes it.
    """
    touch = f"import mmap; memory = mmap.mmap(-1, {WARM_BYTES}); memory[::4096] = bytes({WARM_BYTES} // 4096)"
    subprocess.run([sys.executable, "-c", touch], check=True)

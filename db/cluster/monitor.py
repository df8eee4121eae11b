"""`ReplicaMonitor`: a thread that samples every server of a cluster, so that no reader has to ask first.

It starts with the first read, asks every server at a jittered interval on connections of its own, all at once and with
short time-outs, and never raises: what it does not know, it says.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from docworker.db import metrics
from docworker.db.cluster.connections import connect_arguments, discovery_of
from docworker.db.cluster.positions import parse_lsn, timeline_of
from docworker.db.cluster.replica_status import LagHistory, ReplicaSample, ReplicaStatus
from docworker.db.cluster.roundtrip import Row, ask_async
from docworker.db.cluster.servers import Server, Timelines, replica_role
from docworker.db.cluster.transactions import IDENTIFY
from docworker.db.passwords import with_password
from docworker.db.settings import Settings

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 1.0
"""A server that does not answer a sample within this is not healthy."""
_JOIN_SECONDS = 2.0

_ASK_REPLICA = """
SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn(), receiver.received_tli,
       receiver.latest_end_lsn,
       extract(epoch FROM pg_catalog.clock_timestamp()
                          OPERATOR(pg_catalog.-) pg_catalog.pg_last_xact_replay_timestamp()),
       (SELECT system_identifier FROM pg_catalog.pg_control_system()), receiver.pid IS NOT NULL,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END
FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_stat_get_wal_receiver() AS receiver ON receiver.pid IS NOT NULL
"""


class ReplicaMonitor:
    """What is known of the replicas of one cluster: `samples[n]` is of replica n + 1, None when it does not answer."""

    def __init__(self, cluster: str, settings: Settings, timelines: Timelines, *, application_name: str) -> None:
        self._cluster = cluster
        self.settings = settings
        self.timelines = timelines
        self._history = LagHistory()
        addresses = settings.addresses(cluster)
        self.discovery = discovery_of(
            connect_arguments(addresses.master_url or addresses.dispatcher_url or "", settings, application_name),
            settings,
            Server(cluster, "master", timelines),
        )
        self._replicas = [connect_arguments(url, settings, application_name) for url in addresses.replica_urls]
        self._samples: list[ReplicaSample | None] = [None] * len(self._replicas)
        self._asked = [False] * len(self._replicas)
        self._known = not self._replicas
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # For readers

    @property
    def replica_count(self) -> int:
        return len(self._replicas)

    def start(self) -> None:
        """Start sampling, unless it is done already. Cheap to call before every read."""
        if self._thread is None and self._replicas:
            with self._guard:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name=f"{self._cluster} monitor", daemon=True)
                    self._thread.start()

    def await_first_samples(self, pause: Callable[[float], None]) -> None:
        """The first read of a process waits for the first samples: milliseconds, unless a replica does not answer."""
        if not self._known:
            deadline = time.monotonic() + self.settings.replica_wait
            while not self._known and time.monotonic() < deadline:
                pause(0.002)
            self._known = True  # nobody else waits for what did not come

    def sample(self, number: int) -> ReplicaSample | None:
        """What is known of a replica; None when it does not answer, or nothing is known that is fresh."""
        sample = self._samples[number]
        if sample is None or time.monotonic() - sample.sampled_at > self.fresh_seconds:
            return None
        return sample

    def behind_seconds(self, number: int) -> float:
        """How old what this replica shows may be, by its last sample; 0 where it has missed nothing."""
        sample = self.sample(number)
        if sample is None or sample.lag_seconds == 0:
            return 0.0
        return sample.lag_seconds + time.monotonic() - sample.sampled_at

    @property
    def fresh_seconds(self) -> float:
        return 2 * self.settings.replica_sample_interval + ANSWER_SECONDS

    def suspect(self, number: int) -> None:
        """A reader got no good answer from this replica: it is not used until it answers a sample."""
        self._publish(number, None)

    def stop(self) -> None:
        with self._guard:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(self._cancel)
        thread.join(_JOIN_SECONDS)

    # In the thread

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        watches = [self._repeat(self._find_master, self._watch_master, self._forget_master)]
        watches += [
            self._repeat(self._finder_of(number), self._watcher_of(number), self._forgetter_of(number))
            for number in range(len(self._replicas))
        ]
        self._tasks = [asyncio.create_task(watch) for watch in watches]
        if self._thread is None:  # stopped before it had begun
            self._cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _repeat(
        self,
        find: Callable[[], Coroutine[Any, Any, dict[str, Any]]],
        watch: Callable[[AsyncConnection], Coroutine[Any, Any, None]],
        forget: Callable[[], None],
    ) -> None:
        connection: AsyncConnection | None = None
        try:
            while True:
                try:
                    if connection is None:
                        arguments = await find()
                        async with asyncio.timeout(ANSWER_SECONDS + self.settings.connect_timeout):
                            arguments = await asyncio.to_thread(with_password, arguments)
                            connection = await AsyncConnection.connect(**arguments, autocommit=True)
                    await watch(connection)
                except Exception as error:  # noqa: BLE001  the monitor outlives whatever it meets
                    log.debug("sample.failed", cluster=self._cluster, reason=str(error))
                    forget()
                    if connection is not None:
                        await connection.close()
                        connection = None
                await asyncio.sleep(self.settings.replica_sample_interval * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            if connection is not None:
                await connection.close()

    async def _find_master(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.discovery.master)

    def _finder_of(self, number: int) -> Callable[[], Coroutine[Any, Any, dict[str, Any]]]:
        async def find() -> dict[str, Any]:
            return self._replicas[number]

        return find

    async def _watch_master(self, connection: AsyncConnection) -> None:
        system_identifier, in_recovery, walfile_name, flushed = await ask_async(
            connection, IDENTIFY, timeout_seconds=ANSWER_SECONDS
        )
        if in_recovery == "t" or walfile_name is None or flushed is None:
            await connection.close()  # so that the next one looks for the master again
            raise psycopg.OperationalError("the master is a replica now")
        timeline = timeline_of(walfile_name)
        self.timelines.note(int(system_identifier or 0), timeline)
        if timeline < self.timelines.highest:
            await connection.close()
            raise psycopg.OperationalError("the master is an old one")
        self._history.note(time.monotonic(), timeline, parse_lsn(flushed))

    def _forget_master(self) -> None:
        """Where it was stays true."""

    def _watcher_of(self, number: int) -> Callable[[AsyncConnection], Coroutine[Any, Any, None]]:
        async def watch(connection: AsyncConnection) -> None:
            row = await ask_async(connection, _ASK_REPLICA, timeout_seconds=ANSWER_SECONDS)
            self._publish(number, self._judge(number, row))

        return watch

    def _forgetter_of(self, number: int) -> Callable[[], None]:
        return lambda: self._publish(number, None)

    def _judge(self, number: int, row: Row) -> ReplicaSample:
        in_recovery, replayed, timeline, sent, since_last_transaction, system_identifier, receives, promoted_to = row
        now = time.monotonic()
        status = ReplicaStatus(
            system_identifier=int(system_identifier or 0),
            in_recovery=in_recovery == "t",
            timeline=None if timeline is None else int(timeline),
            replayed=None if replayed is None else parse_lsn(replayed),
        )
        if receives == "t" and timeline is None:
            self._warn_hidden()
        if promoted_to is not None:
            self.timelines.note(status.system_identifier, timeline_of(promoted_to))
        if status.timeline is not None:
            self.timelines.note(status.system_identifier, status.timeline)
            if sent is not None:
                self._history.note(now, status.timeline, parse_lsn(sent))
        lsn = status.replayed or 0
        behind = None if since_last_transaction is None else float(since_last_transaction)
        return ReplicaSample(
            sampled_at=now,
            status=status,
            lag_seconds=self._history.lag_seconds(lsn, now, behind),
            lag_bytes=self._history.lag_bytes(lsn),
            healthy=status.in_recovery and self._follows(number, status),
        )

    def _follows(self, number: int, status: ReplicaStatus) -> bool:
        """Whether a replica is on the highest timeline seen. One that receives nothing now is where it was last."""
        before = self._samples[number]
        timeline = status.timeline
        if timeline is None and before is not None:
            timeline = before.status.timeline
        return timeline is None or timeline >= self.timelines.highest

    def _publish(self, number: int, sample: ReplicaSample | None) -> None:
        self._samples[number] = sample
        labels = (self._cluster, replica_role(number))
        metrics.REPLICA_HEALTHY.labels(*labels).set(0 if sample is None else sample.healthy)
        if sample is not None:
            metrics.REPLICA_LAG_SECONDS.labels(*labels).set(sample.lag_seconds)
            metrics.REPLICA_LAG_BYTES.labels(*labels).set(sample.lag_bytes)
        self._asked[number] = True
        self._known = all(self._asked)

    _warned = False

    def _warn_hidden(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "replica.timeline_hidden",
                cluster=self._cluster,
                remedy="GRANT pg_read_all_stats TO the worker role; until then reads with a position use the master",
            )

"""`MasterDiscovery`: finds the master by asking all servers of an address at once; the first that takes writes may be
an old one.

After a failover the old master may come back writable, first in every address, and whoever starts then has seen
nothing. So before a connection to a master is made, every host of its address and every replica is asked for its system
and timeline; only a server that takes writes on the highest timeline is taken. Where the address names one host and
there are no replicas, there is nobody to ask.
"""

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog

from docworker.db.cluster.bounded_connection import BoundedConnection
from docworker.db.cluster.positions import timeline_of
from docworker.db.cluster.servers import Timelines
from docworker.db.cluster.session_settings import question
from docworker.db.errors import ConfigurationError, DemotedMasterError, StaleMasterError

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 1.0
"""How long the others are waited for once one that takes writes has answered; what they say later counts later."""
FRESH_SECONDS = 1.0
"""Connections made so soon after one another rely on the same answers."""
LOOK_AGAIN_SECONDS = 10.0
"""Who has a connection has the servers asked again after this, by one process of those that were forked together."""
_SILENT_SECONDS = 10.0

# A standby knows its timeline from what it receives, and when nobody sends, from its last checkpoint.
_WHO = question("""SELECT system_identifier, pg_catalog.pg_is_in_recovery(),
    CASE WHEN NOT pg_catalog.pg_is_in_recovery()
         THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END,
    (SELECT received_tli FROM pg_catalog.pg_stat_get_wal_receiver()),
    (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())
    FROM pg_catalog.pg_control_system()""")

Arguments = dict[str, Any]


class NoMasterError(psycopg.OperationalError):
    """No server of an address takes writes; as if the server were away."""

    def __init__(self, role: str, message: str) -> None:
        super().__init__(message)
        self.role = role
        """Whose address it is: master (the worker's), dispatcher, owner, …"""


@dataclass(frozen=True)
class Answer:
    """What a server says of itself; `number` is its place among those asked."""

    number: int
    system_identifier: int
    in_recovery: bool
    timeline: int


class MasterDiscovery:
    """`master()` gives the arguments to connect with; `look_again()` keeps what is known fresh and costs no wait.

    `arguments` are psycopg's, of an address that may name several hosts; `replicas` are theirs.
    """

    def __init__(self, arguments: Arguments, replicas: Sequence[Arguments], timelines: Timelines, *, role: str) -> None:
        self._hosts = list(one_by_one(arguments))
        known = {_place(one) for one in self._hosts}
        self._asked = self._hosts + [
            one for replica in replicas for one in one_by_one(replica) if _place(one) not in known
        ]
        self._timelines = timelines
        self._role = role
        self._guard = threading.Lock()
        self._taken_at = float("-inf")
        self._answers: list[Answer] = []
        self._failures: dict[int, Exception] = {}
        self._silent_until: dict[int, float] = {}

    @property
    def is_of_use(self) -> bool:
        """Whether there is more than one server to ask."""
        return len(self._asked) > 1

    def master(self) -> Arguments:
        """Arguments that name one server, which takes writes on the highest timeline known.

        Raises:
            StaleMasterError: only old masters take writes; DemotedMasterError: none does; ConfigurationError: the
            servers are of different systems; psycopg.OperationalError: nobody answered.
        """
        if not self.is_of_use:
            return self._hosts[0]
        with self._guard:
            if time.monotonic() - self._taken_at < FRESH_SECONDS and self._best() is not None:
                return self._choose()
            self._take()
            return self._choose()

    def take(self) -> None:
        """Ask all servers now, whatever is known; their timelines are noted."""
        if self.is_of_use:
            with self._guard:
                self._take()

    def look_again(self) -> None:
        """Have the servers asked in the background when nobody has for long."""
        if self.is_of_use and self._timelines.wants_a_look(LOOK_AGAIN_SECONDS):
            self._ask(range(len(self._asked)))

    def _take(self) -> None:
        """Wait for all, but once there is a master, not for long, nor for those that were silent a moment ago."""
        everybody = set(range(len(self._asked)))
        self._answers, self._failures = [], {}
        self._timelines.looked()
        answers = self._ask(range(len(self._asked)))
        started = time.monotonic()
        silent = {number for number, until in self._silent_until.items() if until > started}
        deadline = started + max(int(one.get("connect_timeout", 5)) for one in self._asked)
        while pending := everybody - self._heard() - (silent if self._best() is not None else set()):
            try:
                number, answer = answers.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                self._silent_until.update(dict.fromkeys(pending, time.monotonic() + _SILENT_SECONDS))
                break
            if isinstance(answer, Answer):
                self._answers.append(answer)
                self._silent_until.pop(number, None)
            else:
                self._failures[number] = answer
            if self._best() is not None:
                deadline = min(deadline, time.monotonic() + PATIENCE_SECONDS)
        self._taken_at = time.monotonic()

    def _heard(self) -> set[int]:
        return self._failures.keys() | {one.number for one in self._answers}

    def _best(self) -> Answer | None:
        """The first of the address that takes writes and that nobody is ahead of."""
        highest = max([self._timelines.highest, *(one.timeline for one in self._answers)])
        masters = (one for one in self._answers if one.number < len(self._hosts) and not one.in_recovery)
        return min((one for one in masters if one.timeline == highest), key=lambda one: one.number, default=None)

    def _ask(self, numbers: Sequence[int]) -> "queue.SimpleQueue[tuple[int, Answer | Exception]]":
        answers: queue.SimpleQueue[tuple[int, Answer | Exception]] = queue.SimpleQueue()

        def ask(number: int) -> None:
            try:
                answer = _who(number, self._asked[number])
                self._timelines.note(answer.system_identifier, answer.timeline)
            except Exception as error:  # noqa: BLE001  it is raised, or said, where it is waited for
                answers.put((number, error))
            else:
                answers.put((number, answer))

        for number in numbers:
            threading.Thread(target=ask, args=[number], name="survey", daemon=True).start()
        return answers

    def _choose(self) -> Arguments:
        systems = {one.system_identifier: self._where(one) for one in self._answers}
        if len(systems) > 1:
            named = ", ".join(f"{where} is of system {system}" for system, where in sorted(systems.items()))
            raise ConfigurationError(
                f"the servers of the {self._role} and its replicas are not of one system: {named}; name the servers of "
                "one system in the addresses"
            )
        for system in systems:
            self._timelines.identify(system)
        best = self._best()
        for one in self._answers:
            if not one.in_recovery and best is not None and one.timeline < best.timeline:
                log.warning("master.old", server=self._where(one), timeline=one.timeline, highest=best.timeline)
        if best is None:
            raise self._explain()
        return {**self._hosts[best.number], "target_session_attrs": "any"}

    def _explain(self) -> Exception:
        writable = [one for one in self._answers if not one.in_recovery and one.number < len(self._hosts)]
        highest = max([self._timelines.highest, *(one.timeline for one in self._answers)])
        if writable:
            old = ", ".join(f"{self._where(one)} takes writes on timeline {one.timeline}" for one in writable)
            return StaleMasterError(
                f"no server of the {self._role}'s address is the master: {old}, but timeline {highest} was seen: it is "
                "an old master that came back; stop it or make it a replica, and name the new one"
            )
        failures = "; ".join(
            f"{_place(self._asked[number])}: {error}" for number, error in sorted(self._failures.items())
        )
        answered = [one for one in self._answers if one.number < len(self._hosts)]
        if answered and len(answered) == len(self._hosts):
            return DemotedMasterError(
                f"every server of the {self._role}'s address is a replica: name every server that may become the "
                "master in it, with target_session_attrs=read-write"
            )
        return NoMasterError(
            self._role,
            f"no server of the {self._role}'s address takes writes"
            + "".join(f"; {self._where(one)} is a replica" for one in answered)
            + (f"; {failures}" if failures else "; no other answers"),
        )

    def _where(self, answer: Answer) -> str:
        return _place(self._asked[answer.number])


def one_by_one(arguments: Arguments) -> list[Arguments]:
    """The same arguments for each host that they name."""
    hosts = str(arguments.get("host") or "").split(",")
    if len(hosts) == 1:
        return [arguments]
    ports = str(arguments.get("port") or "").split(",")
    return [
        {**arguments, "host": host, "port": ports[number if len(ports) > 1 else 0]} for number, host in enumerate(hosts)
    ]


def _place(arguments: Arguments) -> str:
    return f"{arguments.get('host') or 'localhost'}:{arguments.get('port') or 5432}"


def _key(arguments: Arguments) -> tuple[str, object]:
    """A pooler has many servers behind one port, each as a database of its own."""
    return _place(arguments), arguments.get("dbname")


def _who(number: int, arguments: Arguments) -> Answer:
    connection = BoundedConnection.connect(**{**arguments, "target_session_attrs": "any"}, autocommit=True)
    connection.limit_seconds = float(arguments.get("connect_timeout", 5))
    try:
        connection.pgconn.send_query(_WHO.encode())
        results = connection.wait(psycopg.generators.execute(connection.pgconn))
        if len(results) < 3:
            raise psycopg.errors.error_from_result(results[-1])
        system, in_recovery, walfile, received, checkpoint = (results[1].get_value(0, column) for column in range(5))
    finally:
        connection.close()
    timelines = [int(one) for one in (received, checkpoint) if one is not None]
    if walfile is not None:
        timelines.append(timeline_of(walfile.decode()))
    return Answer(number, int(system), in_recovery == b"t", max(timelines))

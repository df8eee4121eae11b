"""`Server`, which one an engine talks to, and `Timelines`, which system a cluster is and which master is the latest."""

import mmap
import threading
import time
from dataclasses import dataclass

from docworker.db.cluster.positions import timeline_of
from docworker.db.errors import ConfigurationError, DemotedMasterError, StaleMasterError

# Made before any fork, so what one process of a worker learns all of them know, and the child that replaces one.
# Three numbers in a place that the system's identifier gives: the identifier, its highest timeline, and when (monotonic
# milliseconds) somebody last asked all servers. Two systems that meet in one place only forget what they shared.
_SHARED = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
_PLACES = len(_SHARED) // 3


class Timelines:
    """Which system a cluster is, and the highest timeline that this process, or one forked with it, has seen of it: a
    master on a lower one is an old one."""

    def __init__(self) -> None:
        self.system_identifier: int | None = None
        self._noted: dict[int, int] = {}
        self._guard = threading.Lock()

    @property
    def highest(self) -> int:
        """0 until it is known which system this is."""
        return 0 if self.system_identifier is None else self._highest_of(self.system_identifier)

    def note(self, system_identifier: int, timeline: int) -> None:
        """A server of that system is on this timeline, or somebody says so."""
        if timeline > self._highest_of(system_identifier):
            with self._guard:
                timeline = max(timeline, self._highest_of(system_identifier))
                self._noted[system_identifier] = timeline
                place = _place_of(system_identifier)
                _SHARED[place + 1] = timeline
                _SHARED[place] = system_identifier

    def identify(self, system_identifier: int) -> None:
        """The master is of this system. Raises ConfigurationError when it was of another one before."""
        if self.system_identifier is None:
            self.system_identifier = system_identifier
        elif self.system_identifier != system_identifier:
            raise ConfigurationError(
                f"the master is of system {system_identifier}, but was of system {self.system_identifier} before: "
                "another database answers at its address; correct the address, or restart this process to use it"
            )

    def __str__(self) -> str:
        """For a message, which `hear` reads; empty as long as nothing is known."""
        return f"{self.system_identifier}/{self.highest}" if self.highest else ""

    def hear(self, text: str) -> None:
        """Note what another process has said; what is not of its form says nothing."""
        system_identifier, slash, timeline = text.partition("/")
        if slash and system_identifier.isdecimal() and timeline.isdecimal():
            self.note(int(system_identifier), int(timeline))

    def wants_a_look(self, after_seconds: float) -> bool:
        """Whether nobody has asked all servers for so long; who is told so asks them."""
        system_identifier = self.system_identifier
        if system_identifier is None:
            return False
        wants = time.monotonic() * 1000 - _SHARED[_place_of(system_identifier) + 2] > after_seconds * 1000
        if wants:
            self.looked()
        return wants

    def looked(self) -> None:
        """All servers are being asked now."""
        if self.system_identifier is not None:
            _SHARED[_place_of(self.system_identifier) + 2] = int(time.monotonic() * 1000)

    def _highest_of(self, system_identifier: int) -> int:
        place = _place_of(system_identifier)
        shared = _SHARED[place + 1] if _SHARED[place] == system_identifier else 0
        return max(shared, self._noted.get(system_identifier, 0))


def _place_of(system_identifier: int) -> int:
    return system_identifier % _PLACES * 3


@dataclass(frozen=True, slots=True)
class Server:
    """Which server an engine talks to, for checks, metrics and messages. `role` is master, replicaN, dispatcher, …, or
    `replicaN dispatcher`; `database` is None for the cluster's own."""

    cluster: str
    role: str
    timelines: Timelines
    database: str | None = None

    @property
    def is_replica(self) -> bool:
        return self.role.startswith("replica")

    @property
    def disk(self) -> str:
        """Whose disk it writes to: the dispatcher and the leases have addresses of their own and the master's disk."""
        return self.role.partition(" ")[0] if self.is_replica else "master"


def replica_role(number: int) -> str:
    """What replica `number`, counted from 0, is called in metrics, logs and messages, which count from 1."""
    return f"replica{number + 1}"


def demoted(server: Server) -> DemotedMasterError:
    return DemotedMasterError(
        f"the server given as {server.cluster} {server.role} is a replica: name every server that may become the "
        "master in its address, with target_session_attrs=read-write"
    )


def examine_master(server: Server, system_identifier: int, in_recovery: bool, walfile_name: str | None) -> int:
    """The timeline of a server that is used as a master; raises DemotedMasterError, StaleMasterError, or
    ConfigurationError when it is of another system than before."""
    if in_recovery or walfile_name is None:
        raise demoted(server)
    timeline = timeline_of(walfile_name)
    server.timelines.identify(system_identifier)
    if timeline < server.timelines.highest:
        raise StaleMasterError(
            f"the server that answers as {server.cluster} {server.role} is on timeline {timeline}, but timeline "
            f"{server.timelines.highest} was seen: it is an old master that came back; stop it or make it a replica"
        )
    server.timelines.note(system_identifier, timeline)
    return timeline

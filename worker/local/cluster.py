"""`LocalCluster`: a PostgreSQL master of a local stack, with the replicas that follow it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from docworker.db.settings import HOME
from docworker.worker.local.home import StackState
from docworker.worker.local.launching import NotInTimeError, ServerUser, wait_until
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.servers.programs import postgres_programs
from docworker.worker.local.servers.roles import DISPATCHER, OWNER, WORKER, ensure_roles
from docworker.worker.local.servers.server import PortTakenError, Server, ServerFailedError, free_port

log = structlog.get_logger(__name__)

STREAMING_SECONDS = 20.0


def server_names(cluster: str, replicas: int) -> list[str]:
    """What the servers of a cluster are called, the first master first; those of home by what they are."""
    prefix = "postgres" if cluster == HOME else cluster
    return [f"{prefix}{number}" for number in range(1, replicas + 2)]


class LocalCluster:
    """The servers of one cluster. `state` remembers which of them is the master."""

    def __init__(
        self,
        name: str,
        *,
        replicas: int,
        home: Path,
        user: ServerUser,
        state: StackState,
        durable: bool,
        settings: Mapping[str, str] | None,
    ) -> None:
        self.name = name
        self._state = state
        names = server_names(name, replicas)
        master = state.masters.setdefault(name, names[0])
        if master not in names:
            names[-1] = master
        programs, password = postgres_programs(user), state.password("postgres")
        self.servers = {
            one: PostgresServer(
                name=one,
                home=home,
                port=0,
                user=user,
                programs=programs,
                password=password,
                durable=durable,
                settings=settings,
            )
            for one in names
        }
        self._following: list[str] = []

    @property
    def master(self) -> PostgresServer:
        return self.servers[self._state.masters[self.name]]

    @property
    def replicas(self) -> list[PostgresServer]:
        """The servers that follow the master; after a failover the former master is not among them."""
        return [self.servers[name] for name in self._following]

    def start(self) -> None:
        """Start the master, with our roles and our database, and the replicas, copied where there is none yet."""
        self._start_master()
        self._start_replicas()

    def _start_master(self) -> None:
        master = self.master
        if not master.exists:
            master.create()
        master.begin_start()
        finish_start(master, self._state)
        ensure_roles(master, self._state.passwords)

    def _start_replicas(self) -> None:
        master = self.master
        self._following = [name for name in self.servers if name != master.name]
        master.drop_slots(but=self._following)
        present = [replica for replica in self.replicas if replica.exists and replica.is_standby]
        self._copy([replica for replica in self.replicas if replica not in present])
        for replica in present:
            replica.follow(master)
        for replica in self.replicas:
            replica.begin_start()
        astray = [replica for replica in present if not self._joins(replica)]
        for replica in self.replicas:
            if replica not in present:
                finish_start(replica, self._state)
                self._await_streaming(replica)
        self._rebuild(astray)

    def _copy(self, replicas: Sequence[PostgresServer]) -> None:
        for copy in [replica.begin_copy(self.master) for replica in replicas]:
            copy.finish()

    def _joins(self, replica: PostgresServer) -> bool:
        """Whether a replica of an earlier start still goes with the master."""
        try:
            finish_start(replica, self._state)
            self._await_streaming(replica)
        except (NotInTimeError, ServerFailedError) as error:
            log.warning("replica.astray", server=replica.name, reason=str(error))
            return False
        return True

    def _rebuild(self, replicas: Sequence[PostgresServer]) -> None:
        """Copy the master again for replicas it has no WAL for any more, or that went another way."""
        for replica in replicas:
            replica.stop()
        self._copy(replicas)
        for replica in replicas:
            replica.start()
            self._await_streaming(replica)

    def _await_streaming(self, replica: PostgresServer) -> None:
        wait_until(
            lambda: self.master.streams_to(replica),
            what=f"{replica.name} receives the WAL of {self.master.name}",
            within_seconds=STREAMING_SECONDS,
        )

    def addresses(self, database: str) -> dict[str, str]:
        """As DOCWORKER_CLUSTERS names them."""
        replicas = (replica.url(WORKER, self._state.password(WORKER), database) for replica in self.replicas)
        masters = {"owner_url": OWNER, "master_url": WORKER, "dispatcher_url": DISPATCHER}
        return {
            **{name: self.master.url(role, self._state.password(role), database) for name, role in masters.items()},
            "replica_urls": " ".join(replicas),
        }

    def wait_for_replicas(self, *, within_seconds: float = 20) -> None:
        """Wait until every replica has replayed what is committed on the master now."""
        for replica in self.replicas:
            replica.wait_for(self.master, within_seconds=within_seconds)


def finish_start(server: Server, state: StackState) -> None:
    """The second half of a server's start; on another port when its own was taken between our look and the server's."""
    try:
        server.finish_start()
    except PortTakenError:
        server.port = state.ports[server.name] = free_port(but=state.ports.values())
        server.start()

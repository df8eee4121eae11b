"""`LocalStack`: PostgreSQL clusters, each a master with its replicas by streaming replication, and a broker, in one
directory."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from docworker.db.errors import DocworkerError
from docworker.db.settings import HOME
from docworker.worker.local.cluster import LocalCluster, finish_start, server_names
from docworker.worker.local.home import (
    PROCESSES,
    Lock,
    StackState,
    cannot_use,
    environment_file,
    metrics_port_setting,
    open_home,
    remove_home,
    write_environment,
)
from docworker.worker.local.launching import server_user
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.servers.programs import valkey_programs
from docworker.worker.local.servers.roles import DATABASE, ROLES
from docworker.worker.local.servers.server import Server, free_port, port_is_free
from docworker.worker.local.servers.valkey import ValkeyServer

log = structlog.get_logger(__name__)

BROKER = "broker"
CLUSTERS = (HOME, "east", "west", "north", "south")
"""What the clusters of a stack are called, the first one first."""


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """`role` is master, replica, former master or broker."""

    name: str
    role: str
    cluster: str | None
    port: int
    running: bool


class LocalStack:
    """The servers of `directory`; data stays there for the next start.

    There are as many clusters as are asked for, and those of earlier starts: somebody's documents may be there.
    `durable=False` gives up the data's safety in a crash of the machine for speed; `settings` are further PostgreSQL
    settings for every server, and `given` settings of docworker that win over the stack's own. Start it from a thread
    that lives as long as the stack (see `launch`).
    """

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 1,
        clusters: int = 1,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        given: Mapping[str, str] | None = None,
    ) -> None:
        if not 0 <= replicas <= 8:
            raise DocworkerError(f"the local stack runs 0 to 8 replicas of each master, not {replicas}")
        if not 1 <= clusters <= len(CLUSTERS):
            raise DocworkerError(f"the local stack runs 1 to {len(CLUSTERS)} clusters, not {clusters}")
        self.directory = directory.absolute()
        self._replicas = replicas
        self._asked_clusters = clusters
        self._durable = durable
        self._settings = settings
        self._given = dict(given or {})
        self._lock: Lock | None = None
        self._clusters: dict[str, LocalCluster] = {}
        self._broker: ValkeyServer | None = None

    # Its servers

    @property
    def clusters(self) -> Mapping[str, LocalCluster]:
        """By name, home first."""
        self._assert_started()
        return self._clusters

    @property
    def master(self) -> PostgresServer:
        """Of home."""
        return self.clusters[HOME].master

    @property
    def replicas(self) -> list[PostgresServer]:
        """Of home, as `LocalCluster.replicas`."""
        return self.clusters[HOME].replicas

    @property
    def broker(self) -> ValkeyServer:
        self._assert_started()
        assert self._broker is not None
        return self._broker

    @property
    def store(self) -> Path:
        """The directory for source bytes."""
        return self.directory / "store"

    def _assert_started(self) -> None:
        if self._lock is None:
            raise DocworkerError(f"the local stack in {self.directory} is not started")

    # Start and stop

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start every server; what a killed owner left running or half made is taken care of.

        Raises:
            StackInUseError: another process runs the stack of this directory.
            DocworkerError: the directory or the servers cannot be used; the message says why.
        """
        if self._lock is not None:
            raise DocworkerError(f"the local stack in {self.directory} is started already")
        try:
            self._start()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise cannot_use(self.directory, error) from error
            raise
        log.info(
            "stack.started",
            directory=str(self.directory),
            clusters=list(self.clusters),
            master_port=self.master.port,
            replica_ports=[replica.port for replica in self.replicas],
            broker_port=self.broker.port,
        )

    def _start(self) -> None:
        user = server_user()
        self._home = open_home(self.directory, user)
        self._lock = Lock(self._home)
        self._state = StackState.load(self._home, servers=server_names(HOME, 0))
        self._build_servers()
        for server in self._all():
            server.stop_leftover()
        self._choose_ports()
        self._state.save(self._home)
        self.store.mkdir(mode=0o700, exist_ok=True)

        self.broker.begin_start()
        for cluster in self._clusters.values():
            cluster.start()
        finish_start(self.broker, self._state)
        self._state.save(self._home)
        self._write_environment()

    def _build_servers(self) -> None:
        user = server_user()
        for name in (BROKER, *ROLES):
            self._state.password(name)
        asked = CLUSTERS[: self._asked_clusters]
        self._clusters = {
            name: LocalCluster(
                name,
                replicas=self._replicas,
                home=self._home,
                user=user,
                state=self._state,
                durable=self._durable,
                settings=self._settings,
            )
            for name in CLUSTERS
            if name in asked or name in self._state.masters
        }
        self._broker = ValkeyServer(
            name=BROKER,
            home=self._home,
            port=0,
            user=user,
            programs=valkey_programs(user),
            password=self._state.password(BROKER),
        )

    def _all(self) -> Iterator[Server]:
        for cluster in self._clusters.values():
            yield from cluster.servers.values()
        if self._broker is not None:
            yield self._broker

    def _choose_ports(self) -> None:
        """The ports of the last start, but for those that another program has taken since."""
        ports = self._state.ports
        for name in (*(server.name for server in self._all()), *PROCESSES):
            if name not in ports or not port_is_free(ports[name]):
                ports[name] = free_port(but=ports.values())
        for server in self._all():
            server.port = ports[server.name]

    def stop(self) -> None:
        """Stop every server and let the next owner in. Stopped already is fine."""
        self._stop(at_once=False)

    def remove(self) -> None:
        """Stop every server and delete the directory with all its data."""
        self._stop(at_once=True)
        remove_home(self.directory)

    def _stop(self, *, at_once: bool) -> None:
        if self._lock is None:
            return
        try:
            servers = [server for server in self._all() if server.running]
            for server in servers:
                server.begin_stop(at_once=at_once)
            for server in servers:
                server.finish_stop()
        finally:
            environment_file(self.directory).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None
        log.info("stack.stopped", directory=str(self.directory))

    # For those who use it

    def environment(self, *, database: str = DATABASE) -> dict[str, str]:
        """The DOCWORKER_* settings for this stack."""
        addresses = {name: cluster.addresses(database) for name, cluster in self.clusters.items()}
        return {
            **{f"DOCWORKER_{name.upper()}": address for name, address in addresses.pop(HOME).items()},
            **({"DOCWORKER_CLUSTERS": json.dumps(addresses)} if addresses else {}),
            "DOCWORKER_BROKER_URL": self.broker.url,
            "DOCWORKER_STORE": str(self.store),
            "DOCWORKER_STATE_DIRECTORY": str(self.directory / "state"),
            **{metrics_port_setting(name): str(self._state.ports[name]) for name in PROCESSES},
            **self._given,
        }

    def status(self) -> list[ServerStatus]:
        """One line for each server."""
        places: dict[str, tuple[str, str | None]] = {BROKER: ("broker", None)}
        for cluster in self.clusters.values():
            places |= dict.fromkeys(cluster.servers, ("former master", cluster.name))
            places |= {replica.name: ("replica", cluster.name) for replica in cluster.replicas}
            places[cluster.master.name] = "master", cluster.name
        return [
            ServerStatus(
                name=server.name,
                role=places[server.name][0],
                cluster=places[server.name][1],
                port=server.port,
                running=server.running,
            )
            for server in self._all()
        ]

    def dead_server(self) -> Server | None:
        """A server that should run and does not."""
        return next((server for server in self._all() if not server.running), None)

    def wait_for_replicas(self, *, within_seconds: float = 20) -> None:
        """Wait until every replica has replayed what is committed on its master now."""
        for cluster in self.clusters.values():
            cluster.wait_for_replicas(within_seconds=within_seconds)

    def _write_environment(self) -> None:
        write_environment(self.directory, self.environment())

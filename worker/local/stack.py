"""`LocalStack`: a PostgreSQL master, its replicas by streaming replication, and a broker, in one directory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from docworker.db.errors import DocworkerError
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
from docworker.worker.local.launching import NotInTimeError, server_user, wait_until
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.servers.programs import postgres_programs, valkey_programs
from docworker.worker.local.servers.roles import DATABASE, DISPATCHER, OWNER, ROLES, WORKER, ensure_roles
from docworker.worker.local.servers.server import PortTakenError, Server, ServerFailedError, free_port, port_is_free
from docworker.worker.local.servers.valkey import ValkeyServer

log = structlog.get_logger(__name__)

BROKER = "broker"
STREAMING_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    name: str
    role: str
    port: int
    running: bool


class LocalStack:
    """The servers of `directory`; data stays there for the next start.

    `durable=False` gives up the data's safety in a crash of the machine for speed; `settings` are further PostgreSQL
    settings for every server. Start it from a thread that lives as long as the stack (see `launch`).
    """

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 1,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if not 0 <= replicas <= 8:
            raise DocworkerError(f"the local stack runs 0 to 8 replicas, not {replicas}")
        self.directory = directory.absolute()
        self._names = [f"postgres{number}" for number in range(1, replicas + 2)]
        self._durable = durable
        self._settings = settings
        self._lock: Lock | None = None
        self._servers: dict[str, PostgresServer] = {}
        self._broker: ValkeyServer | None = None
        self._following: list[str] = []

    # Its servers

    @property
    def master(self) -> PostgresServer:
        self._assert_started()
        return self._servers[self._state.master]

    @property
    def replicas(self) -> list[PostgresServer]:
        """The servers that follow the master; after `failover` the former master is not among them."""
        self._assert_started()
        return [self._servers[name] for name in self._following]

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
            master_port=self.master.port,
            replica_ports=[replica.port for replica in self.replicas],
            broker_port=self.broker.port,
        )

    def _start(self) -> None:
        user = server_user()
        self._home = open_home(self.directory, user)
        self._lock = Lock(self._home)
        self._state = StackState.load(self._home, master=self._names[0])
        if self._state.master not in self._names:
            self._names[-1] = self._state.master
        self._build_servers()
        for server in self._all():
            server.stop_leftover()
        self._choose_ports()
        self._state.save(self._home)
        self.store.mkdir(mode=0o700, exist_ok=True)

        self.broker.begin_start()
        self._start_master()
        self._start_replicas()
        self._finish_start(self.broker)
        self._state.save(self._home)
        self._write_environment()

    def _build_servers(self) -> None:
        user = server_user()
        passwords = {name: self._state.password(name) for name in ("postgres", BROKER, *ROLES)}
        programs = postgres_programs(user)
        self._servers = {
            name: PostgresServer(
                name=name,
                home=self._home,
                port=0,
                user=user,
                programs=programs,
                password=passwords["postgres"],
                durable=self._durable,
                settings=self._settings,
            )
            for name in self._names
        }
        self._broker = ValkeyServer(
            name=BROKER,
            home=self._home,
            port=0,
            user=user,
            programs=valkey_programs(user),
            password=passwords[BROKER],
        )

    def _all(self) -> Iterator[Server]:
        yield from self._servers.values()
        if self._broker is not None:
            yield self._broker

    def _choose_ports(self) -> None:
        """The ports of the last start, but for those that another program has taken since."""
        ports = self._state.ports
        for name in (*self._names, BROKER, *PROCESSES):
            if name not in ports or not port_is_free(ports[name]):
                ports[name] = free_port(but=ports.values())
        for server in self._all():
            server.port = ports[server.name]

    def _start_master(self) -> None:
        master = self._servers[self._state.master]
        if not master.exists:
            master.create()
        master.begin_start()
        self._finish_start(master)
        ensure_roles(master, self._state.passwords)

    def _start_replicas(self) -> None:
        master = self.master
        self._following = [name for name in self._names if name != master.name]
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
                self._finish_start(replica)
                self._await_streaming(replica)
        self._rebuild(astray)

    def _copy(self, replicas: Sequence[PostgresServer]) -> None:
        for copy in [replica.begin_copy(self.master) for replica in replicas]:
            copy.finish()

    def _joins(self, replica: PostgresServer) -> bool:
        """Whether a replica of an earlier start still goes with the master."""
        try:
            self._finish_start(replica)
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

    def _finish_start(self, server: Server) -> None:
        try:
            server.finish_start()
        except PortTakenError:
            # Taken between our look and the server's: once more on another one.
            server.port = self._state.ports[server.name] = free_port(but=self._state.ports.values())
            server.start()

    def _await_streaming(self, replica: PostgresServer) -> None:
        wait_until(
            lambda: self.master.streams_to(replica),
            what=f"{replica.name} receives the WAL of {self.master.name}",
            within_seconds=STREAMING_SECONDS,
        )

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
        replicas = (replica.url(WORKER, self._state.password(WORKER), database) for replica in self.replicas)
        return {
            "DOCWORKER_OWNER_URL": self._master_url(OWNER, database),
            "DOCWORKER_MASTER_URL": self._master_url(WORKER, database),
            "DOCWORKER_DISPATCHER_URL": self._master_url(DISPATCHER, database),
            "DOCWORKER_REPLICA_URLS": " ".join(replicas),
            "DOCWORKER_BROKER_URL": self.broker.url,
            "DOCWORKER_STORE": str(self.store),
            "DOCWORKER_STATE_DIRECTORY": str(self.directory / "state"),
            **{metrics_port_setting(name): str(self._state.ports[name]) for name in PROCESSES},
        }

    def _master_url(self, role: str, database: str) -> str:
        return self.master.url(role, self._state.password(role), database)

    def status(self) -> list[ServerStatus]:
        """One line for each server."""
        roles = {self.master.name: "master", BROKER: "broker"} | dict.fromkeys(self._following, "replica")
        return [
            ServerStatus(
                name=server.name, role=roles.get(server.name, "former master"), port=server.port, running=server.running
            )
            for server in self._all()
        ]

    def dead_server(self) -> Server | None:
        """A server that should run and does not."""
        return next((server for server in self._all() if not server.running), None)

    def wait_for_replicas(self, *, within_seconds: float = 20) -> None:
        """Wait until every replica has replayed what is committed on the master now."""
        for replica in self.replicas:
            replica.wait_for(self.master, within_seconds=within_seconds)

    def _write_environment(self) -> None:
        write_environment(self.directory, self.environment())

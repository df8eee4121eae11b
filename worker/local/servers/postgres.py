"""`PostgresServer`: one PostgreSQL server of the local stack: made, copied, started, stopped, killed, promoted,
rewound.

Knows nothing of our roles and tables. Which server is the master, and who follows whom, is for `LocalStack`.
"""

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg
from psycopg.conninfo import make_conninfo

from docworker.worker.local.home import write_private
from docworker.worker.local.launching import ServerUser, finish_tool, is_alive, run_tool, start_tool, wait_until
from docworker.worker.local.servers.server import HOST, Server

SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # no sockets: no path too long for one, nothing left of one
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "shared_buffers": "128MB",
    # Not in /dev/shm, which is small in containers and keeps what a killed server had there.
    "dynamic_shared_memory_type": "mmap",
    "shared_preload_libraries": "pg_stat_statements",
    "wal_level": "replica",
    "wal_log_hints": "on",  # for pg_rewind
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_slot_wal_keep_size": "1GB",  # a replica that is gone for long must not fill the disk
    "hot_standby": "on",
    "hot_standby_feedback": "off",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "200ms",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Full pages are written all the same: pg_rewind insists on them.
NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "max_wal_size": "256MB"}
ACCESS = f"""\
host all         all {HOST}/32 scram-sha-256
host replication all {HOST}/32 scram-sha-256
"""


def configuration(settings: Mapping[str, str], *, durable: bool) -> str:
    """The text of postgresql.conf: the settings of all servers, and these, which win over them."""
    together = {**SETTINGS, **({} if durable else NOT_DURABLE), **settings}
    return "".join(f"{name} = '{_escaped(value)}'\n" for name, value in together.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


SUPERUSER = "postgres"


class PostgresServer(Server):
    """A PostgreSQL server with its own data directory under `home`, on a port of 127.0.0.1.

    Its configuration lies outside the data directory, where neither pg_basebackup nor pg_rewind touch it and where
    only we can write.
    """

    stop_signal = signal.SIGINT  # "fast": ends the sessions instead of waiting for them
    abort_signal = signal.SIGQUIT  # "immediate"

    def __init__(
        self,
        *,
        name: str,
        home: Path,
        port: int,
        user: ServerUser,
        programs: Path,
        password: str,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name=name, home=home, port=port, user=user)
        self._programs = programs
        self._password = password
        self._durable = durable
        self._settings = dict(settings or {})
        self._primary: PostgresServer | None = None

    # Making the data directory

    @property
    def exists(self) -> bool:
        """Whether there is a data directory; unfinished ones do not count."""
        return (self.data / "PG_VERSION").exists()

    @property
    def is_standby(self) -> bool:
        """Whether the server will start (or has started) as a replica."""
        return (self.data / "standby.signal").exists()

    def create(self) -> None:
        """Make the data directory of a new, empty master."""
        unfinished = self._unfinished_data()
        password_path = self._write_private("password", self._password)
        try:
            run_tool(
                [
                    *(self._programs / "initdb", "-D", unfinished, "--no-sync", "--no-instructions"),
                    *("--username", SUPERUSER, "--pwfile", password_path, "--auth", "scram-sha-256"),
                    *("--encoding", "UTF8", "--locale", "C"),
                    *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
                    *("--set", f"dynamic_shared_memory_type={SETTINGS['dynamic_shared_memory_type']}"),
                ],
                user=self.user,
                environment=self._tool_environment(),
            )
        finally:
            password_path.unlink()
        unfinished.rename(self.data)

    def begin_copy(self, primary: "PostgresServer") -> "Copy":
        """Start copying a running `primary`; `Copy.finish` makes this server its replica."""
        primary.ensure_slot(self.name)
        unfinished = self._unfinished_data()
        process = start_tool(
            [
                *(self._programs / "pg_basebackup", "-D", unfinished, "-X", "stream", "-c", "fast"),
                *("-S", self.name, "-d", primary.tool_conninfo()),
                *([] if self._durable else ["--no-sync"]),
            ],
            user=self.user,
            environment=self._tool_environment(),
        )
        return Copy(server=self, primary=primary, unfinished=unfinished, process=process)

    def remove(self) -> None:
        """Delete the data directory of the stopped server."""
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self._unfinished, ignore_errors=True)

    @property
    def _unfinished(self) -> Path:
        return self.home / f"{self.name}.new"

    def _unfinished_data(self) -> Path:
        """An empty directory; it is renamed when complete, so that an interrupted start leaves no half a server."""
        shutil.rmtree(self._unfinished, ignore_errors=True)
        self._unfinished.mkdir(mode=0o700)
        self.user.own(self._unfinished)
        return self._unfinished

    # Running

    def _command(self) -> list[str | Path]:
        return [self._programs / "postgres", "-D", self.data, "-c", f"config_file={self._config_path}"]

    @property
    def _marker(self) -> str:
        return f" -D {self.data} "

    @property
    def _pid_path(self) -> Path:
        return self.data / "postmaster.pid"

    @property
    def _taken_port_message(self) -> str:
        return "could not bind"

    @property
    def _config_path(self) -> Path:
        return self.home / f"{self.name}.conf"

    def _prepare(self) -> None:
        self._write_config()
        pid = self._recorded_pid()
        if pid is not None and is_alive(pid):
            # The machine crashed, and another program has the number now: PostgreSQL would refuse to start.
            self._pid_path.unlink()

    def _write_config(self) -> None:
        access_path = self._write_private("access", ACCESS)
        settings = {
            "port": str(self.port),
            "hba_file": str(access_path),
            "cluster_name": self.name,
            "primary_slot_name": self.name,
            "primary_conninfo": self._primary_conninfo(),
            **self._settings,
        }
        self._write_private("conf", configuration(settings, durable=self._durable))

    def _primary_conninfo(self) -> str:
        if self._primary is None:
            return ""
        return make_conninfo(self._primary.tool_conninfo(), password=self._password, application_name=self.name)

    def _write_private(self, suffix: str, text: str) -> Path:
        """A file in the home, readable by the server's user only."""
        path = self.home / f"{self.name}.{suffix}"
        write_private(path, text, owner=self.user)
        return path

    def _answers(self) -> bool:
        try:
            self.execute("SELECT")
        except psycopg.OperationalError:
            return False
        return True

    def configure(self, **settings: str) -> None:
        """Change settings that need no restart, and reload; they last as long as this object."""
        self._settings.update(settings)
        self._write_config()
        self._reload()

    def _reload(self) -> None:
        self.execute("SELECT pg_reload_conf()")

    def kill(self) -> None:
        """As `Server.kill`. The System V memory that a killed server leaves is given back: there is little of it."""
        memory_id = self._shared_memory_id()
        super().kill()
        if memory_id is not None:
            ctypes.CDLL(None).shmctl(memory_id, 0, None)

    def _shared_memory_id(self) -> int | None:
        with suppress(FileNotFoundError, ValueError, IndexError):
            return int(self._pid_path.read_text().splitlines()[6].split()[1])
        return None

    # Talking to it

    def url(self, role: str, password: str, database: str) -> str:
        """The address for libpq and SQLAlchemy."""
        return f"postgresql://{quote(role)}:{quote(password)}@{HOST}:{self.port}/{quote(database)}"

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection:
        """A connection as superuser, in autocommit unless `options` say otherwise."""
        conninfo = self.url(SUPERUSER, self._password, database)
        return psycopg.connect(conninfo, **{"autocommit": True, "connect_timeout": 5, **options})

    def execute(
        self, statement: LiteralString, parameters: Sequence[object] = (), *, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run one statement as superuser on a connection of its own; returns the rows, if it has any."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def tool_conninfo(self) -> str:
        """The address for PostgreSQL's own tools, without the password."""
        return make_conninfo(host=HOST, port=self.port, user=SUPERUSER, dbname="postgres")

    def _tool_environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "LC_ALL": "C", "PGPASSWORD": self._password}

    # Replication

    def ensure_slot(self, name: str) -> None:
        """Keep WAL for the replica `name` until it has it."""
        self.execute(
            "SELECT pg_create_physical_replication_slot(%s, true) "
            "WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s)",
            [name, name],
        )

    def drop_slots(self, *, but: Sequence[str] = ()) -> None:
        """Keep WAL no longer for replicas that are gone."""
        self.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
            "WHERE NOT active AND slot_name <> ALL (%s)",
            [list(but)],
        )

    def is_in_recovery(self) -> bool:
        """Whether the running server is a replica."""
        return bool(self.execute("SELECT pg_is_in_recovery()")[0][0])

    def streams_to(self, replica: "PostgresServer") -> bool:
        """Whether `replica` receives our WAL right now."""
        return bool(
            self.execute(
                "SELECT 1 FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'", [replica.name]
            )
        )

    def position(self) -> str:
        """How much of the WAL is flushed (a master) or replayed (a replica), as an LSN."""
        return str(
            self.execute(
                "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END"
            )[0][0]
        )

    def has_replayed(self, position: str) -> bool:
        """Whether this replica has replayed the WAL up to `position`."""
        return bool(self.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position])[0][0])

    def wait_for(self, primary: "PostgresServer", *, within_seconds: float = 20) -> None:
        """Wait until this replica has replayed all that is committed on `primary` now."""
        position = primary.position()
        wait_until(
            lambda: self.has_replayed(position),
            what=f"{self.name} replays {position} of {primary.name}",
            within_seconds=within_seconds,
        )

    def follow(self, primary: "PostgresServer") -> None:
        """Make this a replica of `primary`, when it is started or, if it runs as a replica, from now on."""
        primary.ensure_slot(self.name)
        self._primary = primary
        if self.running:
            self._write_config()
            self._reload()
        else:  # its configuration is written when it starts
            self._become_standby()

    def _become_standby(self) -> None:
        path = self.data / "standby.signal"
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        self.user.own(path)


class Copy:
    """pg_basebackup at work; `PostgresServer.begin_copy` has started it."""

    def __init__(
        self, *, server: PostgresServer, primary: PostgresServer, unfinished: Path, process: subprocess.Popen[bytes]
    ) -> None:
        self._server = server
        self._primary = primary
        self._unfinished = unfinished
        self._process = process

    def finish(self) -> None:
        """Wait for the copy's end and put it in the place of the data directory."""
        finish_tool(self._process, tool="pg_basebackup")
        shutil.rmtree(self._server.data, ignore_errors=True)
        self._unfinished.rename(self._server.data)
        self._server.follow(self._primary)

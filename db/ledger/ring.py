"""`ring_after_commit`: a commit of jobs in an organization's own database tells the dispatcher, which listens at home.

Best effort, in a thread of the process: the producer neither waits for it nor hears of a failure. Who was not told
finds the jobs by looking (`DOCWORKER_DATABASE_POLL`).
"""

import atexit
import os
import threading
from typing import Any

import psycopg
import structlog
from sqlalchemy import event
from sqlalchemy.orm import Session

from docworker.db.cluster.connections import connect_arguments, connect_plainly, discovery_of
from docworker.db.cluster.roundtrip import server_of
from docworker.db.cluster.servers import Server, Timelines
from docworker.db.errors import DocworkerError
from docworker.db.sessions import TenantSession
from docworker.db.settings import HOME, Settings

log = structlog.get_logger(__name__)

_PLACE = "docworker.rings"
_IDLE_SECONDS = 5.0
_FLUSH_SECONDS = 1.0
"""For so long an ending process waits for what it has not told yet."""


def place_of_ring(cluster: str, database: str) -> str:
    """What a notification names; a database's name has no slash."""
    return f"{cluster}/{database}"


def ring_after_commit(session: Session) -> None:
    """Call it where jobs are enqueued; in a cluster's own database a trigger rings."""
    server = server_of(session.connection())
    if server.database is not None and isinstance(session, TenantSession):
        session.info[_PLACE] = place_of_ring(server.cluster, server.database)


@event.listens_for(TenantSession, "after_commit")
def _committed(session: TenantSession) -> None:
    place = session.info.pop(_PLACE, None)
    if place is not None:
        _bell.ring(place, session.settings)


@event.listens_for(TenantSession, "after_soft_rollback")
def _rolled_back(session: TenantSession, _: Any) -> None:
    if not session.in_nested_transaction():
        session.info.pop(_PLACE, None)


class _Bell:
    """Tells home's master of places, from a thread that is begun when it is first needed."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._places: set[str] = set()
        self._rung = threading.Event()
        self._told = threading.Event()
        self._told.set()
        self._settings: Settings | None = None
        self._thread: threading.Thread | None = None

    def ring(self, place: str, settings: Settings) -> None:
        with self._guard:
            self._places.add(place)
            self._settings = settings
            self._told.clear()
            self._rung.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ring", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        self._told.wait(_FLUSH_SECONDS)

    def _run(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        while True:
            if not self._rung.wait(_IDLE_SECONDS) and connection is not None:
                connection.close()
                connection = None
            self._rung.wait()
            with self._guard:
                places, self._places, settings = self._places, set(), self._settings
                self._rung.clear()
            assert settings is not None
            try:
                connection = connection or _connection(settings)
                connection.execute(
                    "SELECT pg_notify('docworker_jobs', place) FROM unnest(%s::text[]) place", [[*places]]
                )
            except (psycopg.Error, DocworkerError, OSError) as error:
                log.debug("ring.not_heard", error=str(error))
                if connection is not None:
                    connection.close()
                    connection = None
            with self._guard:
                if not self._places:
                    self._told.set()


def _connection(settings: Settings) -> psycopg.Connection[Any]:
    arguments = connect_arguments(settings.master_database_url(), settings, "docworker ring")
    return connect_plainly(discovery_of(arguments, settings, Server(HOME, "ring", Timelines())).master(), settings)


_bell = _Bell()


def _begin_anew() -> None:
    global _bell
    _bell = _Bell()


os.register_at_fork(after_in_child=_begin_anew)
atexit.register(lambda: _bell.flush())

"""What a move asks of the servers it goes between: which they are, whether both have the tables of this release, how
busy the target is, and whether its replicas have what was copied."""

import time
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.cluster import database
from docworker.db.errors import DocworkerError, InvalidArgumentError
from docworker.db.faults import sqlstate_of
from docworker.db.governor import Watched
from docworker.migrations.runner import head

_POLL_SECONDS = 0.01
_UNDEFINED_DATABASE = "3D000"


def server_of(connection: psycopg.Connection[Any]) -> str:
    """The cluster and its timeline: after a failover transactions are numbered anew."""
    row = connection.execute(
        "SELECT system_identifier || '/' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8)"
        " FROM pg_catalog.pg_control_system()"
    ).fetchone()
    assert row is not None
    return str(row[0])


def check_revision(connection: psycopg.Connection[Any], place: Place) -> None:
    """Both places have the tables of this release. Raises InvalidArgumentError."""
    for schema in {"public", "public" if place.schema == SHARED_SCHEMA else place.schema}:
        table = sql.Identifier(schema, "alembic_version")
        row = connection.execute(sql.SQL("SELECT max(version_num) FROM {}").format(table)).fetchone()
        if row is None or row[0] != head():
            raise InvalidArgumentError(
                f"{place.cluster} ({place.database or schema}) is at revision {row and row[0]}, and this release's is "
                f"{head()}: run `docworker migrate` first"
            )


def check_no_copies_are_made(connection: psycopg.Connection[Any], place: Place) -> None:
    row = connection.execute("SELECT to_regprocedure(%s) IS NOT NULL", [f"{SHARED_SCHEMA}.keep_copy()"]).fetchone()
    if place.schema == SHARED_SCHEMA and row is not None and row[0]:
        raise InvalidArgumentError(
            f"{place.cluster} still keeps texts twice, for processes of the release before: run "
            "`docworker migrate --contract` first"
        )


def watched(connection: psycopg.Connection[Any], place: Place) -> Watched:
    """The target, for the governor, asked by this connection between transactions. No single table: the indexes of all
    are written."""

    def look() -> tuple[int, bool]:
        row = connection.execute("SELECT CAST(pg_catalog.pg_current_wal_insert_lsn() - '0/0' AS bigint)").fetchone()
        assert row is not None
        return int(row[0]), False

    return Watched(f"a move to {place.cluster}", database().cluster(place.cluster, place.database), look)


def await_replicas(connection: psycopg.Connection[Any], place: Place, seconds: float) -> None:
    """Until the replicas of the place have what was committed by this connection. From one that does not answer nobody
    reads. Raises DocworkerError after so many seconds."""
    cluster = database().cluster(place.cluster, place.database)
    row = connection.execute("SELECT pg_catalog.pg_current_wal_flush_lsn() - '0/0'").fetchone()
    assert row is not None
    deadline = time.monotonic() + seconds
    for number, replica in enumerate(cluster.replicas):
        while (behind := _bytes_behind(replica, int(row[0]))) > 0:
            if time.monotonic() > deadline:
                raise DocworkerError(
                    f"replica {number} of {place.cluster} is {behind} bytes behind after {seconds:g} s, and "
                    "readers there would miss what was copied: move it when the replica has caught up; it is "
                    "served where it was"
                )
            time.sleep(_POLL_SECONDS)


def _bytes_behind(replica: Engine, lsn: int) -> int:
    """0 for one that does not answer; one that has not got the database yet lacks all."""
    try:
        with replica.connect() as connection:
            replayed = connection.scalar(text("SELECT pg_catalog.pg_last_wal_replay_lsn() - '0/0'"))
    except (DBAPIError, DocworkerError) as error:
        return lsn if sqlstate_of(error) == _UNDEFINED_DATABASE or "does not exist" in str(error) else 0
    return 0 if replayed is None else max(0, lsn - int(replayed))

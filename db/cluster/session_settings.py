"""Settings that each transaction asks for, instead of taking them as roles, databases and postgresql.conf have them.

Whatever changes what a statement means, what it returns, or whether its commit lasts, is asked for in each transaction,
in the exchange that begins it. What only changes how fast a plan is, stays the administrator's: docs/operations.md has
the list. Functions are named with their schema here, because until all this is in force `search_path` is anybody's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from docworker.db.cluster.prepared import Statement
from docworker.db.errors import ConfigurationError

ENCODING = "UTF8"

BEGIN_WRITING = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE"
BEGIN_READING = "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY, NOT DEFERRABLE"
BEGIN_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY, NOT DEFERRABLE"

_MEANING = {
    # Also asked for when a connection is made (`db.cluster.connections`); here for a pooler that does not pass it on.
    "client_encoding": ENCODING,
    "standard_conforming_strings": "on",
    "search_path": "public, pg_temp",
    "row_security": "on",
    "synchronous_commit": "on",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "gin_fuzzy_search_limit": "0",
}
_SINCE_17 = {"transaction_timeout": "0"}
"""Unknown to older servers, which refuse what they do not know."""

_SESSION = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "idle_session_timeout": "0",
    "statement_timeout": "0",
    "lock_timeout": "0",
}


class Context(NamedTuple):
    """What a transaction asks for of its own: whose rows it sees, how long it may take, in milliseconds (0: for ever),
    and an advisory lock that it shares with others, or None."""

    organization_id: UUID | None
    statement_timeout: int
    lock_timeout: int
    idle_in_transaction_session_timeout: int
    lock: int | None = None

    @property
    def literals(self) -> dict[str, str]:
        """As SQL. Plain ASCII without a backslash: the same text in whatever encoding it is read."""
        return {
            "organization": f"'{self.organization_id or ''}'",
            "statement_timeout": f"'{self.statement_timeout}'",
            "lock_timeout": f"'{self.lock_timeout}'",
            "idle": f"'{self.idle_in_transaction_session_timeout}'",
            "lock": "NULL" if self.lock is None else str(self.lock),
        }


def opening(name: str, question: str, *, newer: bool) -> Statement:
    """A SELECT of the question's columns that sets what every transaction asks for, and its `Context`.

    Prepared, since PostgreSQL takes longer to read these settings than to set them. The number of the settings is what
    is left of them in the answer; without a lock, none is taken.
    """
    settings = _set(_MEANING | (_SINCE_17 if newer else {}), local=True)
    return Statement(
        f"docworker_{name}_{'newer' if newer else 'older'}",
        f"SELECT {question},pg_catalog.num_nonnulls({settings},"
        "pg_catalog.set_config('statement_timeout',:statement_timeout,true),"
        "pg_catalog.set_config('lock_timeout',:lock_timeout,true),"
        "pg_catalog.set_config('idle_in_transaction_session_timeout',:idle,true),"
        "pg_catalog.set_config('docworker.organization_id',:organization,true)),"
        "pg_catalog.pg_advisory_xact_lock_shared(:lock)",
        {
            "organization": "pg_catalog.text",
            "statement_timeout": "pg_catalog.text",
            "lock_timeout": "pg_catalog.text",
            "idle": "pg_catalog.text",
            "lock": "pg_catalog.int8",
        },
    )


def question(statement: str) -> str:
    """A SELECT outside any transaction of ours: a standby whose default is serializable refuses one as it stands."""
    return f"{BEGIN_READING};{statement};COMMIT"


def is_newer(driver: Any) -> bool:
    """Whether the server that this psycopg connection talks to knows the settings of PostgreSQL 17."""
    return bool(driver.info.server_version >= 17_00_00)


def for_session(driver: Any) -> str:
    """A statement that asks for the same until the connection ends: for LISTEN and for migrations, whose connections
    are their own. No statement has a limit then."""
    newer: dict[str, str] = _SINCE_17 if is_newer(driver) else {}
    return "SELECT " + _set(_MEANING | _SESSION | newer, local=False)


def check_encoding(driver: Any) -> None:
    """Raises ConfigurationError when the database cannot keep every text. It says so itself when it is connected to."""
    encoding = driver.info.parameter_status("server_encoding")
    if encoding not in (None, ENCODING):
        raise ConfigurationError(
            f"the database {driver.info.dbname!r} has the encoding {encoding}, which cannot keep every text: make one "
            "with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name it in the addresses"
        )


def _set(settings: Mapping[str, str], *, local: bool) -> str:
    scope = "true" if local else "false"
    return ",".join(f"pg_catalog.set_config('{name}','{value}',{scope})" for name, value in settings.items())

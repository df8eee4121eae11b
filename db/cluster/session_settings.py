"""Settings that each transaction asks for, instead of taking them as roles, databases and postgresql.conf have them.

Whatever changes what a statement means, what it returns, or whether its commit lasts, is asked for in each transaction,
in the exchange that begins it. What only changes how fast a plan is, stays the administrator's: docs/operations.md has
the list. Functions are named with their schema here, because until all this is in force `search_path` is anybody's.
"""

from collections.abc import Mapping
from typing import Any

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


def for_transaction(settings: Mapping[str, str]) -> str:
    """What every transaction asks for, and these settings, as a list of SQL expressions. Nothing in it needs quoting,
    and it is plain ASCII without a backslash: the same text in whatever encoding it is read."""
    return f"{_TRANSACTION},{_set(settings, local=True)}"


def question(statement: str) -> str:
    """A SELECT outside any transaction of ours: a standby whose default is serializable refuses one as it stands."""
    return f"{BEGIN_READING};{statement};COMMIT"


def for_newer_servers(driver: Any) -> str:
    """What a transaction asks for besides, of the server that this psycopg connection talks to."""
    return _TRANSACTION_SINCE_17 if driver.info.server_version >= 17_00_00 else ""


def for_session(driver: Any) -> str:
    """A statement that asks for the same until the connection ends: for LISTEN and for migrations, whose connections
    are their own. No statement has a limit then."""
    newer: dict[str, str] = _SINCE_17 if driver.info.server_version >= 17_00_00 else {}
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


_TRANSACTION = _set(_MEANING, local=True)
_TRANSACTION_SINCE_17 = "," + _set(_SINCE_17, local=True)

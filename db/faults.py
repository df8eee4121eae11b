"""`classify`: what an error means, as one table, and so what to do about it.

Told by SQLSTATE, not by exception class: drivers disagree on classes, and several meanings share one.
"""

import re
from enum import Enum

import psycopg
from sqlalchemy import exc
from sqlalchemy.orm.exc import StaleDataError

from docworker.db.errors import (
    BacklogFullError,
    BadInputError,
    ConflictError,
    DemotedMasterError,
    DocworkerError,
    InvalidArgumentError,
    NotFoundError,
    PoolTimeoutError,
    RetryLaterError,
    StoreError,
    UnacceptedArgumentsError,
    UnavailableOrganizationError,
)

DISK_FULL = "53100"
"""The SQLSTATE of a server that has no room."""


class Fault(Enum):
    """The meaning of an error; the value is its name in metrics."""

    CONFLICT = "conflict"
    """Somebody else changed the row first: new session, fresh read from the master, redo."""
    SERIALIZATION = "serialization"
    """Serialization failure, deadlock or lock timeout on the master: redo the whole transaction."""
    RECOVERY_CONFLICT = "recovery_conflict"
    """A replica had to replay over what was being read: once more elsewhere, then from the master."""
    DEMOTED = "demoted"
    """The server asked as a master is a replica now: connect again, redo."""
    CONNECTION = "connection"
    """The connection was lost or not made: redo later; a COMMIT in doubt is looked up first."""
    POOL = "pool"
    """No pooled connection came free: later, and somebody should look at the pool."""
    OVERLOAD = "overload"
    """A statement timed out or the server lacks resources: later, with growing pauses."""
    ARGUMENTS = "arguments"
    """Another release enqueued the job: later, when a worker may have it that takes its arguments."""
    LATER = "later"
    """The job has said itself when it is to be tried again: a bounded number of tries, as it says."""
    BAD_INPUT = "bad_input"
    """The data cannot be stored or processed as it is: fail with the reason, again would be the same."""
    OUR_BUG = "our_bug"
    """Wrong SQL, a missing grant, a wrong setting: fail loudly."""
    UNKNOWN = "unknown"
    """Anything else: a bounded number of tries, then fail with all details."""

    @property
    def retryable(self) -> bool:
        return self not in (Fault.BAD_INPUT, Fault.OUR_BUG)

    @property
    def is_infrastructure(self) -> bool:
        """True when servers or connections are to blame, neither the job nor a competitor."""
        return self in _INFRASTRUCTURE

    @property
    def uses_attempt(self) -> bool:
        """False for conflicts, infrastructure faults and other releases, which have a bound of their own."""
        return not (self.is_infrastructure or self in (Fault.CONFLICT, Fault.SERIALIZATION, Fault.ARGUMENTS))


_INFRASTRUCTURE = frozenset(
    {Fault.RECOVERY_CONFLICT, Fault.DEMOTED, Fault.CONNECTION, Fault.POOL, Fault.OVERLOAD},
)

# A whole SQLSTATE wins over its class (the first two characters).
_BY_SQLSTATE = {
    "40001": Fault.SERIALIZATION,
    "40P01": Fault.SERIALIZATION,
    "55P03": Fault.SERIALIZATION,
    "25006": Fault.DEMOTED,
    "25P03": Fault.CONNECTION,  # idle in transaction for too long: the server has hung up
    "25P04": Fault.OVERLOAD,
    "57014": Fault.OVERLOAD,
    "57P01": Fault.CONNECTION,
    "57P02": Fault.CONNECTION,
    "57P03": Fault.CONNECTION,
    "57P05": Fault.CONNECTION,
    "08": Fault.CONNECTION,
    "21": Fault.OUR_BUG,
    "22": Fault.BAD_INPUT,
    "23": Fault.BAD_INPUT,
    "25": Fault.OUR_BUG,
    "26": Fault.OUR_BUG,  # prepared statements behind a transaction pooler
    "28": Fault.OUR_BUG,
    "3D": Fault.OUR_BUG,
    "3F": Fault.OUR_BUG,
    "42": Fault.OUR_BUG,
    "53": Fault.OVERLOAD,
    "54": Fault.BAD_INPUT,
    "58": Fault.OVERLOAD,
}

# What a replica's recovery cancels: 40001, or 40P01 when a buffer pin was in its way.
_CANCELLED_BY_RECOVERY = frozenset({"40001", "40P01"})

_ONE_WRITER_WINS = frozenset({"pk_document_versions"})
"""Unique constraints that two honest writers can race for."""

_OURS: tuple[tuple[type[BaseException], Fault], ...] = (
    (StaleDataError, Fault.CONFLICT),
    (ConflictError, Fault.CONFLICT),
    (DemotedMasterError, Fault.DEMOTED),
    (PoolTimeoutError, Fault.POOL),
    (exc.TimeoutError, Fault.POOL),
    (StoreError, Fault.OVERLOAD),
    (BadInputError, Fault.BAD_INPUT),
    (NotFoundError, Fault.BAD_INPUT),
    (InvalidArgumentError, Fault.BAD_INPUT),
    (UnavailableOrganizationError, Fault.OVERLOAD),
    (BacklogFullError, Fault.OVERLOAD),
    (UnacceptedArgumentsError, Fault.ARGUMENTS),
    (RetryLaterError, Fault.LATER),
    (DocworkerError, Fault.OUR_BUG),
    (UnicodeError, Fault.BAD_INPUT),  # a lone surrogate has no bytes to send
)

_WITHOUT_SQLSTATE: tuple[tuple[type[BaseException], Fault], ...] = (
    (psycopg.DataError, Fault.BAD_INPUT),  # NUL in a text is refused before it is sent
    (psycopg.OperationalError, Fault.CONNECTION),
    (psycopg.InterfaceError, Fault.CONNECTION),
    (psycopg.ProgrammingError, Fault.OUR_BUG),
    (psycopg.NotSupportedError, Fault.OUR_BUG),
)


def classify(error: BaseException) -> Fault:
    """What `error` means. Looks through SQLAlchemy's wrapping at the driver's error."""
    for kind, fault in _OURS:
        if isinstance(error, kind):
            return fault
    if isinstance(error, exc.StatementError) and error.orig is not None:
        lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
        fault = classify(error.orig)
        return Fault.CONNECTION if lost and fault is Fault.UNKNOWN else fault
    if isinstance(error, psycopg.Error):
        return _classify_driver_error(error)
    return Fault.UNKNOWN


def sqlstate_of(error: BaseException) -> str | None:
    """The five characters PostgreSQL gave the error, if it came from there."""
    original = error.orig if isinstance(error, exc.StatementError) else error
    return original.sqlstate if isinstance(original, psycopg.Error) else None


_LIBPQ_QUESTION = re.compile(r"\n\s*Is the server running .*\?")


def connection_reason(error: psycopg.Error) -> str:
    """Why there is no connection, on one line and without what libpq asks the user."""
    return " ".join(_LIBPQ_QUESTION.sub("", str(error)).removeprefix("connection failed: ").split())


def mark_as_read_from_replica(error: BaseException) -> None:
    """Remember that a replica raised this: 40001 there is a recovery conflict."""
    error.__dict__["read_from_replica"] = True


def mark_as_read_only(error: BaseException) -> None:
    """Remember that a read-only transaction raised this: 25006 there is a write in the wrong session."""
    error.__dict__["read_only"] = True


def _classify_driver_error(error: psycopg.Error) -> Fault:
    state = error.sqlstate
    if state is None:
        return next((fault for kind, fault in _WITHOUT_SQLSTATE if isinstance(error, kind)), Fault.UNKNOWN)
    if state == "23505" and error.diag.constraint_name in _ONE_WRITER_WINS:
        return Fault.CONFLICT
    if state in _CANCELLED_BY_RECOVERY and error.__dict__.get("read_from_replica"):
        return Fault.RECOVERY_CONFLICT
    if state == "25006" and error.__dict__.get("read_only"):
        return Fault.OUR_BUG
    return _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2], Fault.UNKNOWN)

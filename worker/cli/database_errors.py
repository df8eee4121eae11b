"""`reason_of`: why the database did not do what a command asked, and what to do about it."""

import psycopg
import psycopg.errors
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.exc import DBAPIError

from docworker.db.cluster.discovery import NoMasterError
from docworker.db.faults import connection_reason
from docworker.db.passwords import PasswordError
from docworker.db.settings import settings


def reason_of(error: Exception) -> str | None:
    """Why the database could not be reached, or None when it was reached and the fault lies elsewhere."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
        return "the database lacks tables of this version: run `docworker migrate`"
    if isinstance(cause, psycopg.errors.InsufficientPrivilege):
        return f"{cause.diag.message_primary}: does each DOCWORKER_…_URL name the role that is meant for it?"
    if not isinstance(cause, psycopg.OperationalError):
        return None
    if isinstance(cause, PasswordError):
        return f"no connection to the database: {cause}"
    message = connection_reason(cause)
    if cause.sqlstate is None:
        setting = _setting_of(cause)
        if "certificate" in message:
            remedy = f"{setting} has to name its host as its certificate does, and in sslrootcert who has signed that"
        else:
            remedy = f"check {setting}, or start one with `docworker up`"
        return f"no connection to the database: {message}; {remedy}"
    if isinstance(cause, psycopg.errors.DiskFull):
        return f"the database's disk is full: {message}; make room there, and run the command again"
    return f"the database refused ({cause.sqlstate}): {message}"


_OF_ROLES = {"owner": "DOCWORKER_OWNER_URL", "dispatcher": "DOCWORKER_DISPATCHER_URL"}


def _setting_of(error: psycopg.OperationalError) -> str:
    """The setting whose address was tried, by the role it logs in as."""
    if isinstance(error, NoMasterError):
        return _OF_ROLES.get(error.role, "DOCWORKER_MASTER_URL")
    configured = settings()
    urls = {
        "DOCWORKER_MASTER_URL": configured.master_url,
        "DOCWORKER_DISPATCHER_URL": configured.dispatcher_url,
        "DOCWORKER_OWNER_URL": configured.owner_url,
    }
    tried = error.pgconn.user.decode() if error.pgconn is not None else None
    for name, url in urls.items():
        if url is not None and conninfo_to_dict(url).get("user") == tried:
            return name
    return "DOCWORKER_MASTER_URL"

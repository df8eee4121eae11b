"""What a user sees when a command fails: one line that says what is wrong and what to do, and no traceback."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

from docworker.db.errors import DocworkerError
from docworker.worker.cli.output import printable_lines

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.exc import DBAPIError

INTERRUPTED = 130

_LIBPQ_QUESTION = re.compile(r"\n\s*Is the server running .*\?")


class Failure(click.ClickException):
    """Ends the command with exit code 1 and `docworker: message` on stderr."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"docworker: {printable_lines(self.message)}", file=file or sys.stderr)


@contextmanager
def explained(ctx: click.Context) -> Iterator[None]:
    """Turn the errors a user can do something about into a Failure; let bugs through with their traceback."""
    try:
        yield
    except DocworkerError as error:
        raise Failure(str(error)) from error
    except KeyboardInterrupt:
        ctx.exit(INTERRUPTED)
    except Exception as error:
        # SQLAlchemy is loaded by then, if it has anything to do with this; `docworker --help` need not load it.
        sqlalchemy_errors = sys.modules.get("sqlalchemy.exc")
        if sqlalchemy_errors is None or not isinstance(error, sqlalchemy_errors.DBAPIError):
            raise
        reason = _database_reason(error)
        if reason is None:
            raise
        raise Failure(reason) from error


def _database_reason(error: DBAPIError) -> str | None:
    """Why the database could not be reached, or None when it was reached and the fault lies elsewhere."""
    import psycopg.errors

    cause = error.orig
    if isinstance(cause, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
        return "the database lacks tables of this version: run `docworker migrate`"
    if isinstance(cause, psycopg.errors.InsufficientPrivilege):
        return f"{cause.diag.message_primary}: does each DOCWORKER_…_URL name the role that is meant for it?"
    if not isinstance(cause, psycopg.OperationalError):
        return None
    message = " ".join(_LIBPQ_QUESTION.sub("", str(cause)).removeprefix("connection failed: ").split())
    if cause.sqlstate is None:
        return f"no connection to the database: {message}; check {_setting_of(cause)}, or start one with `docworker up`"
    return f"the database refused ({cause.sqlstate}): {message}"


def _setting_of(error: psycopg.OperationalError) -> str:
    """The setting whose address was tried, by the role it logs in as."""
    from psycopg.conninfo import conninfo_to_dict

    from docworker.db.settings import settings

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

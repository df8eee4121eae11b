"""`explained`: what a user sees when a command fails: one line that says what is wrong and what to do, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from docworker.db.errors import DocworkerError
from docworker.worker.printable import printable_lines

INTERRUPTED = 130


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
        if "sqlalchemy" not in sys.modules:
            raise
        # Here, because it imports SQLAlchemy, with which `docworker --help` would take eight times as long.
        from docworker.worker.cli.database_errors import reason_of  # noqa: PLC0415

        reason = reason_of(error)
        if reason is None:
            raise
        raise Failure(reason) from error

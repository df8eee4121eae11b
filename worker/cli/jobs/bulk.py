"""`change_all`, `change_tree`: many jobs changed from the command line, in chunks, each a transaction of its own, with
progress on stderr.

Whoever interrupts it leaves whole chunks, and may run it again for the rest. Jobs that somebody holds just now are
passed over at first and waited for at the end.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import OperationalError

from docworker.db import ledger
from docworker.db.errors import DocworkerError
from docworker.db.faults import Fault, classify
from docworker.db.ledger import Change, Filter
from docworker.db.ledger.bulk import change_chunks, chunks
from docworker.db.ledger.control import Key
from docworker.db.sessions import all_jobs_session
from docworker.worker.cli.errors import INTERRUPTED
from docworker.worker.cli.output import error_console


def change_all(
    change: Change, wanted: Filter, changed: list[UUID], *, doing: str, done: str, hidden: bool
) -> list[UUID]:
    """Change all jobs of the filter; adds their ids to `changed` as it goes on, and returns it. Ends the command with
    what has been done when it is interrupted or has waited in vain for somebody's lock."""
    with _interrupted_between(changed, done), _progress(change, wanted, doing, hidden=hidden) as advance:
        held = list(_first_pass(change, wanted, changed, advance))
        _second_pass(change, held, changed, advance)
    return changed


def change_tree(chunks: Iterator[list[UUID]], changed: list[UUID], *, done: str) -> None:
    """As `change_all`, for a tree."""
    with _interrupted_between(changed, done):
        for chunk in chunks:
            changed += chunk


@contextmanager
def _interrupted_between(changed: Sequence[UUID], done: str) -> Iterator[None]:
    """An interrupted command says what it has done."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"interrupted: {len(changed)} jobs {done}; run it again for the rest", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def _first_pass(change: Change, wanted: Filter, changed: list[UUID], advance: Callable[[int], None]) -> Iterator[Key]:
    """Change what nobody holds, and give the keys of the others."""
    for chunk in change_chunks(all_jobs_session, change, wanted):
        changed += chunk.changed
        advance(len(chunk.changed))
        yield from chunk.left


def _second_pass(change: Change, held: list[Key], changed: list[UUID], advance: Callable[[int], None]) -> None:
    """Wait for the others; those that have changed by themselves meanwhile need nothing."""
    waiting = len(held)
    for keys in chunks(held):
        try:
            with all_jobs_session() as session:
                done = ledger.change_keys(session, change, keys, skip_locked=False)
        except OperationalError as error:
            if classify(error) is not Fault.SERIALIZATION:
                raise
            raise DocworkerError(
                f"{len(changed)} jobs are done; up to {waiting} are held by other transactions for too long, "
                "the first of them "
                f"{keys[0][1]}: run it again for them, or look at pg_locks"
            ) from error
        changed += done
        advance(len(done))
        waiting -= len(keys)


@contextmanager
def _progress(change: Change, wanted: Filter, doing: str, *, hidden: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; nothing elsewhere."""
    console = error_console()
    if hidden or not console.is_terminal:
        yield lambda _: None
        return
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with all_jobs_session() as session:
        total = sum(row.jobs for row in ledger.count_by_state(session, wanted) if row.state in change.states)
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(doing, total=total)
        yield lambda jobs: bar.advance(row, jobs)

"""`docworker jobs watch`: follow a fan-out from the ledger until its last child has ended."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from docworker.db import ledger
from docworker.db.errors import DocworkerError
from docworker.db.ledger.telling.story import progress_text
from docworker.db.models import Job
from docworker.db.models.ledger.job import LIVE_STATES
from docworker.db.sessions import all_jobs_session
from docworker.worker.cli.options import ledger_open
from docworker.worker.cli.output import error_console, json_option, print_json

INTERVAL_SECONDS = 0.5


@click.command(
    short_help="Follow a fan-out to its end.",
    epilog="""\b
Progress goes to stderr, how many children ended how to stdout.
Exit codes: 0 all succeeded; 1 some failed or were cancelled, or had not ended in time.""",
)
@click.argument("job_id", type=click.UUID)
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after this; default never.")
@json_option
def watch(job_id: UUID, timeout: float | None, as_json: bool) -> None:
    """Follow a fan-out, such as process_folder, until all its children have ended.

    A job without children is followed to its own end, with the progress that it tells.
    """
    with ledger_open("jobs"):
        last = _follow(job_id, timeout, hidden=as_json)
    if as_json:
        print_json(last)
    else:
        click.echo(_in_words(last))
    if {"failed", "cancelled"} & {last["state"], *last["states"]}:
        raise click.exceptions.Exit(1)


def _follow(job_id: UUID, timeout: float | None, *, hidden: bool) -> dict[str, Any]:
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    with all_jobs_session() as session:
        job = ledger.get(session, job_id)
    with _progress_bar(job.kind, hidden=hidden) as draw:
        while True:
            progress = _progress(job)
            draw(progress)
            if progress["ended"]:
                return progress
            if time.monotonic() > deadline:
                raise DocworkerError(f"job {job_id} has not ended within {timeout:g} s: {_in_words(progress)}")
            time.sleep(INTERVAL_SECONDS)


def _progress(job: Job) -> dict[str, Any]:
    """By key: an id alone would be looked for in every organization."""
    with all_jobs_session() as session:
        now = session.get(Job, (job.organization_id, job.id))
        rows = ledger.count_by_state(session, ledger.Filter(organization_id=job.organization_id, parent_id=job.id))
    if now is None:
        raise DocworkerError(f"job {job.id} is gone: it has been pruned meanwhile")
    states: dict[str, int] = {}
    for row in rows:
        states[row.state] = states.get(row.state, 0) + row.jobs
    total, ended = sum(states.values()), sum(jobs for state, jobs in states.items() if state not in LIVE_STATES)
    return {
        "id": now.id,
        "kind": now.kind,
        "state": now.state,
        "error": now.error_message,
        "progress": ledger.progress_of(now),
        "children": total,
        "states": states,
        "done": ended,
        "ended": now.state not in LIVE_STATES and ended == total,
    }


def _in_words(progress: dict[str, Any]) -> str:
    of_children = ", ".join(f"{count} {state}" for state, count in progress["states"].items())
    if progress["state"] == "succeeded" and of_children:
        return of_children
    reason = f" ({progress['error']})" if progress["error"] else ""
    return f"{progress['kind']} {progress['state']}{reason}" + (f"; children: {of_children}" if of_children else "")


@contextmanager
def _progress_bar(label: str, *, hidden: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = error_console()
    with Progress(*columns, console=console, disable=hidden or not console.is_terminal) as bar:
        row = bar.add_task(label, total=None)

        def draw(progress: dict[str, Any]) -> None:
            # While children are still being made, the total grows.
            told = progress["progress"] or {}
            done, total = (progress["done"], progress["children"]) if progress["children"] else _told(told)
            said = progress_text(told) if told else None
            bar.update(row, description=f"{label} {said}" if said else label, completed=done, total=total)

        yield draw


def _told(progress: dict[str, Any]) -> tuple[float, float | None]:
    return progress.get("done", 0), progress.get("of")

"""`docworker enqueue` and `docworker jobs`: put work in, look at it, and take part in its fate."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from db.errors import InvalidArgumentError
from worker.cli.options import database_open, organization_open, organization_option
from worker.cli.output import error_console, json_option, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from db.ledger import Filter
    from db.models import Job
    from jobs.kinds import Kind

STATES = ("queued", "dispatched", "running", "succeeded", "failed", "cancelled")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WATCH_INTERVAL_SECONDS = 0.5


@click.command(
    epilog="""\b
Examples:
  docworker enqueue process_document document_id=0198... -o acme
  docworker enqueue process_folder folder_id=0198... -o acme --priority 8
  docworker enqueue process_organization -o acme --delay 30m
Values are read as JSON where they are JSON, else as text."""
)
@click.argument("kind")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@organization_option
@click.option("--priority", type=click.IntRange(0, 9), help="0 is first, 9 last.")
@click.option("--delay", metavar="AGE", help="Not before this has passed: 90s, 15m, 6h, 2d.")
@click.option("--unique-key", help="Fold into a waiting job with the same key.")
@click.option("--max-attempts", type=click.IntRange(1), help="Attempts before the job fails.")
@click.option("--id", "job_id", type=click.UUID, help="The job's id: the same id again is the same job.")
@json_option
def enqueue(
    kind: str,
    arguments: tuple[str, ...],
    slug: str,
    priority: int | None,
    delay: str | None,
    unique_key: str | None,
    max_attempts: int | None,
    job_id: UUID | None,
    as_json: bool,
) -> None:
    """Enqueue one job of KIND for an organization. A running dispatcher and worker carry it out."""
    from db.sessions import writing
    from jobs.enqueue import enqueue_many
    from worker.app import app

    given = dict(_key_and_value(one) for one in arguments)
    task = app.tasks[_known(kind).name]
    with organization_open("enqueue", slug) as organization_id, writing(organization_id) as session:
        (entered,) = enqueue_many(
            session,
            task,
            [given],
            run_at=None if delay is None else _master_time(session) + _age(delay),
            priority=priority,
            unique_keys=None if unique_key is None else [unique_key],
            max_attempts=max_attempts,
            ids=None if job_id is None else [job_id],
        )
    if as_json:
        print_json({"id": entered, "kind": kind})
    else:
        click.echo(str(entered))


@click.group()
def jobs() -> None:
    """List, show, watch, retry, cancel, pause and resume jobs.

    Connects as DOCWORKER_DISPATCHER_URL, which sees the jobs of all organizations.
    """


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose jobs."""
    for option in (
        click.option("--older-than", metavar="AGE", help="Enqueued longer ago: 90s, 15m, 6h, 2d."),
        click.option("-o", "--organization", "slug", metavar="SLUG", help="Only of this organization."),
        click.option("--kind", help="Only of this kind."),
        click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only in this state."),
    ):
        function = option(function)
    return function


@contextmanager
def _choosing(states: tuple[str, ...], kind: str | None, slug: str | None, older_than: str | None) -> Iterator[Filter]:
    from db.ledger import Filter

    with database_open("jobs"):
        yield Filter(states, kind, _organization_id(slug), None if older_than is None else _age(older_than))


def _organization_id(slug: str | None) -> UUID | None:
    from db.models.base import SYSTEM_ORGANIZATION_ID
    from db.organizations import organization_id_of

    if slug is None:
        return None
    return SYSTEM_ORGANIZATION_ID if slug == "system" else organization_id_of(slug)


@jobs.command("list")
@filters
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many, latest first.")
@json_option
def list_(
    states: tuple[str, ...],
    kind: str | None,
    slug: str | None,
    older_than: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, the latest first. The organization `system` owns the scheduled ones."""
    from db import ledger
    from db.sessions import overseeing

    with _choosing(states, kind, slug, older_than) as wanted, overseeing() as session:
        found = ledger.find(session, wanted, limit=limit)
    if as_json:
        print_json([_as_dict(one) for one in found])
        return
    print_table(
        ("id", "kind", "state", "#attempt", "enqueued", "due", "error"),
        (
            (one.id, one.kind, one.state, f"{one.attempt}/{one.max_attempts}", one.created_at, one.run_at, _error(one))
            for one in found
        ),
    )


def _error(job: Job) -> str | None:
    if job.error_class is None:
        return None
    return f"{job.error_class}: {job.error_message}".splitlines()[0][:100]


@jobs.command()
@click.argument("job_id", type=click.UUID)
@json_option
def show(job_id: UUID, as_json: bool) -> None:
    """Show everything the ledger knows of one job."""
    from db import ledger
    from db.sessions import overseeing

    with database_open("jobs"), overseeing() as session:
        job = ledger.get(session, job_id)
    if as_json:
        print_json(_as_dict(job))
        return
    shown = {name: value for name, value in _as_dict(job).items() if value is not None}
    trace = shown.pop("error_traceback", None)
    print_table(("", ""), ((name, value) for name, value in shown.items()))
    if trace:
        click.echo(f"\n{trace}")


def _as_dict(job: Job) -> dict[str, Any]:
    return {column.key: getattr(job, column.key) for column in job.__mapper__.column_attrs}


@jobs.command()
@click.argument("job_ids", nargs=-1, type=click.UUID)
@filters
@click.option("--all", "everything", is_flag=True, help="All failed jobs, without any filter.")
def retry(job_ids: tuple[UUID, ...], everything: bool, **chosen: Any) -> None:
    """Run failed jobs again, with all attempts anew: those named, or all that match. A cancelled job must be named."""
    from db import ledger
    from db.sessions import overseeing

    _demand_a_choice(job_ids, chosen, everything=everything, verb="retry")
    with _choosing(**chosen) as wanted, overseeing() as session:
        changed = ledger.retry_failed(session, wanted, job_ids)
    _report(changed, job_ids, "queued again", "failed or cancelled")


@jobs.command()
@click.argument("job_ids", nargs=-1, type=click.UUID)
@filters
@click.option("--all", "everything", is_flag=True, help="All live jobs, without any filter.")
def cancel(job_ids: tuple[UUID, ...], everything: bool, **chosen: Any) -> None:
    """Cancel live jobs: queued ones at once, running ones commit nothing and stop at their next safe point."""
    from db import ledger
    from db.sessions import overseeing

    _demand_a_choice(job_ids, chosen, everything=everything, verb="cancel")
    with _choosing(**chosen) as wanted, overseeing() as session:
        changed = ledger.cancel(session, wanted, job_ids)
    _report(changed, job_ids, "cancelled", "queued, dispatched or running")


def _demand_a_choice(job_ids: tuple[UUID, ...], chosen: dict[str, Any], *, everything: bool, verb: str) -> None:
    if not job_ids and not any(chosen.values()) and not everything:
        raise click.UsageError(f"say which jobs to {verb}: ids, a filter such as --kind, or --all")


def _report(changed: list[UUID], asked: tuple[UUID, ...], done: str, needed: str) -> None:
    click.echo(f"{len(changed)} job{'' if len(changed) == 1 else 's'} {done}")
    missed = sorted(set(asked) - set(changed))
    if missed:
        raise InvalidArgumentError(f"not {needed}, or not there: {', '.join(map(str, missed))}")


def places(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to pause."""
    for option in (
        click.option("-o", "--organization", "slug", metavar="SLUG", help="The organization."),
        click.option("--kind", help="The kind of job."),
    ):
        function = option(function)
    return function


@jobs.command()
@places
def pause(kind: str | None, slug: str | None) -> None:
    """Dispatch no more jobs of a kind, of an organization, or of one kind of one organization. What runs goes on."""
    from db import ledger
    from db.sessions import overseeing

    _demand_a_place(kind, slug, "pause")
    with database_open("jobs"), overseeing() as session:
        ledger.pause(session, kind=kind, organization_id=_organization_id(slug))
    click.echo(f"paused {_place(kind, slug)}")


@jobs.command()
@places
def resume(kind: str | None, slug: str | None) -> None:
    """Take a pause back; name the same kind and organization."""
    from db import ledger
    from db.sessions import overseeing

    _demand_a_place(kind, slug, "resume")
    with database_open("jobs"), overseeing() as session:
        was_paused = ledger.resume(session, kind=kind, organization_id=_organization_id(slug))
    if not was_paused:
        raise InvalidArgumentError(f"{_place(kind, slug)} is not paused")
    click.echo(f"resumed {_place(kind, slug)}")


def _demand_a_place(kind: str | None, slug: str | None, verb: str) -> None:
    if kind is None and slug is None:
        raise click.UsageError(f"say what to {verb}: --kind, --organization, or both")
    if kind is not None:
        _known(kind)


def _place(kind: str | None, slug: str | None) -> str:
    return " of ".join(part for part in (kind or "all kinds", slug) if part)


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after this; default never.")
@json_option
def watch(job_id: UUID, timeout: float | None, as_json: bool) -> None:
    """Follow a fan-out, such as process_folder, until all its children have ended. Exit code 1 if any failed."""
    with database_open("jobs"):
        last = None
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        with _progress_bar(str(job_id), hidden=as_json) as draw:
            while last is None or not last["ended"]:
                if last is not None:
                    if time.monotonic() > deadline:
                        raise InvalidArgumentError(f"job {job_id} has not ended within {timeout:g} s: {last['states']}")
                    time.sleep(_WATCH_INTERVAL_SECONDS)
                last = _progress(job_id)
                draw(last)
    if as_json:
        print_json(last)
    else:
        click.echo(", ".join(f"{count} {state}" for state, count in last["states"].items()) or last["state"])
    if last["states"].get("failed") or last["state"] == "failed":
        raise click.exceptions.Exit(1)


def _progress(job_id: UUID) -> dict[str, Any]:
    from db import ledger
    from db.sessions import overseeing

    with overseeing() as session:
        job = ledger.get(session, job_id)
        rows = ledger.count_by_state(session, ledger.Filter(organization_id=job.organization_id, parent_id=job_id))
    states: dict[str, int] = {}
    for row in rows:
        states[row.state] = states.get(row.state, 0) + row.jobs
    ended_children = sum(states.get(state, 0) for state in STATES[3:])
    total = sum(states.values())
    return {
        "id": job.id,
        "state": job.state,
        "children": total,
        "states": states,
        "done": ended_children,
        "ended": job.state in STATES[3:] and ended_children == total,
    }


@contextmanager
def _progress_bar(label: str, *, hidden: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console(), disable=hidden) as bar:
        row = bar.add_task(label, total=None)

        def draw(progress: dict[str, Any]) -> None:
            # While children are still being made, the total grows.
            bar.update(row, completed=progress["done"], total=progress["children"] or None)

        yield draw


def _known(kind: str) -> Kind:
    from worker.app import app, known_kinds

    kinds = known_kinds(app)
    if kind not in kinds:
        raise InvalidArgumentError(f"no kind is called {kind!r}; known: {', '.join(sorted(kinds))}")
    return kinds[kind]


def _key_and_value(argument: str) -> tuple[str, Any]:
    key, separator, value = argument.partition("=")
    if not separator or not key.isidentifier():
        raise InvalidArgumentError(f"{argument!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise InvalidArgumentError(f"{text!r} is not a duration: give a number and s, m, h or d, such as 15m")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


def _master_time(session: Any) -> datetime:
    from sqlalchemy import func, select

    now: datetime = session.scalar(select(func.clock_timestamp()))
    return now

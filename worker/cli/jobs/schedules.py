"""`docworker schedules`: what is done regularly, when it was last due and when it is due next; and its changes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click

from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models import Missed
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import all_jobs_session
from docworker.db.tenants.organizations import SYSTEM_SLUG, organization_id_of, slugs_of
from docworker.jobs.schedules import editing
from docworker.jobs.schedules.celery_entries import schedules_of
from docworker.jobs.schedules.rules import text_of
from docworker.jobs.schedules.schedule import Schedule
from docworker.jobs.schedules.sources import code_schedules
from docworker.jobs.schedules.states import ScheduleState, schedule_states
from docworker.jobs.task import known_kinds
from docworker.worker.app import celery_app
from docworker.worker.cli.jobs.arguments import keys_and_values
from docworker.worker.cli.options import actor, ledger_open
from docworker.worker.cli.output import json_option, print_json, print_table
from docworker.worker.kinds import known_kind
from docworker.worker.printable import printable

EACH = "each"
WHEN_HELP = """\b
WHEN is a cron expression ('30 2 * * *'), 'every SECONDS' ('every 600'), or
'solar EVENT LATITUDE LONGITUDE' ('solar sunset 52.5 13.4').
"""


@click.group()
def schedules() -> None:
    """What is done regularly: of docworker, of installed packages, of the Celery app, and of a table.

    Those of the table are added, edited and deleted here, all are paused, resumed and run. Running beats take changes
    within seconds. Asks the ledger as DOCWORKER_DISPATCHER_URL; beat need not be running.
    """


@schedules.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show all, when each fired last and fires next, and what keeps it from being fired.

    \b
    Example:
      docworker schedules list --json
    """
    with _opened() as in_code:
        found = _states(in_code)
        slugs = slugs_of([one.schedule.organization_id for one in found if one.schedule is not None])
    if as_json:
        print_json([_shown(one, slugs) for one in found])
        return
    print_table(
        ("schedule", "when", "time zone", "kind", "for", "last due", "last fired", "next due", "problem"),
        [
            (
                one.name,
                *(("", "") if one.schedule is None else text_of(one.schedule.when)),
                one.schedule and one.schedule.kind,
                _whom(one.schedule, slugs),
                one.last_due_at,
                one.last_fired_at,
                "paused" if one.is_paused else one.next_due_at,
                _problem(one),
            )
            for one in found
        ],
    )


@schedules.command()
@click.argument("name")
def show(name: str) -> None:
    """Show one with all that is known of it, as JSON."""
    with _opened() as in_code:
        found = [one for one in _states(in_code) if one.name == name]
        slugs = slugs_of([one.schedule.organization_id for one in found if one.schedule is not None])
    if not found:
        raise NotFoundError(f"no schedule is called {name!r}: see `docworker schedules list`")
    print_json(_shown(found[0], slugs))


def changeable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `add` and `edit` share."""
    for option in (
        click.option("--priority", type=click.IntRange(0, 9), help="0 is first, 9 last; the kind's if left out."),
        click.option(
            "--missed",
            type=click.Choice([*map(str, Missed)]),
            help="What fell due while no beat ran: the latest of it is made up, all, or none.",
        ),
        click.option("--time-zone", "zone", metavar="ZONE", help="Of a cron expression: UTC, Europe/Berlin, …"),
    ):
        function = option(function)
    return function


@schedules.command(epilog=WHEN_HELP)
@click.argument("name")
@click.argument("when")
@click.argument("kind")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "-o",
    "--organization",
    "slug",
    metavar="SLUG",
    default=SYSTEM_SLUG,
    show_default=True,
    help=f"Whose job it is: of one organization, of {EACH} that is active, or of the installation ({SYSTEM_SLUG}).",
)
@changeable
def add(
    name: str,
    when: str,
    kind: str,
    arguments: tuple[str, ...],
    slug: str,
    zone: str | None,
    missed: str | None,
    priority: int | None,
) -> None:
    """Enqueue a job of KIND regularly. Nothing before now is made up."""
    known_kind(kind)
    with _opened() as in_code:
        schedule = Schedule(
            name,
            when,
            kind,
            keys_and_values(arguments),
            zone=zone or "UTC",
            organization_id=None if slug in (SYSTEM_SLUG, EACH) else organization_id_of(slug),
            each_organization=slug == EACH,
            missed=missed or Missed.LATEST,
            priority=priority,
            place="the command line",
        )
        editing.add_schedule(schedule, actor=actor(), in_code=in_code)
        _tell(name, "added", in_code)


@schedules.command(epilog=WHEN_HELP)
@click.argument("name")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--when", help="Another rule.")
@changeable
def edit(name: str, arguments: tuple[str, ...], **changes: Any) -> None:
    """Change what is given; arguments are replaced by those given, if there are any. Nothing before now is made up."""
    wanted = {key: value for key, value in changes.items() if value is not None}
    if arguments:
        wanted["arguments"] = keys_and_values(arguments)
    if not wanted:
        raise InvalidArgumentError("nothing to change: give arguments, --when, --time-zone, --missed or --priority")
    with _opened() as in_code:
        editing.edit_schedule(name, actor=actor(), in_code=in_code, **wanted)
        _tell(name, "edited", in_code)


@schedules.command()
@click.argument("name")
def pause(name: str) -> None:
    """Fire it no more until it is resumed."""
    with _opened() as in_code:
        changed = editing.pause_schedule(name, actor=actor(), in_code=in_code)
    click.echo(f"{'paused' if changed else 'was paused already:'} {printable(name)}")


@schedules.command()
@click.argument("name")
def resume(name: str) -> None:
    """Fire it again; what fell due meanwhile is not made up."""
    with _opened() as in_code:
        if editing.resume_schedule(name, actor=actor(), in_code=in_code):
            _tell(name, "resumed", in_code)
        else:
            click.echo(f"was not paused: {printable(name)}")


@schedules.command()
@click.argument("name")
def run(name: str) -> None:
    """Enqueue its job now, also while it is paused. Prints the job's id.

    Of a schedule of organizations it is the job that enqueues theirs.
    """
    with _opened() as in_code:
        click.echo(str(editing.run_schedule(name, actor=actor(), in_code=in_code)))


@schedules.command()
@click.argument("name")
def delete(name: str) -> None:
    """Remove one from the table. Jobs that it has enqueued stay."""
    with _opened() as in_code:
        editing.delete_schedule(name, actor=actor(), in_code=in_code)
    click.echo(f"deleted {printable(name)}")


@contextmanager
def _opened() -> Iterator[tuple[Schedule, ...]]:
    """The database, and what is defined in code."""
    app = celery_app()
    in_code = code_schedules(schedules_of(app, known_kinds(app)))
    with ledger_open("schedules"):
        yield in_code


def _states(in_code: Sequence[Schedule]) -> list[ScheduleState]:
    with all_jobs_session() as session:
        return schedule_states(session, known_kinds(celery_app()), in_code)


def _tell(name: str, done: str, in_code: Sequence[Schedule]) -> None:
    found = next(one for one in _states(in_code) if one.name == name)
    due = "" if found.next_due_at is None else f", due next at {found.next_due_at:%Y-%m-%d %H:%M:%S} UTC"
    click.echo(f"{done} {printable(name)}{due}")


def _shown(state: ScheduleState, slugs: dict[UUID, str]) -> dict[str, Any]:
    schedule = state.schedule
    rule, zone = ("", "") if schedule is None else text_of(schedule.when)
    return {
        "schedule": state.name,
        "source": state.source,
        "place": schedule and schedule.place,
        "when": rule,
        "time_zone": zone,
        "kind": schedule and schedule.kind,
        "arguments": schedule and dict(schedule.arguments),
        "organization": _whom(schedule, slugs),
        "missed": schedule and str(schedule.missed),
        "priority": schedule and schedule.priority,
        "paused": state.is_paused,
        "since": state.since,
        "last_due_at": state.last_due_at,
        "last_fired_at": state.last_fired_at,
        "last_job_id": state.last_job_id,
        "next_due_at": state.next_due_at,
        "ahead_due_at": state.ahead_due_at,
        "problem": state.problem,
    }


def _whom(schedule: Schedule | None, slugs: dict[UUID, str]) -> str | None:
    if schedule is None:
        return None
    if schedule.each_organization:
        return EACH
    if schedule.organization_id == SYSTEM_ORGANIZATION_ID:
        return SYSTEM_SLUG
    return slugs.get(schedule.organization_id, str(schedule.organization_id))


def _problem(state: ScheduleState) -> str | None:
    if state.problem is None and state.ahead_due_at is not None:
        return f"ticks up to {state.ahead_due_at:%Y-%m-%d %H:%M} have fired: the master's clock was wrong"
    return state.problem

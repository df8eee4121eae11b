"""`docworker tenants move` and `docworker tenants clean`: an organization goes somewhere else while it is served."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from sqlalchemy.exc import DBAPIError

from docworker.db.catalog import place_in
from docworker.db.errors import DocworkerError, StoreError
from docworker.worker.cli.database_errors import reason_of
from docworker.worker.cli.errors import Failure
from docworker.worker.cli.options import database_open
from docworker.worker.cli.output import error_console, json_option, print_json, print_table
from docworker.worker.cli.tenants.places import lost_option, say_left
from docworker.worker.cli.tenants.record import tenant_on_record
from docworker.worker.tenants.dropping import forget_late_files
from docworker.worker.tenants.moving import (
    Moved,
    Progress,
    Wanted,
    abort_move,
    clean_tenant,
    move_tenant,
    those_to_clean,
    undo_move,
)
from docworker.worker.tenants.owner import placement_of
from docworker.worker.tenants.places import Model, model_of, other_places


@click.command(
    epilog="""\b
Examples:
  docworker tenants move acme --cluster east
  docworker tenants move acme --model schema
  docworker tenants move acme --undo

\b
It is served meanwhile; for a moment at the end nobody can write. Interrupted, it is run again and goes on, or --abort
takes it back. For a while the old copy is kept, without jobs, for --undo; `docworker tenants clean` removes it.
"""
)
@click.argument("slug")
@click.option(
    "--model",
    type=click.Choice([model.value for model in Model]),
    help="Into shared tables, or a schema or a database of its own; as it is if left out.",
)
@click.option("--cluster", help="To this cluster; where it is if left out.")
@click.option("--place-name", help="What its schema or database is called; made of the slug if left out.")
@click.option(
    "--keep",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Keep the old copy for so long.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for running jobs to end.",
)
@click.option("--undo", is_flag=True, help="Go back to where it was, with what was written since.")
@click.option("--abort", is_flag=True, help="Take back a move that has not arrived.")
@click.option("--dry-run", is_flag=True, help="Say from where to where, and touch nothing.")
@lost_option
@json_option
def move(
    slug: str,
    *,
    model: str | None,
    cluster: str | None,
    place_name: str | None,
    keep: float,
    wait: float,
    undo: bool,
    abort: bool,
    dry_run: bool,
    lost: str | None,
    as_json: bool,
) -> None:
    """Move an organization to another cluster, schema or database, with its jobs."""
    if (undo + abort + dry_run > 1) or ((undo or abort) and (model or cluster or place_name)):
        raise click.UsageError("--undo, --abort, --dry-run: one of them; --undo and --abort know the place themselves")
    if lost is not None and not abort:
        raise click.UsageError("--lost goes with --abort: what is on a lost cluster cannot be moved")
    if abort:
        with database_open("tenants"), tenant_on_record("move_aborted", slug, lost=lost):
            left = other_places(placement_of(slug))
            place = abort_move(slug, lost=lost)
        click.echo(f"{slug} stays on {place.cluster}, in the model {model_of(place)}")
        say_left(left, lost)
        return
    wanted = Wanted(
        None if model is None else Model(model), cluster, place_name, timedelta(hours=keep).total_seconds(), wait
    )
    with database_open("tenants"):
        if dry_run:
            placement = placement_of(slug)
            source, target = place_in(placement), wanted.place(placement)
            click.echo(f"{slug} would move from {' '.join(filter(None, source))} to {' '.join(filter(None, target))}")
            return
        with tenant_on_record("moved_back" if undo else "moved", slug) as doing, _progress() as progress:
            moved = (undo_move if undo else move_tenant)(slug, wanted, progress)
            doing.details |= {"from": moved.source._asdict(), "to": moved.target._asdict()}
    _print(moved, as_json=as_json)


@click.command()
@click.argument("slug", required=False)
@click.option("--yes", is_flag=True, help="Also before its time.")
@lost_option
def clean(slug: str | None, yes: bool, lost: str | None) -> None:
    """Remove what was kept of an organization where it was before its last move.

    Without SLUG, of all whose time is over, also where one of them cannot be removed now, and files that came into the
    store after their organization was dropped. Run it again when it was interrupted.
    """
    if (yes or lost is not None) and slug is None:
        raise click.UsageError("--yes and --lost need a SLUG: without one only what is over goes")
    with database_open("tenants"):
        if slug is not None:
            _clean(slug, now=yes, lost=lost)
            return
        failed: list[str] = []
        for one in those_to_clean():
            try:
                _clean(one, now=False)
            except (DBAPIError, DocworkerError) as error:  # a cluster may be down, and others have their turn
                if one in those_to_clean():  # else another command has been at it meanwhile
                    failed.append(f"what was left of {one} stays: {reason_of(error) or error}")
        try:
            for organization_id in forget_late_files():
                click.echo(f"removed files that came after the organization {organization_id} was dropped")
        except StoreError as error:
            failed.append(str(error))
        if failed:
            raise Failure("\n".join(failed))


def _clean(slug: str, *, now: bool, lost: str | None = None) -> None:
    with tenant_on_record("cleaned", slug, lost=lost) as doing:
        place = clean_tenant(slug, now=now, lost=lost)
        doing.details["place"] = place._asdict()
    if place.cluster == lost:
        say_left([place], lost)
        return
    click.echo(f"removed what was left of {slug} on {place.cluster}, in the model {model_of(place)}")


def _print(moved: Moved, *, as_json: bool) -> None:
    values = {
        "slug": moved.slug,
        "from": " ".join(filter(None, moved.source)),
        "to": " ".join(filter(None, moved.target)),
        "rows": moved.rows,
        "deleted": moved.deleted,
        "bytes": moved.size_bytes,
        "rounds": moved.rounds,
        "write_stop_seconds": round(moved.write_stop_seconds, 3),
        "seconds": round(moved.seconds, 1),
        "old_copy_kept_until": moved.kept_until,
    }
    if as_json:
        print_json(values)
    else:
        print_table(("", ""), ((name.replace("_", " "), value) for name, value in values.items() if value is not None))


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = error_console()
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=None)
        yield Progress(
            say=lambda what: bars.update(bar, description=what),
            found=lambda count: bars.update(bar, total=count),
            copied=lambda count: bars.advance(bar, count),
        )

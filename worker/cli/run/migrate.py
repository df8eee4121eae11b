"""`docworker migrate`: bring every database, and every schema of an organization, up to date."""

from collections.abc import Sequence

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from docworker.migrations import contract as contraction
from docworker.migrations.places import Result, behind, migrate_all, revision_of_home
from docworker.migrations.runner import let_dispatcher_see_snapshots, sql
from docworker.worker.cli.output import error_console, print_table


@click.command(
    epilog="""\b
Progress goes to stderr, what failed to stdout.
Exit codes: 0 everything is at the revision; 1 something is not."""
)
@click.option("--revision", default="head", show_default=True, help="Upgrade to this revision.")
@click.option("--only", metavar="SLUG", multiple=True, help="Of the organizations only this one; may be repeated.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=4, show_default=True, metavar="N", help="So many at the same time."
)
@click.option("--check", is_flag=True, help="List what is behind, and touch nothing.")
@click.option(
    "--sql", "as_sql", is_flag=True, help="Print the SQL that home would be upgraded with, and touch nothing."
)
@click.option("--contract", is_flag=True, help="Then remove what only processes of the release before need.")
def migrate(revision: str, only: Sequence[str], jobs: int, check: bool, as_sql: bool, contract: bool) -> None:
    """Bring every database, and every schema of an organization, up to date.

    Home comes first, then the other clusters, then what organizations have of their own; only what is behind is
    touched. One place of each kind goes first: where it fails, the others are left alone. Later failures stop nobody;
    run it again when their reasons are gone.

    Connects as the owner: DOCWORKER_OWNER_URL, and owner_url in DOCWORKER_CLUSTERS. Several may run at the same time:
    one migrates, the others wait and find it done.
    """
    if as_sql:
        click.echo(sql(revision_of_home() or "base", revision), nl=False)
        return
    if check:
        _report(behind(revision, only))
        return
    failed = _migrate(revision, only, jobs)
    if not let_dispatcher_see_snapshots():
        click.echo(
            "the dispatcher cannot tell which sessions and standbys keep dead rows from being removed: "
            "as a superuser, GRANT pg_read_all_stats TO docworker_dispatcher",
            err=True,
        )
    _report(failed)
    if contract:
        contraction.contract()
    elif contraction.keeps_copies():
        click.echo(
            "texts are stored twice, for processes of the release before: "
            "when none of them runs any more, run `docworker migrate --contract`",
            err=True,
        )


def _migrate(revision: str, only: Sequence[str], jobs: int) -> list[Result]:
    """What failed."""
    console = error_console()
    columns = [TextColumn("migrating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=None)
        failed = []
        for result in migrate_all(
            revision, jobs=jobs, only=only, on_found=lambda count: progress.update(bar, total=count)
        ):
            progress.advance(bar)
            if result.error is not None:
                failed.append(result)
    return failed


def _report(unfinished: Sequence[Result]) -> None:
    """Ends the command with exit code 1 where there is any."""
    if unfinished:
        rows = [(one.place.name, str(one.place.target), one.revision or "none", one.error) for one in unfinished]
        print_table(["name", "place", "revision", "reason"], rows)
        raise click.exceptions.Exit(1)

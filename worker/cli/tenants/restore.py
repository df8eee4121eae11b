"""`docworker tenants restore`: an organization, a folder or a document as it was at a moment."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from docworker.db.documents.restoring import BROUGHT_BACK, LEFT_ALONE, Finding, Found
from docworker.worker.cli.options import Moment, actor, database_open
from docworker.worker.cli.output import error_console, json_option, print_json, print_table
from docworker.worker.cli.tenants.record import tenant_on_record
from docworker.worker.tenants.restoring import restore_tenant


@click.command(
    epilog="""\b
Examples:
  docworker tenants restore acme --to 2026-11-27T14:05:00Z --dry-run
  docworker tenants restore acme --to 2026-11-27T14:05:00Z --folder /reports
  docworker tenants restore acme --to 2026-11-27T14:05:00Z --document /reports/q3.pdf

\b
Texts of that time become new versions, and deletions are undone. What was made later stays, and documents stay where
they are now. Interrupted, run it again. What the installation has removed for good, or what waits to be processed, is
listed.

\b
Exit codes: 0 everything is as it was; 1 something is not, or there was an error.
""",
)
@click.argument("slug")
@click.option("--to", type=Moment(), required=True, help="The moment, with its offset from UTC; by the master's clock.")
@click.option("--folder", metavar="PATH", help="Only what is below this folder.")
@click.option("--document", metavar="DOC", help="Only this document: its id, or its path.")
@click.option("--dry-run", is_flag=True, help="List what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def restore(
    slug: str, *, to: datetime, folder: str | None, document: str | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Bring back what an organization had at a moment."""

    def run(*, dry_run: bool) -> list[Finding]:
        with _progress() as (progress, bar):
            found = []
            for one in restore_tenant(
                slug,
                to,
                actor=actor(),
                folder=folder,
                document=document,
                dry_run=dry_run,
                on_found=lambda count: progress.update(bar, total=count),
            ):
                found.append(one)
                progress.advance(bar)
            return found

    with database_open("tenants"):
        if not dry_run and not yes:
            planned = run(dry_run=True)
            click.echo(f"{slug} as of {to.isoformat()}: {_summary(planned)}", err=True)
            if any(one.found in BROUGHT_BACK for one in planned):
                click.confirm("Go on?", abort=True, err=True)
        with nullcontext() if dry_run else tenant_on_record("restored", slug, to=to.isoformat()) as doing:
            findings = run(dry_run=dry_run)
            if doing is not None:
                doing.details |= {
                    "folder": folder,
                    "document": document,
                    "found": Counter(one.found for one in findings),
                }
    _report(slug, to, findings, dry_run=dry_run, as_json=as_json)
    if any(_is_missing(one) for one in findings):
        raise click.exceptions.Exit(1)


@contextmanager
def _progress() -> Iterator[tuple[Progress, TaskID]]:
    console = error_console()
    columns = [TextColumn("looking back"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield progress, progress.add_task("", total=None)


def _report(slug: str, to: datetime, findings: Sequence[Finding], *, dry_run: bool, as_json: bool) -> None:
    """In a table what would change, or else what could not be brought back."""
    if as_json:
        counts = Counter(one.found for one in findings)
        changed = [one for one in findings if one.found is not Found.UNCHANGED]
        print_json({"to": to, "dry_run": dry_run, "counts": counts, "findings": changed})
        return
    listed = [one for one in findings if (dry_run and one.found is not Found.UNCHANGED) or _is_missing(one)]
    if listed:
        rows = [(one.found, one.path or one.id, one.version_number, one.reason) for one in listed]
        print_table(["what", "document", "#version", "reason"], rows)
    verb = "would be restored" if dry_run else "restored"
    click.echo(f"{slug} {verb} to {to.isoformat()}: {_summary(findings)}", err=True)


def _is_missing(one: Finding) -> bool:
    return one.found not in BROUGHT_BACK | LEFT_ALONE


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(one.found for one in findings)
    return ", ".join(f"{counts[found]} {found}" for found in Found if counts[found]) or "there was nothing"

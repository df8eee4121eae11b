"""`docworker watch`: import files as they come to be in a folder."""

import signal
from collections import Counter
from pathlib import Path

import click

from docworker.db.documents.reading import parse_path
from docworker.jobs.imports.importing import FileResult, Imported
from docworker.jobs.imports.watching import SCAN_SECONDS, SETTLE_SECONDS, FolderWatch
from docworker.worker.cli.options import organization_open, organization_option
from docworker.worker.cli.output import print_json_line
from docworker.worker.printable import printable


@click.command(
    epilog="""\b
Examples:
  docworker watch ./incoming -o acme
  docworker watch ./incoming -o acme --into /in --exclude '*.part'
  docworker watch /mnt/share -o acme --poll          where the kernel is not told of changes

\b
What is there already is imported first, also what came while nobody watched; what is known at its place is passed
over. A file is imported when it has not changed for --settle seconds. Nothing is deleted. Hidden files are left out,
and what .docworkerignore in DIR and --exclude name.

\b
A line for each file that is new, changed, unsupported or failed; processing is not waited for. Ctrl-C and SIGTERM end
it; the exit code is then 0.
"""
)
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@organization_option
@click.option("--into", default="/", show_default=True, metavar="FOLDER", help="Where in the tree the files land.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out what matches; may be repeated.")
@click.option("--hidden", is_flag=True, help="Import hidden files and folders as well.")
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    default=SETTLE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="A file that stays as it is for so long is complete.",
)
@click.option(
    "--scan",
    type=click.FloatRange(min=1),
    default=SCAN_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Look through the whole folder so often, for what the kernel has not told.",
)
@click.option("--poll", is_flag=True, help="Look for changes instead of being told of them.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
def watch(
    directory: Path,
    slug: str,
    into: str,
    *,
    exclude: tuple[str, ...],
    hidden: bool,
    settle: float,
    scan: float,
    poll: bool,
    as_json: bool,
) -> None:
    """Import files into the documents of an organization as they come to be in DIR, until it is stopped."""
    counts = Counter[Imported]()

    def tell(result: FileResult) -> None:
        counts[result.imported] += 1
        if as_json:
            print_json_line(result)
        elif result.imported is not Imported.UNCHANGED:
            why = f": {printable(result.reason)}" if result.reason else ""
            click.echo(f"{result.imported} {printable(result.path)}{why}")

    with organization_open("watch", slug) as organization_id:
        watched = FolderWatch(
            organization_id,
            directory,
            into=parse_path(into),
            exclude=exclude,
            hidden=hidden,
            settle_seconds=settle,
            scan_seconds=scan,
            poll=poll,
            tell=tell,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: watched.stop())
        click.echo(f"watching {printable(str(directory))}", err=True)
        watched.run()
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    click.echo(f"stopped: {told or 'no files'}", err=True)

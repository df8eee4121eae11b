"""`docworker import`: mirror a folder of files, follow their jobs, and say what became of each file."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from docworker.db.documents.folders import FolderPath
from docworker.db.documents.reading import load_statuses, parse_path, path_text
from docworker.db.documents.store import SourceMissingError, source_store
from docworker.db.editing.documents import change_documents, deleted
from docworker.jobs.imports.ignoring import Ignore
from docworker.jobs.imports.importing import FileResult, import_tree
from docworker.jobs.imports.pruning import Seen, find_gone, started_at
from docworker.jobs.imports.walking import FoundFolder, walk
from docworker.jobs.progress import JobWatch, failures, who_is_missing
from docworker.worker.cli.errors import INTERRUPTED
from docworker.worker.cli.options import actor, organization_open, organization_option
from docworker.worker.cli.output import error_console, json_option, print_json, print_table
from docworker.worker.printable import printable

HINT_SECONDS = 3.0
POLL_SECONDS = 0.25
SHOWN_GONE = 20
SHOWN_FILES = 50
"""That failed or were left out: of more, their reasons are counted."""
SHOWN_REASONS = 100
_NOTED = ("failed", "unsupported", "skipped")


@dataclass(frozen=True)
class Outcome:
    """What became of one file: processed, unchanged, unsupported, failed, skipped, or still pending."""

    path: str
    outcome: str
    reason: str | None
    document_id: UUID | None


@click.command(
    "import",
    epilog="""\b
Examples:
  docworker import ./reports -o acme                 what is in ./reports lands in the root
  docworker import ./reports --into /2026 -o acme    … or in a folder
  docworker import q3.pdf -o acme --no-wait          one file, and do not wait for its processing
  docworker import ./reports -o acme --exclude '*.bak' --exclude drafts/
  docworker import ./reports -o acme --prune         and delete documents whose files are gone

\b
PDF, files of office programs, e-books, web pages, mails, pictures and text are processed; other files are kept and
recorded as unsupported. A file whose bytes are known at its place is unchanged and costs nothing, so an import can be
repeated. Nothing is deleted unless --prune is given. Symbolic links to files are read, links to folders are skipped.

\b
Hidden files and folders (.git among them) are left out, and what patterns name, as in .gitignore: those of the file
.docworkerignore in PATH, then those of --exclude. What is left out is not pruned either.

\b
Exit codes: 0 no file failed; 1 some file could not be imported or processed, or was not processed in time.
""",
)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@organization_option
@click.option("--into", default="/", show_default=True, metavar="FOLDER", help="Where in the tree the files land.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the files are processed.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=600, show_default=True, help="Longest wait, in seconds."
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out what matches; may be repeated.")
@click.option("--hidden", is_flag=True, help="Import hidden files and folders as well.")
@click.option("--prune", is_flag=True, help="Delete documents below --into whose files are gone, after showing them.")
@click.option("--yes", is_flag=True, help="Do not ask before --prune deletes.")
@json_option
def import_(
    path: Path,
    slug: str,
    into: str,
    *,
    wait: bool,
    timeout: float,
    exclude: tuple[str, ...],
    hidden: bool,
    prune: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Mirror the files in PATH into the documents of an organization, and have them processed."""
    if prune and not path.is_dir():
        raise click.UsageError("--prune compares a whole folder with the documents: name a folder")
    ignore, seen = Ignore.of_tree(path, exclude, hidden=hidden), Seen()
    with organization_open("import", slug) as organization_id:
        begun_at = started_at(organization_id)
        with _told_when_interrupted():
            with _progress() as progress:
                results = _import(organization_id, path, into, ignore, seen, progress)
            if wait:
                with _progress() as progress:
                    _follow(organization_id, results, timeout, progress)
        outcomes = _outcomes(organization_id, results)
        _report(outcomes, as_json=as_json)
        _tell_of_stores(outcomes)
        if prune:
            _prune(organization_id, find_gone(organization_id, seen, parse_path(into), before=begun_at), yes=yes)
    failed = {"failed", "pending"} if wait else {"failed"}
    if any(one.outcome in failed for one in outcomes):
        click.get_current_context().exit(1)


@contextmanager
def _told_when_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo(
            "interrupted: what has been imported stays and is processed; run it again for the rest, and to see it all",
            err=True,
        )
        raise click.exceptions.Exit(INTERRUPTED) from None


@contextmanager
def _progress() -> Iterator[Progress]:
    console = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield progress


def _prune(organization_id: UUID, gone: Sequence[tuple[UUID, FolderPath]], *, yes: bool) -> None:
    """Delete these documents after showing them. On stderr, as the report of the import is on stdout."""
    if not gone:
        return
    console = error_console()
    for _, path in gone[:SHOWN_GONE]:
        console.print(f"gone: {printable(path_text(path))}")
    if len(gone) > SHOWN_GONE:
        console.print(f"… and {len(gone) - SHOWN_GONE} more")
    if not yes and not click.confirm(f"{len(gone)} documents will be deleted. Go on?", err=True):
        console.print("nothing was deleted")
        return
    ids = [document_id for document_id, _ in gone]
    outcomes = list(change_documents(organization_id, ids, "deleted", deleted(), actor=actor()))
    console.print(f"{sum(one.changed for one in outcomes)} documents deleted")


def _import(
    organization_id: UUID, path: Path, into: str, ignore: Ignore, seen: Seen, progress: Progress
) -> list[FileResult]:
    total = None if progress.disable else sum(not isinstance(found, FoundFolder) for found in walk(path, ignore))
    bar = progress.add_task("importing", total=total)
    results = []
    for result in import_tree(organization_id, path, into=parse_path(into), ignore=ignore, on_found=seen.add):
        results.append(result)
        progress.advance(bar)
    return results


def _follow(organization_id: UUID, results: Sequence[FileResult], timeout: float, progress: Progress) -> None:
    """Wait until the jobs have ended, or the time is over; say so when nobody works on them."""
    job_ids = {result.job_id for result in results if result.job_id is not None}
    if not job_ids:
        return
    watch = JobWatch(organization_id, job_ids)
    bar = progress.add_task("processing", total=len(job_ids))
    deadline = time.monotonic() + timeout
    moved_at, ended, hinted = time.monotonic(), 0, set[str]()
    while True:
        state = watch.look()
        progress.update(bar, completed=state.ended)
        now = time.monotonic()
        if not state.live or now >= deadline:
            return
        if state.running or state.ended > ended:
            moved_at, ended = now, state.ended
        elif now - moved_at >= HINT_SECONDS:
            moved_at, hint = now, who_is_missing(state)
            if hint and hint not in hinted:
                hinted.add(hint)
                progress.console.print(f"{state.live} jobs wait: {hint}")
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - now)))


def _tell_of_stores(outcomes: Sequence[Outcome]) -> None:
    """A worker that misses bytes which were put into the store a moment ago looks into another one."""
    if any(one.reason is not None and SourceMissingError.__name__ in one.reason for one in outcomes):
        click.echo(
            f"this command keeps the files in {source_store().place}, and the worker looked elsewhere: give both the "
            "same DOCWORKER_STORE, and run it again",
            err=True,
        )


def _outcomes(organization_id: UUID, results: Sequence[FileResult]) -> list[Outcome]:
    with_job = {result.document_id: result.job_id for result in results if result.document_id and result.job_id}
    statuses = load_statuses(organization_id, with_job)
    failed_jobs = failures(organization_id, with_job.values())
    outcomes = []
    for result in results:
        outcome, reason = str(result.imported), result.reason
        if result.document_id in with_job:
            outcome, reason = statuses.get(result.document_id, ("failed", "it has been deleted"))
            if outcome == "pending" and result.job_id in failed_jobs:
                outcome, reason = "failed", failed_jobs[result.job_id]
        outcomes.append(Outcome(result.path, outcome, reason, result.document_id))
    return outcomes


def _print_reasons(noted: Sequence[Outcome]) -> None:
    """How many there are of each outcome and reason, the failures and then the most first, each with an example."""
    examples: dict[tuple[str, str | None], str] = {}
    for one in noted:
        examples.setdefault((one.outcome, one.reason), one.path)
    counts = Counter((one.outcome, one.reason) for one in noted)
    ranked = sorted(counts.items(), key=lambda item: (_NOTED.index(item[0][0]), -item[1], item[0][1] or ""))
    rows = ((count, *which, examples[which]) for which, count in ranked[:SHOWN_REASONS])
    print_table(("#files", "outcome", "why", "such as"), rows)
    if len(ranked) > SHOWN_REASONS:
        left = ranked[SHOWN_REASONS:]
        click.echo(f"\N{HORIZONTAL ELLIPSIS} and {sum(count for _, count in left)} files for {len(left)} other reasons")
    error_console().print(
        "each file is listed with --json, or by `docworker documents --state failed` or `unsupported`"
    )


def _report(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    counts = Counter(one.outcome for one in outcomes)
    if as_json:
        order = ("processed", "pending", "unchanged", "unsupported", "failed", "skipped")
        print_json({**{name: counts[name] for name in order}, "files": outcomes})
        return
    noted = [one for one in outcomes if one.outcome in _NOTED]
    if len(noted) > SHOWN_FILES:
        _print_reasons(noted)
    elif noted:
        print_table(("file", "outcome", "why"), ((one.path, one.outcome, one.reason) for one in noted))
    if noted:
        click.echo()
    order = ("processed", "pending", "unchanged", "unsupported", "skipped", "failed")
    click.echo(", ".join(f"{counts[name]} {name}" for name in order if counts[name] or name in {"processed", "failed"}))

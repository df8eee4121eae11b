"""`docworker jobs`: list and show jobs, retry and cancel them, pause kinds and organizations.

Following a fan-out is in `worker.cli.jobs.watch`.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import click

from docworker.db import ledger
from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import Filter, Listed
from docworker.db.models import Job
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import all_jobs_session, read_all_jobs
from docworker.db.tenants import steering
from docworker.db.tenants.organizations import owners_of
from docworker.worker.cli.jobs.backlogs import backlogs
from docworker.worker.cli.jobs.bulk import change_all, change_tree
from docworker.worker.cli.jobs.record import jobs_on_record, pause_on_record
from docworker.worker.cli.jobs.selection import filters, organization_id, selected_jobs
from docworker.worker.cli.jobs.stack import stack
from docworker.worker.cli.jobs.story import print_story
from docworker.worker.cli.jobs.watch import watch
from docworker.worker.cli.jobs.why import why
from docworker.worker.cli.options import actor, ledger_open
from docworker.worker.cli.output import json_option, print_json, print_json_list, print_table
from docworker.worker.kinds import demand_kind
from docworker.worker.printable import printable_lines

SHOWN = 50
"""Jobs of a list unless another number is asked for."""
_WIDEST_KIND = 60
_PAGE = 10_000


@click.group()
def jobs() -> None:
    """List, show, watch, retry, cancel, pause and resume jobs.

    Connects as DOCWORKER_DISPATCHER_URL, which sees the jobs of all organizations.
    """


jobs.add_command(backlogs)
jobs.add_command(watch)
jobs.add_command(why)
jobs.add_command(stack)


@jobs.command("list")
@filters
@click.option("--after", metavar="JOB", type=click.UUID, help="Only what comes behind this job in the list.")
@click.option("--limit", type=click.IntRange(1, 2**31 - 1), help="At most so many, latest first; 50 if left out.")
@click.option("--all", "everything", is_flag=True, help="However many there are.")
@json_option
def list_(after: UUID | None, limit: int | None, everything: bool, as_json: bool, **chosen: Any) -> None:
    """List jobs, the latest first. The organization `system` owns the scheduled ones."""
    if everything and limit is not None:
        raise click.UsageError("--limit and --all exclude each other")
    with selected_jobs(**chosen) as wanted:
        listed = _Listed(wanted, after, None if everything else limit or SHOWN)
        if as_json:
            print_json_list(one._asdict() for page in listed for one in page)
        else:
            print_table(_COLUMNS, (row for page in listed for row in _rows(page)))
    if listed.last is not None:
        click.echo(f"the latest {listed.count:,}; there may be more: --after {listed.last}, or --all", err=True)


class _Listed:
    """Pages of jobs, each read in a session of its own: a list that somebody reads slowly holds nothing up. They are
    read from a replica that has all that was there when the first one was asked for, else from the master."""

    def __init__(self, wanted: Filter, after: UUID | None, most: int | None) -> None:
        self._wanted = wanted
        self._after = after
        self._most = most
        self.count = 0
        self.last: UUID | None = None
        """The last one, if there may be more behind it."""

    def __iter__(self) -> Iterator[list[Listed]]:
        with all_jobs_session() as session:
            behind = None if self._after is None else ledger.behind_job(session, self._after)
            position = session.commit_with_position()
        while True:
            limit = _PAGE if self._most is None else min(_PAGE, self._most - self.count)
            find = partial(ledger.find, wanted=self._wanted, limit=limit, behind=behind)
            jobs, behind = read_all_jobs(find, position=position)
            self.count += len(jobs)
            if self.count == self._most and behind is not None:
                self.last = jobs[-1].id
            yield jobs
            if behind is None or self.count == self._most:
                return


_COLUMNS = ("id", "organization", "kind", "state", "#attempt", "enqueued", "due", "error")


def _rows(page: list[Listed]) -> Iterator[tuple[Any, ...]]:
    slugs = owners_of({one.organization_id for one in page})
    for one in page:
        yield (
            one.id,
            slugs.get(one.organization_id, one.organization_id),
            one.kind[:_WIDEST_KIND],
            one.state,
            f"{one.attempt}/{one.max_attempts}",
            one.created_at,
            one.run_at if one.state == "queued" else None,
            _error(one),
        )


def _error(job: Listed) -> str | None:
    if job.error_class is None:
        return None
    line = next(iter(f"{job.error_class}: {job.error_message}".splitlines()), "")
    return line if len(line) <= 100 else f"{line[:99]}\N{HORIZONTAL ELLIPSIS}"


@jobs.command(short_help="Show all that the ledger knows of a job.")
@click.argument("job_id", type=click.UUID)
@json_option
def show(job_id: UUID, as_json: bool) -> None:
    """Show everything the ledger knows of one job: its row, and its attempts with what they have logged."""
    with ledger_open("jobs"):
        with all_jobs_session() as session:
            job = ledger.get(session, job_id)
            story = ledger.told_of(session, job)
        slugs = {} if as_json else owners_of({job.organization_id})
    if as_json:
        print_json(_as_dict(job) | {"attempts": story.attempts, "attempts_left_out": story.left_out})
        return
    shown = _as_dict(job) | {"organization_id": slugs.get(job.organization_id, job.organization_id)}
    trace = shown.pop("error_traceback")
    hidden = {"id", "claim_token", "message_id"}
    print_table(
        ("id", str(job.id)),
        (
            (name.removesuffix("_id") if name == "organization_id" else name, _as_text(value))
            for name, value in shown.items()
            if value is not None and name not in hidden
        ),
    )
    if trace:
        click.echo(f"\n{printable_lines(trace).rstrip()}")
    print_story(story)


def _as_text(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _as_dict(job: Job) -> dict[str, Any]:
    return {column.key: getattr(job, column.key) for column in job.__mapper__.column_attrs}


@jobs.command(short_help="Run failed or cancelled jobs again.")
@click.argument("job_ids", nargs=-1, type=click.UUID)
@filters
@click.option(
    "--tree", metavar="JOB", type=click.UUID, help="This job, its children and theirs, and what waits for them."
)
@click.option("--all", "everything", is_flag=True, help="All failed jobs, without any filter.")
@json_option
def retry(job_ids: tuple[UUID, ...], tree: UUID | None, everything: bool, as_json: bool, **chosen: Any) -> None:
    """Run failed jobs again, with all attempts anew: those named, or all that match. A cancelled job must be named.

    All that match are taken in chunks of a thousand, each for itself: interrupted, run it again for the rest.
    """
    _demand_a_choice(job_ids, chosen, tree=tree, everything=everything, verb="retry")
    named = _named(job_ids, tree)
    with selected_jobs(**chosen) as wanted, jobs_on_record("retried", wanted, named, chosen) as changed:
        if tree is not None:
            change_tree(ledger.retry_tree(all_jobs_session, tree), changed, done="queued again")
        elif job_ids:
            with all_jobs_session() as session:
                changed += ledger.retry_failed(session, wanted, job_ids)
        else:
            change_all(ledger.RETRY, wanted, changed, doing="retry", done="queued again", hidden=as_json)
    _report(changed, job_ids, "queued again", "failed or cancelled", as_json=as_json)


@jobs.command(short_help="Let failed jobs hold up others of their order no more.")
@click.argument("job_ids", nargs=-1, required=True, type=click.UUID)
@json_option
def release(job_ids: tuple[UUID, ...], as_json: bool) -> None:
    """Let pass what stands behind failed jobs in the order of a key. To run these again instead: `jobs retry`."""
    with (
        ledger_open("jobs"),
        jobs_on_record("released", Filter(), job_ids, {}) as changed,
        all_jobs_session() as all_of,
    ):
        changed += ledger.release(all_of, job_ids)
    _report(changed, job_ids, "released", "holding up others", as_json=as_json)


@jobs.command(short_help="Cancel queued and running jobs.")
@click.argument("job_ids", nargs=-1, type=click.UUID)
@filters
@click.option(
    "--tree", metavar="JOB", type=click.UUID, help="This job, its children and theirs, and what waits for them."
)
@click.option("--all", "everything", is_flag=True, help="All live jobs, without any filter.")
@json_option
def cancel(job_ids: tuple[UUID, ...], tree: UUID | None, everything: bool, as_json: bool, **chosen: Any) -> None:
    """Cancel live jobs: waiting and queued ones at once, running ones commit nothing and stop at their next safe point.

    A cancelled fan-out makes no more children; those it has made go on, unless `--parent JOB` cancels them too.
    All that match are taken in chunks of a thousand, each for itself: interrupted, run it again for the rest.
    """
    _demand_a_choice(job_ids, chosen, tree=tree, everything=everything, verb="cancel")
    with (
        selected_jobs(**chosen) as wanted,
        jobs_on_record("cancelled", wanted, _named(job_ids, tree), chosen) as changed,
    ):
        try:
            if tree is not None:
                change_tree(ledger.cancel_tree(all_jobs_session, tree), changed, done="cancelled")
            elif job_ids:
                with all_jobs_session() as session:
                    changed += ledger.cancel(session, wanted, job_ids)
            else:
                change_all(ledger.CANCEL, wanted, changed, doing="cancel", done="cancelled", hidden=as_json)
        finally:
            _tell_documents(changed)
    _report(changed, job_ids, "cancelled", "live", as_json=as_json)


def _tell_documents(cancelled: list[UUID]) -> None:
    """Documents say at once that nobody will process them."""
    from docworker.jobs.kinds.documents import tell_cancelled  # noqa: PLC0415 -- it loads Celery

    tell_cancelled(cancelled, all_jobs_session)


def _named(job_ids: tuple[UUID, ...], tree: UUID | None) -> tuple[UUID, ...]:
    return job_ids if tree is None else (tree,)


def _demand_a_choice(
    job_ids: tuple[UUID, ...], chosen: dict[str, Any], *, tree: UUID | None, everything: bool, verb: str
) -> None:
    if tree is not None and (job_ids or any(chosen.values()) or everything):
        raise click.UsageError("--tree is a choice of its own: give no ids, no filter and no --all with it")
    if tree is None and not job_ids and not any(chosen.values()) and not everything:
        raise click.UsageError(f"say which jobs to {verb}: ids, a filter such as --kind, or --all")


def _report(changed: list[UUID], asked: tuple[UUID, ...], done: str, needed: str, *, as_json: bool) -> None:
    if as_json:
        print_json(changed)
    else:
        click.echo(f"{len(changed)} job{'' if len(changed) == 1 else 's'} {done}")
    missed = sorted(set(asked) - set(changed))
    if missed:
        raise InvalidArgumentError(
            f"not {needed}, not chosen by the filter, or not there: {', '.join(map(str, missed))}"
        )


def places(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to pause."""
    for option in (
        click.option("-o", "--organization", "slug", metavar="SLUG", help="The organization."),
        click.option("--kind", help="The kind of job."),
    ):
        function = option(function)
    return function


@jobs.command(short_help="Stop dispatching a kind or an organization.")
@places
def pause(kind: str | None, slug: str | None) -> None:
    """Dispatch no more jobs of a kind, of an organization, or of one kind of one organization. What runs goes on."""
    _demand_a_place(kind, slug, "pause")
    with ledger_open("jobs"), pause_on_record("paused", kind, slug):
        if kind is not None:
            demand_kind(kind)
        steering.pause(kind=kind, organization_id=organization_id(slug), by=actor())
    click.echo(f"paused {steering.whose(kind, slug)}")


@jobs.command(short_help="Take a pause back.")
@places
def resume(kind: str | None, slug: str | None) -> None:
    """Take a pause back; name the same kind and organization."""
    _demand_a_place(kind, slug, "resume")
    with ledger_open("jobs"), pause_on_record("resumed", kind, slug):
        if not steering.resume(kind=kind, organization_id=organization_id(slug)):
            raise InvalidArgumentError(f"{steering.whose(kind, slug)} is not paused")
    click.echo(f"resumed {steering.whose(kind, slug)}")


def _demand_a_place(kind: str | None, slug: str | None, verb: str) -> None:
    if kind is None and slug is None:
        raise click.UsageError(f"say what to {verb}: --kind, --organization, or both")


@jobs.command()
@json_option
def paused(as_json: bool) -> None:
    """List what is paused, since when and by whom."""
    with ledger_open("jobs"):
        found = steering.all_pauses()
        slugs = owners_of({one.organization_id for one in found})
    rows = [
        {
            "organization": None
            if one.organization_id == SYSTEM_ORGANIZATION_ID
            else slugs.get(one.organization_id, str(one.organization_id)),
            "kind": one.kind or None,
            "since": one.created_at,
            "by": one.paused_by,
        }
        for one in found
    ]
    if as_json:
        print_json(rows)
        return
    shown = ((one["organization"] or "all", one["kind"] or "all", one["since"], one["by"]) for one in rows)
    print_table(("organization", "kind", "since", "by"), shown)

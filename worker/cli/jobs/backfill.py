"""`docworker backfill`: begin, watch and cancel backfills, in one organization or in all that are served."""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from docworker.db import ledger
from docworker.db.models import JobState, Placement, PlacementState
from docworker.db.models.ledger.job import LIVE_STATES
from docworker.db.sessions import all_jobs_session
from docworker.db.tenants.ledgers import ledgers
from docworker.db.tenants.organizations import list_organizations, organization_id_of
from docworker.jobs.kinds import backfill as kinds
from docworker.worker.app import celery_app
from docworker.worker.cli.options import ledger_open
from docworker.worker.cli.output import json_option, print_json, print_table

organization_option = click.option(
    "-o", "--organization", "slug", metavar="SLUG", help="Only of this one; all that are served if left out."
)


@click.group(
    epilog="""\b
Examples:
  docworker backfill list
  docworker backfill run order_uids -o acme      first one organization,
  docworker backfill run order_uids              then the others
  docworker backfill status order_uids           how far it is, and what it waits for
  docworker backfill cancel order_uids           `run` goes on where it was
"""
)
def backfill() -> None:
    """Fill or rewrite a column over many rows, beside the running system.

    A backfill is a function of yours: see docs/migrations.md. Workers run it, a job for each organization, and the
    governor has it wait while the servers are busy.
    """


@backfill.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the backfills that there are."""
    _import_tasks()
    found = [{"name": name, "table": one.table, "key": one.key} for name, one in sorted(kinds.backfills().items())]
    if as_json:
        print_json(found)
    else:
        print_table(("name", "table", "key"), (list(one.values()) for one in found))


@backfill.command()
@click.argument("name")
@organization_option
def run(name: str, slug: str | None) -> None:
    """Begin it, or have it go on where it was cancelled or has failed. What is done stays done."""
    with ledger_open("backfill"):
        wanted = _find(name)
        organizations = _organizations(slug)
        for one in organizations:
            kinds.start(wanted, one.organization_id)
        ids = [kinds.job_id_of(wanted, one.organization_id) for one in organizations]
        for place in ledgers():
            with all_jobs_session(*place) as session:
                ledger.retry_failed(session, ledger.Filter(kind=name), ids)
        shown = list(_states(wanted, organizations))
    states = [one["state"] for one in shown]
    done = states.count(JobState.SUCCEEDED)
    click.echo(f"{name}: {len(states) - done} organizations begin or go on, {done} are done already")


@backfill.command()
@click.argument("name")
@organization_option
@json_option
def status(name: str, slug: str | None, as_json: bool) -> None:
    """Show how far it is in each organization, and what it waits for."""
    with ledger_open("backfill"):
        shown = list(_states(_find(name), _organizations(slug)))
    if as_json:
        print_json(shown)
    else:
        head = ("organization", "state", "#rows", "#of about", "#changed", "#seconds left", "waits for", "error")
        print_table(head, (list(one.values()) for one in shown))


@backfill.command()
@click.argument("name")
@organization_option
def cancel(name: str, slug: str | None) -> None:
    """Stop it after the page that it is at. What is done stays; `run` goes on from there."""
    with ledger_open("backfill"):
        _find(name)
        only = None if slug is None else organization_id_of(slug)
        cancelled = 0
        for place in ledgers():
            with all_jobs_session(*place) as session:
                cancelled += len(ledger.cancel(session, ledger.Filter(kind=name, organization_id=only)))
    click.echo(f"{name}: cancelled in {cancelled} organizations")


def _import_tasks() -> None:
    celery_app().loader.import_default_modules()


def _find(name: str) -> kinds.Backfill:
    _import_tasks()
    return kinds.find_backfill(name)


def _organizations(slug: str | None) -> Sequence[Placement]:
    if slug is not None:
        organization_id_of(slug)  # which says so if there is none
    served = [one for one in list_organizations() if one.state == PlacementState.ACTIVE]
    return [one for one in served if slug in (None, one.slug)]


def _states(wanted: kinds.Backfill, organizations: Sequence[Placement]) -> Iterator[dict[str, Any]]:
    for one in organizations:
        found = kinds.progress_of(wanted, one.organization_id)
        job, done = found or (None, kinds.Backfilled())
        is_live = job is not None and job.state in LIVE_STATES
        left = done.seconds_left if is_live else None
        yield {
            "organization": one.slug,
            "state": None if job is None else job.state,
            "rows": done.rows,
            "estimate": done.estimate,
            "changed": done.changed,
            "seconds_left": None if left is None else round(left),
            "waits_for": done.waits_for if is_live else None,
            "error": None if job is None else job.error_message,
        }

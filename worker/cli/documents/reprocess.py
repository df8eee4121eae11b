"""`docworker reprocess`: make texts anew that processors of another version made, or show what that would change."""

from collections.abc import Iterator, Sequence
from difflib import unified_diff
from typing import Any

import click

from docworker.db import ledger
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Placement, PlacementState
from docworker.db.models.ledger.job import LIVE_STATES
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import settings
from docworker.db.tenants.ledgers import ledgers
from docworker.db.tenants.organizations import list_organizations, organization_id_of
from docworker.jobs.kinds import reprocessing
from docworker.jobs.kinds.processing import close_pipeline
from docworker.jobs.kinds.reprocessing import Reprocessed, Tried
from docworker.jobs.pipeline.registry import installed_signature
from docworker.worker.cli.options import ledger_open
from docworker.worker.cli.output import json_option, print_json, print_table
from docworker.worker.printable import printable_lines

EVERYBODY = "all"
_SHOWN_LINES = 40


@click.command(
    epilog="""\b
Examples:
  docworker reprocess --stale --sample 50 --dry-run -o acme    what would change, and how; writes nothing
  docworker reprocess --stale -o acme                          begin, or go on where it stopped
  docworker reprocess --stale -o all
  docworker reprocess --stale --status -o all                  how far it is
  docworker tenants restore acme --to 2026-11-27T14:05:00Z     undo it

\b
Workers do it, one organization at a time, while the servers are not busy. What the new processors fail on keeps its
text; when more than --most-failures do, it stops there and says which. Documents that have failed before are not tried.
"""
)
@click.option("--stale", is_flag=True, required=True, help="Texts that other processors made than are installed.")
@click.option("-o", "--organization", "slug", metavar="SLUG", required=True, help=f"Of this one, or {EVERYBODY!r}.")
@click.option("--dry-run", is_flag=True, help="Only process a sample, here, and show how the texts would change.")
@click.option("--sample", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Documents of each one.")
@click.option("--status", is_flag=True, help="Only show how far it is.")
@click.option("--most-failures", type=click.IntRange(0), help="Of each one; DOCWORKER_REPROCESS_FAILURES if left out.")
@json_option
def reprocess(
    stale: bool,  # noqa: ARG001 - the only choice so far, said so that nobody reprocesses everything by mistake
    slug: str,
    dry_run: bool,
    sample: int,
    status: bool,
    most_failures: int | None,
    as_json: bool,
) -> None:
    """Make texts anew that processors of another version made."""
    with ledger_open("reprocess"):
        organizations = _organizations(slug)
        if dry_run:
            _show_sample(organizations, sample, as_json=as_json)
            return
        signature = installed_signature()
        if not status:
            most = settings().reprocess_failures if most_failures is None else most_failures
            _begin(organizations, signature, most)
        shown = list(_states(organizations, signature))
    if as_json:
        print_json(shown)
    else:
        head = ("organization", "state", "#documents", "#of about", "#changed", "#failed", "waits for", "error")
        print_table(head, (list(one.values()) for one in shown))


def _organizations(slug: str) -> Sequence[Placement]:
    if slug != EVERYBODY:
        organization_id_of(slug)  # which says so if there is none
    found = [one for one in list_organizations() if slug in (EVERYBODY, one.slug)]
    served = [one for one in found if one.state == PlacementState.ACTIVE]
    if found and not served:
        raise InvalidArgumentError(f"{slug!r} is {found[0].state}: nothing is reprocessed until it is active")
    return served


def _begin(organizations: Sequence[Placement], signature: str, most_failures: int) -> None:
    ids = [reprocessing.start(one.organization_id, signature, most_failures=most_failures) for one in organizations]
    kind = reprocessing.reprocess_stale.kind.name
    for place in ledgers() if ids else ():
        with all_jobs_session(*place) as session:
            ledger.retry_failed(session, ledger.Filter(kind=kind), ids)


def _states(organizations: Sequence[Placement], signature: str) -> Iterator[dict[str, Any]]:
    for one in organizations:
        found = reprocessing.progress_of(one.organization_id, signature)
        job, done = found or (None, Reprocessed())
        yield {
            "organization": one.slug,
            "state": None if job is None else job.state,
            "documents": done.documents,
            "estimate": done.estimate,
            "changed": done.changed,
            "failed": done.failed,
            "waits_for": done.waits_for if job is not None and job.state in LIVE_STATES else None,
            "error": None if job is None else job.error_message,
        }


def _show_sample(organizations: Sequence[Placement], most: int, *, as_json: bool) -> None:
    shown: list[dict[str, Any]] = []
    try:
        for one in organizations:
            stale, tried = reprocessing.reprocess_sample(one.organization_id, most=most)
            made = list(tried)
            shown.append(
                {
                    "organization": one.slug,
                    "stale": stale,
                    "sampled": len(made),
                    "change": sum(each.changes for each in made),
                    "failed": sum(each.failure is not None for each in made),
                    "failures": {str(each.document_id): each.failure for each in made if each.failure is not None},
                    "diffs": {str(each.document_id): _diff(each) for each in made if each.changes},
                }
            )
    finally:
        close_pipeline()
    if as_json:
        print_json(shown)
        return
    print_table(
        ("organization", "#stale", "#sampled", "#would change", "#would fail"),
        ([found[name] for name in ("organization", "stale", "sampled", "change", "failed")] for found in shown),
    )
    for found in shown:
        for document_id, reason in found["failures"].items():
            click.echo(printable_lines(f"{document_id} would fail: {reason}"))
        for lines in found["diffs"].values():
            click.echo(printable_lines("\n".join(lines[:_SHOWN_LINES])))


def _diff(tried: Tried) -> list[str]:
    after = tried.after or ""
    names = (f"{tried.document_id} now", f"{tried.document_id} reprocessed")
    return list(unified_diff(tried.before.split("\n"), after.split("\n"), *names, lineterm="", n=1))

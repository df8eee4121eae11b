"""`docworker jobs backlogs`: how many due jobs organizations may have waiting."""

import click

from docworker.db.editing.audit import on_record
from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger.waiting.backlogs import LARGEST
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.tenants import steering
from docworker.db.tenants.organizations import slugs_of
from docworker.worker.cli.jobs.selection import organization_id
from docworker.worker.cli.options import actor, ledger_open
from docworker.worker.cli.output import json_option, print_json, print_table

_organization = click.option(
    "-o", "--organization", "slug", metavar="SLUG", help="This one; else each that has no bound of its own."
)


@click.group(short_help="Bound how many due jobs wait of an organization.")
def backlogs() -> None:
    """Bound how many due jobs an organization may have waiting. Who would enqueue more is refused."""


@backlogs.command("set")
@click.argument("most", type=click.IntRange(1, LARGEST))
@_organization
def set_(most: int, slug: str | None) -> None:
    """At most MOST due jobs wait, give or take what is enqueued within a second."""
    with ledger_open("jobs"):
        owner = organization_id(slug)
        with on_record("backlog_bounded", actor=actor(), subject="job", organization_id=owner, most=most, slug=slug):
            steering.bound_backlog(owner, most)
    click.echo(f"at most {most} due jobs wait of {_whose(slug)}")


@backlogs.command()
@_organization
def remove(slug: str | None) -> None:
    """Take a bound back; an organization without one of its own has that of all again."""
    with ledger_open("jobs"):
        owner = organization_id(slug)
        with on_record("backlog_unbounded", actor=actor(), subject="job", organization_id=owner, slug=slug):
            if not steering.unbound_backlog(owner):
                raise InvalidArgumentError(f"there is no bound for {_whose(slug)}: see `docworker jobs backlogs list`")
    click.echo(f"no bound for {_whose(slug)} any more")


@backlogs.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The bounds, and who is near one: how many jobs were counted last, where it is half of the bound or more."""
    with ledger_open("jobs"):
        found = steering.all_backlogs()
        slugs = slugs_of({one.organization_id for one in found})
    rows = [
        (None if one.organization_id == SYSTEM_ORGANIZATION_ID else slugs.get(one.organization_id), *one[1:])
        for one in found
    ]
    if as_json:
        names = ("organization", "most", "jobs", "bound")
        print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    shown = [(slug or "each", *("" if one is None else one for one in numbers)) for slug, *numbers in rows]
    print_table(("organization", "most", "waiting", "of"), shown)


def _whose(slug: str | None) -> str:
    return "each organization without a bound of its own" if slug is None else slug

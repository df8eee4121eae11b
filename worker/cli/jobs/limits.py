"""`docworker limits`: how many jobs may run at a time, and how often, changed while they run."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import click

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import Rate, rate_of
from docworker.db.ledger.waiting.rates import limit_text, parse_rate, rate_in, rate_text, rate_told
from docworker.db.models import KeyLimit, Limit
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.tenants import steering
from docworker.db.tenants.organizations import slugs_of
from docworker.worker.cli.jobs.record import limit_on_record
from docworker.worker.cli.jobs.selection import organization_id
from docworker.worker.cli.options import ledger_open
from docworker.worker.cli.output import json_option, print_json, print_table
from docworker.worker.kinds import demand_kind


class RateType(click.ParamType[Rate]):
    """`100/minute`, `5/30seconds`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Rate:
        try:
            return parse_rate(str(value))
        except InvalidArgumentError as error:
            self.fail(str(error), param, ctx)


def of_what(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is limited."""
    for option in (
        click.option("--each", "is_each", is_flag=True, help="Of each organization that has no limit of its own."),
        click.option("-o", "--organization", "slug", metavar="SLUG", help="The organization."),
        click.option("--kind", help="The kind of job."),
        click.option("--key", help="A limit key: of one organization, or of each that has no limit of its own for it."),
    ):
        function = option(function)
    return function


@click.group()
def limits() -> None:
    """Show, set and remove limits: of the jobs of a kind, of an organization, of both, or of a key."""


@limits.command("set", short_help="Limit what runs at a time, or how often.")
@of_what
@click.option("--running", "max_running", type=int, metavar="N", help="So many are dispatched or running at a time.")
@click.option("--rate", "given_rate", type=RateType(), metavar="N/PERIOD", help="Such as 100/minute or 5/30seconds.")
@click.option("--burst", type=int, metavar="N", help="So many at once after a pause; as many as the rate's.")
def set_(
    kind: str | None,
    key: str | None,
    slug: str | None,
    is_each: bool,
    max_running: int | None,
    given_rate: Rate | None,
    burst: int | None,
) -> None:
    """Limit jobs from the next look of the dispatcher on; it takes the place of the limit of the same jobs.

    What is dispatched or runs already goes on, and counts.
    """
    if burst is not None and given_rate is None:
        raise click.UsageError("--burst is of a rate: give --rate as well")
    rate = None if given_rate is None else rate_of(given_rate.jobs, given_rate.seconds, burst)
    _demand_something(kind, slug, key, is_each=is_each)
    told = {"kind": kind, "key": key, "each": is_each or None, "running": max_running, **rate_told(rate)}
    with ledger_open("jobs"):
        if kind is not None:
            demand_kind(kind)
        owner = organization_id(slug)
        with limit_on_record("limited", owner, **told):
            if key is not None:
                steering.limit_key(key, organization_id=owner, max_running=max_running, rate=rate)
            else:
                steering.limit(kind=kind, organization_id=owner, is_each=is_each, max_running=max_running, rate=rate)
    click.echo(f"limited {steering.whose(kind, slug, key=key, is_each=is_each)}: {limit_text(max_running, rate)}")


@limits.command(short_help="Take a limit back.")
@of_what
def remove(kind: str | None, key: str | None, slug: str | None, is_each: bool) -> None:
    """Take a limit back; name the same jobs."""
    _demand_something(kind, slug, key, is_each=is_each)
    named = steering.whose(kind, slug, key=key, is_each=is_each)
    with ledger_open("jobs"):
        owner = organization_id(slug)
        with limit_on_record("unlimited", owner, kind=kind, key=key, each=is_each or None):
            if key is not None:
                removed = steering.unlimit_key(key, organization_id=owner)
            else:
                removed = steering.unlimit(kind=kind, organization_id=owner, is_each=is_each)
            if not removed:
                raise InvalidArgumentError(f"there is no limit of {named}")
    click.echo(f"removed the limit of {named}")


@limits.command("list", short_help="List the limits.")
@json_option
def list_(as_json: bool) -> None:
    """List what is limited by this command. The caps of kinds in code (`max_running`) come besides."""
    with ledger_open("jobs"):
        found, of_keys = steering.all_limits(), steering.all_key_limits()
        slugs = slugs_of({one.organization_id for one in found} | {one.organization_id for one in of_keys})
    rows = [_row(one, slugs) for one in found] + [_row_of_key(one, slugs) for one in of_keys]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("organization", "kind", "key", "running", "rate", "burst"),
        (
            [
                row["organization"] or ("each" if row["each"] else "all"),
                row["kind"] or "all",
                row["key"] or "",
                "" if row["running"] is None else row["running"],
                row["rate"] or "",
                row["burst"] or "",
            ]
            for row in rows
        ),
    )


def _demand_something(kind: str | None, slug: str | None, key: str | None, *, is_each: bool) -> None:
    if key is not None and (kind is not None or is_each):
        raise click.UsageError("a key is of jobs of all kinds, and of each organization: leave out --kind and --each")
    if kind is None and slug is None and key is None and not is_each:
        raise click.UsageError("say what to limit: --kind, --organization, both, --each, or --key")


def _row(one: Limit, slugs: dict[UUID, str]) -> dict[str, Any]:
    return _told_of(one, slugs, is_each=one.is_each, kind=one.kind or None, key=None)


def _row_of_key(one: KeyLimit, slugs: dict[UUID, str]) -> dict[str, Any]:
    is_each = one.organization_id == SYSTEM_ORGANIZATION_ID
    return _told_of(one, slugs, is_each=is_each, kind=None, key=one.limit_key)


def _told_of(
    one: Limit | KeyLimit, slugs: dict[UUID, str], *, is_each: bool, kind: str | None, key: str | None
) -> dict[str, Any]:
    is_all = one.organization_id == SYSTEM_ORGANIZATION_ID
    return {
        "organization": None if is_all else slugs.get(one.organization_id, str(one.organization_id)),
        "each": is_each,
        "kind": kind,
        "key": key,
        "running": one.max_running,
        "rate": rate_text(rate_in(one)),
        "burst": one.rate_burst,
        "since": one.updated_at,
    }

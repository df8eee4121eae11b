"""`docworker weights`: whose jobs have how much of the workers' time."""

import click

from docworker.db.editing.audit import on_record
from docworker.db.errors import InvalidArgumentError
from docworker.db.tenants import steering
from docworker.db.tenants.organizations import organization_id_of, slugs_of
from docworker.worker.cli.options import actor, ledger_open
from docworker.worker.cli.output import json_option, print_json, print_table


@click.group()
def weights() -> None:
    """Weigh organizations against each other.

    When the jobs of several organizations on a cluster wait, each gets its share of the workers' time by its weight;
    all have 1 unless it is set here. A change takes effect with the dispatcher's next look.
    """


@weights.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the organizations that have a weight of their own."""
    with ledger_open("jobs"):
        found = steering.all_weights()
        slugs = slugs_of(found)
    rows = sorted((slugs.get(one, str(one)), weight) for one, weight in found.items())
    if as_json:
        print_json([{"organization": slug, "weight": weight} for slug, weight in rows])
        return
    print_table(("organization", "weight"), ((slug, f"{weight:g}") for slug, weight in rows))


@weights.command("set")
@click.argument("slug", metavar="ORGANIZATION")
@click.argument("weight", type=float)
def set_(slug: str, weight: float) -> None:
    """Give an organization a weight, from 0.01 to 100."""
    _weigh(slug, weight)
    click.echo(f"{slug} has the weight {weight:g}")


@weights.command()
@click.argument("slug", metavar="ORGANIZATION")
def remove(slug: str) -> None:
    """Let an organization have the weight 1 again, like all."""
    _weigh(slug, None)
    click.echo(f"{slug} has the weight 1, like all")


def _weigh(slug: str, weight: float | None) -> None:
    with ledger_open("jobs"):
        owner = organization_id_of(slug)
        with on_record("weighed", actor=actor(), subject="organization", organization_id=owner, weight=weight):
            if not steering.weigh(owner, weight):
                raise InvalidArgumentError(f"{slug} has no weight of its own")

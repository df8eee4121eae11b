"""`docworker check`: whether an installation is as it must be."""

import click

from docworker.worker.cli.output import json_option, print_json, print_table, quiet_logs
from docworker.worker.tenants.isolation import check_isolation


@click.group()
def check() -> None:
    """Prove what an installation promises, on its servers."""


@check.command()
@json_option
def isolation(as_json: bool) -> None:
    """Find what would let one organization see another's rows: exit code 1 when there is anything.

    Looks at every database of every cluster, as its owner.
    """
    quiet_logs()
    findings = check_isolation()
    if as_json:
        print_json([finding._asdict() for finding in findings])
    elif findings:
        print_table(("cluster", "database", "what", "fault"), findings)
    else:
        click.echo("every table is isolated")
    if findings:
        raise SystemExit(1)

"""`docworker check`: whether an installation is as it must be."""

import click

from docworker.db.invariants.audit import Audit
from docworker.worker.cli.options import database_open
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


@check.command()
@json_option
def invariants(as_json: bool) -> None:
    """Find what must not be of documents and jobs, in every organization: exit code 1 when there is anything.

    Reads from replicas where there are any, a page at a time, and waits while the servers are busy. What the scheduled
    job `audit_invariants` looks at, it looks at now.
    """
    audit = Audit()
    with database_open("check"):
        audit.run()
    done = audit.done
    count = sum(done.violations.values())
    if as_json:
        print_json(done.result)
    elif count:
        print_table(("invariant", "organization", "what", "fault"), [tuple(one.values()) for one in done.found])
    else:
        click.echo(f"every invariant holds: {len(done.violations)} of them, {done.rows:,} rows")
    if count > len(done.found):
        click.echo(f"these are {len(done.found)} of {count}", err=True)
    for one in done.skipped:
        click.echo(f"{one} was not looked at: it does not answer, or something is wrong with it (see above)", err=True)
    if count or done.skipped:
        raise SystemExit(1)

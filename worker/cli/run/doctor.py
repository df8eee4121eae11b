"""`docworker doctor`, `docworker config`: what is wrong with an installation, and which settings are in force."""

from collections.abc import Sequence

import click

from docworker.db.settings import settings
from docworker.worker.app import celery_app
from docworker.worker.cli.output import json_option, print_json, print_table, quiet_logs
from docworker.worker.doctor.configuration import settings_in_force
from docworker.worker.doctor.examination import Part, examine


@click.command(
    epilog="""\b
Exit codes: 0 nothing, or warnings alone; 1 an error was found."""
)
@json_option
def doctor(as_json: bool) -> None:
    """Look at settings, servers, roles, schema, replication, broker, store and this machine, and say what is wrong.

    Run it where a worker runs, with the settings that it has. DOCWORKER_OWNER_URL and DOCWORKER_DISPATCHER_URL let it
    see more. It changes nothing.
    """
    quiet_logs()
    parts = []
    for part in examine(settings(), celery_app()):
        parts.append(part)
        if not as_json:
            click.echo(f"{part.name}: {_summary(part)}")
    findings = [one for part in parts for one in part.findings]
    if as_json:
        print_json(
            {
                "findings": [one._asdict() for one in findings],
                "examined": [one.name for one in parts if one.skipped is None],
                "skipped": {one.name: one.skipped for one in parts if one.skipped is not None},
            }
        )
    elif findings:
        click.echo()
        print_table(("level", "what", "fault", "what to do"), findings)
    if any(one.has_errors for one in parts):
        raise click.exceptions.Exit(1)


def _summary(part: Part) -> str:
    if part.skipped is not None:
        return f"not looked at: {part.skipped}"
    levels = [str(one.level) for one in part.findings]
    return ", ".join(_counted(levels, level) for level in ("error", "warning") if level in levels) or "well"


def _counted(levels: Sequence[str], level: str) -> str:
    count = levels.count(level)
    return f"{count} {level}{'s' if count > 1 else ''}"


@click.command()
@json_option
@click.option("--given", is_flag=True, help="Only those that were given.")
def config(as_json: bool, given: bool) -> None:
    """Print the settings in force, without passwords.

    Each is an environment variable; the local stack that runs in this directory gives some of them.
    """
    shown = [one for one in settings_in_force(settings()) if one.is_given or not given]
    if as_json:
        print_json([{"name": one.name, "value": one.value, "given": one.is_given} for one in shown])
    else:
        print_table(("setting", "value", "from"), [(*one[:2], "given" if one.is_given else "default") for one in shown])

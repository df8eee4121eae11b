"""`docworker enqueue`: put one job of any kind into the ledger."""

from uuid import UUID

import click

from docworker.db.ledger.schedules import master_time
from docworker.db.sessions import writing
from docworker.jobs.enqueue import enqueue_many
from docworker.worker.app import celery_app
from docworker.worker.cli.jobs.arguments import keys_and_values
from docworker.worker.cli.jobs.selection import duration, organization_id
from docworker.worker.cli.options import database_open, organization_option
from docworker.worker.cli.output import json_option, print_json
from docworker.worker.kinds import known_kind


@click.command(
    epilog="""\b
Examples:
  docworker enqueue process_document document_id=0198... -o acme
  docworker enqueue process_folder folder_id=0198... -o acme --priority 8
  docworker enqueue process_organization -o acme --delay 30m
\b
Values are read as JSON where they are JSON, else as text: pages=3 is a number, pages='"3"' a text.
Prints the job's id. The organization `system` is the one of the scheduled jobs."""
)
@click.argument("kind")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@organization_option
@click.option("--priority", type=click.IntRange(0, 9), help="0 is first, 9 last.")
@click.option("--delay", metavar="AGE", help="Not before this has passed: 90s, 15m, 6h, 2d.")
@click.option("--unique-key", help="Fold into a waiting job with the same key.")
@click.option("--max-attempts", type=click.IntRange(1), help="Attempts before the job fails.")
@click.option("--id", "job_id", type=click.UUID, help="The job's id: the same id again is the same job.")
@json_option
def enqueue(
    kind: str,
    arguments: tuple[str, ...],
    slug: str,
    priority: int | None,
    delay: str | None,
    unique_key: str | None,
    max_attempts: int | None,
    job_id: UUID | None,
    as_json: bool,
) -> None:
    """Enqueue one job of KIND for an organization. A running dispatcher and worker carry it out."""
    given = keys_and_values(arguments)
    task = celery_app().tasks[known_kind(kind).name]
    wait = None if delay is None else duration(delay)
    with database_open("enqueue"), writing(organization_id(slug)) as session:
        (entered,) = enqueue_many(
            session,
            task,
            [given],
            run_at=None if wait is None else master_time(session) + wait,
            priority=priority,
            unique_keys=None if unique_key is None else [unique_key],
            max_attempts=max_attempts,
            ids=None if job_id is None else [job_id],
        )
    if as_json:
        print_json({"id": entered, "kind": kind})
    else:
        click.echo(str(entered))

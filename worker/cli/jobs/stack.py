"""`docworker jobs stack`: where in its code a running job is."""

from uuid import UUID

import click

from docworker.db import ledger
from docworker.db.errors import DocworkerError, InvalidArgumentError
from docworker.db.models import JobState
from docworker.db.sessions import all_jobs_session
from docworker.worker.cli.options import ledger_open
from docworker.worker.cli.output import json_option, print_json
from docworker.worker.printable import printable_lines

_ANSWER_SECONDS = 10.0


@click.command(short_help="Show where in its code a running job is.")
@click.argument("job_id", type=click.UUID)
@json_option
def stack(job_id: UUID, as_json: bool) -> None:
    """Show the stack of each thread of the process that runs a job: files, lines and functions, no values.

    The worker is asked by way of the broker, and the job goes on; one that occupies its interpreter tells as well. Of a
    job that waits for a parser or for Tesseract, it shows that it waits.
    """
    # `docworker jobs list` and the others, which load this module as well, need no Celery.
    from docworker.worker.app import celery_app  # noqa: PLC0415
    from docworker.worker.consumer.stacks import ask_stack  # noqa: PLC0415

    with ledger_open("jobs"), all_jobs_session() as session:
        job = ledger.get(session, job_id)
    if job.state != JobState.RUNNING or job.claimed_by is None:
        raise InvalidArgumentError(
            f"the job {job_id} does not run: it is {job.state}; see `docworker jobs why {job_id}`"
        )
    text = ask_stack(celery_app(), job.claimed_by, timeout_seconds=_ANSWER_SECONDS)
    if text is None:
        raise DocworkerError(
            f"{job.claimed_by} has not answered within {_ANSWER_SECONDS:g} s: its worker is gone, cut off from the "
            "broker, of a release before this command, or runs jobs in its main process (the pool solo)"
        )
    if as_json:
        print_json({"job_id": job_id, "process": job.claimed_by, "stack": text.splitlines()})
    else:
        click.echo(f"{job.kind}, attempt {job.attempt}, on {job.claimed_by}\n")
        click.echo(printable_lines(text.rstrip()))

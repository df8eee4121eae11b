"""`docworker jobs why`: what a job waits for, and about for how long."""

from uuid import UUID

import click

from docworker.db import ledger
from docworker.db.ledger.telling.forecast import seconds_text
from docworker.db.ledger.telling.processes import processes
from docworker.db.ledger.telling.why import why as ask_why
from docworker.db.sessions import all_jobs_session
from docworker.worker.cli.options import ledger_open
from docworker.worker.cli.output import json_option, print_json
from docworker.worker.printable import printable


@click.command(short_help="Say what a job waits for.")
@click.argument("job_id", type=click.UUID)
@json_option
def why(job_id: UUID, as_json: bool) -> None:
    """Say what a job waits for, the most important reason first, and about when it will have run.

    It is the dispatcher's own way to decide, asked with what is under way now; the forecast is an estimate.
    """
    with ledger_open("jobs"), all_jobs_session() as session:
        answer = ask_why(session, ledger.get(session, job_id), processes(session))
    if as_json:
        print_json(answer)
        return
    for reason in answer.reasons:
        click.echo(printable(f"{reason.code}: {reason.text}"))
        for holder in reason.details.get("held_by", ()):
            click.echo(printable(f"  {holder['job']} {holder['state']} {holder['worker'] or ''}".rstrip()))
    if answer.forecast is not None:
        what = "ended" if answer.state == "running" else "begun"
        about = seconds_text(answer.forecast.seconds)
        click.echo(printable(f"forecast: {what} in about {about}, an estimate: {answer.forecast.basis}"))

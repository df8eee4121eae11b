"""`docworker schedule`: what is done regularly, when it was last due and when it is due next."""

import click

from docworker.db.sessions import all_jobs_session
from docworker.jobs.task import known_kinds
from docworker.worker.app import celery_app
from docworker.worker.beat.loop import ScheduleState, states
from docworker.worker.cli.options import database_open
from docworker.worker.cli.output import json_option, print_json, print_table


@click.command()
@json_option
def schedule(as_json: bool) -> None:
    """Show what is scheduled, when it last fired and when it fires next.

    Asks the ledger as DOCWORKER_DISPATCHER_URL; beat need not be running. A schedule that fell due while no beat ran
    is made up once, when one starts.

    \b
    Example:
      docworker schedule --json
    """
    with database_open("schedule"), all_jobs_session() as session:
        found = states(session, known_kinds(celery_app()))
    if as_json:
        print_json(
            [
                {
                    "schedule": one.schedule.name,
                    "when": str(one.schedule.when),
                    "kind": one.schedule.kind,
                    "arguments": dict(one.schedule.arguments),
                    "last_due_at": one.last_due_at,
                    "last_fired_at": one.last_fired_at,
                    "last_job_id": one.last_job_id,
                    "next_due_at": one.next_due_at,
                    "ahead_due_at": one.ahead_due_at,
                    "problem": one.problem,
                }
                for one in found
            ]
        )
        return
    print_table(
        ("schedule", "when (UTC)", "kind", "last due", "last fired", "next due", "problem"),
        [
            (
                one.schedule.name,
                one.schedule.when,
                one.schedule.kind,
                one.last_due_at,
                one.last_fired_at,
                one.next_due_at,
                _problem(one),
            )
            for one in found
        ],
    )


def _problem(state: ScheduleState) -> str | None:
    if state.problem is None and state.ahead_due_at is not None:
        return f"ticks up to {state.ahead_due_at:%Y-%m-%d %H:%M} have fired: the master's clock was wrong"
    return state.problem

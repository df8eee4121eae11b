"""`docworker status`: which processes of the installation live, and what they do."""

from collections.abc import Sequence
from typing import Any

import click

from docworker.db.ledger.telling.processes import ProcessState, processes
from docworker.db.sessions import all_jobs_session
from docworker.db.tenants import steering
from docworker.worker.cli.options import database_open
from docworker.worker.cli.output import json_option, print_json, print_table

_COLUMNS = ("process", "state", "host", "#pid", "release", "since", "#kinds", "#processes", "#running", "remarks")
_NEEDED = {"worker": "no worker lives: jobs are not run", "dispatcher": "no dispatcher lives: jobs are not sent"}


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show the workers, dispatchers and beats that have said within five minutes that they live.

    Each says so every ten seconds in home's ledger; one that has been silent for 35 seconds is taken for dead. The exit
    code is 1 when no worker or no dispatcher lives. Connects as DOCWORKER_DISPATCHER_URL.
    """
    with database_open("status"):
        with all_jobs_session() as session:
            found = processes(session)
        paused = len(steering.all_pauses())
    missing = [role for role in _NEEDED if not any(one.role == role and one.lives for one in found)]
    if as_json:
        shown = [_as_dict(one) for one in found]
        print_json({"processes": shown, "missing": missing, "pauses": paused})
    else:
        print_table(_COLUMNS, map(_row, found))
        for role in missing:
            click.echo(_NEEDED[role])
        for remark in _remarks_on(found, paused):
            click.echo(remark)
    if missing:
        raise click.exceptions.Exit(1)


def _as_dict(one: ProcessState) -> dict[str, Any]:
    return {
        "id": one.id,
        "role": one.role,
        "lives": one.lives,
        "host": one.host,
        "pid": one.process_id,
        "release": one.release,
        "started_at": one.started_at,
        "silent_seconds": round(one.silent_seconds, 1),
        **one.details,
    }


def _row(one: ProcessState) -> tuple[Any, ...]:
    details = one.details
    return (
        one.role,
        _state(one),
        one.host,
        one.process_id,
        one.release,
        one.started_at,
        len(one.kinds),
        details.get("processes"),
        details.get("running"),
        details.get("failure"),
    )


def _state(one: ProcessState) -> str:
    if not one.lives:
        return f"silent for {one.silent_seconds:.0f} s"
    return "stopping" if one.details.get("stopping") else "lives"


def _remarks_on(found: Sequence[ProcessState], paused: int) -> list[str]:
    remarks = []
    living = [one for one in found if one.lives]
    if len(releases := sorted({one.release for one in living})) > 1:
        remarks.append(f"several releases run: {', '.join(releases)}")
    workers = {one.id: one.kinds for one in living if one.role == "worker"}
    everywhere = frozenset.intersection(*workers.values()) if workers else frozenset()
    if partly := sorted(frozenset().union(*workers.values()) - everywhere):
        remarks.append(f"not every worker knows {', '.join(partly[:10])}")
    if paused:
        remarks.append(f"paused: {paused}, see `docworker jobs paused`")
    return remarks

"""`docworker status`: which processes of the installation live, what they do, and how the servers are."""

from typing import Any

import click

from docworker.db.cluster.health import ServerHealth
from docworker.db.ledger.telling.processes import ProcessState
from docworker.db.tenants.installation import ClusterState, Installation, InstallationWatch, RunningJob
from docworker.worker.cli.options import ledger_open
from docworker.worker.cli.output import json_option, print_json, print_table

_COLUMNS = ("process", "state", "host", "#pid", "release", "since", "#kinds", "#processes", "#running", "remarks")
_SERVERS = ("server", "state", "#lag s", "#sessions", "of", "size", "oldest snapshot", "remarks")


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show the workers, dispatchers and beats that have said within five minutes that they live, and the servers.

    Each says so every ten seconds in home's ledger; one that has been silent for 35 seconds is taken for dead. The exit
    code is 1 when no worker or no dispatcher lives. Connects as DOCWORKER_DISPATCHER_URL, and asks the servers of all
    clusters as this machine sees them.
    """
    with ledger_open("status"):
        found = InstallationWatch().look()
    if as_json:
        print_json(_as_dict(found))
    else:
        print_table(_COLUMNS, map(_row, found.processes))
        print_table(_SERVERS, (row for cluster in found.clusters for row in _rows_of(cluster)))
        for remark in found.remarks:
            click.echo(remark)
    if found.missing:
        raise click.exceptions.Exit(1)


def _as_dict(found: Installation) -> dict[str, Any]:
    return {
        "processes": [_process_as_dict(one, found.running.get(one.id, [])) for one in found.processes],
        "missing": found.missing,
        "pauses": found.pauses,
        "clusters": found.clusters,
    }


def _process_as_dict(one: ProcessState, running: list[RunningJob]) -> dict[str, Any]:
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
        "runs": running,
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


def _rows_of(cluster: ClusterState) -> list[tuple[Any, ...]]:
    return [_row_of(cluster, one) for one in cluster.servers]


def _row_of(cluster: ClusterState, server: ServerHealth) -> tuple[Any, ...]:
    name = f"{cluster.name} {server.role}"
    lag = None if server.lag_seconds is None else f"{server.lag_seconds:.1f}"
    state = "used" if server.healthy else "not used"
    if server.role != "master" or cluster.fault is not None:
        return (name, state, lag, None, None, None, None, server.reason or cluster.fault)
    oldest = f"{cluster.holders[0].seconds:.0f} s, {cluster.holders[0].who}" if cluster.holders else None
    size = f"{cluster.size_bytes / 1e9:.2f} GB"
    return (name, state, lag, cluster.sessions, cluster.most_connections, size, oldest, server.reason)

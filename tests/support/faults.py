"""What befalls the servers of a local stack in tests: they freeze, lag, are promoted, fail over, forget all."""

import json
import signal

from docworker.db.settings import HOME
from docworker.worker.local.cluster import LocalCluster
from docworker.worker.local.launching import children, run_tool, signal_all, wait_until
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.servers.server import Server
from docworker.worker.local.servers.valkey import ValkeyServer
from docworker.worker.local.stack import LocalStack


def freeze(server: Server) -> None:
    """Stop all of the server's processes in their tracks: it accepts connections and never answers."""
    _signal(server, signal.SIGSTOP)


def thaw(server: Server) -> None:
    """Undo `freeze`; nothing happens to a server that was not frozen."""
    if server.running:
        _signal(server, signal.SIGCONT)


def _signal(server: Server, number: signal.Signals) -> None:
    assert server.pid is not None, f"{server.name} does not run"
    signal_all([server.pid, *children(server.pid)], number)


def flush(broker: ValkeyServer) -> None:
    """Lose every message and everything else the broker knows."""
    with broker.connect() as client:
        client.flushall()


def pause_replay(replica: PostgresServer) -> None:
    """Stop applying WAL on this replica (it is still received); returns when it has stopped."""
    replica.execute("SELECT pg_wal_replay_pause()")
    wait_until(
        lambda: replica.execute("SELECT pg_get_wal_replay_pause_state()")[0][0] == "paused",
        what=f"{replica.name} pauses its replay",
        within_seconds=20,
    )


def resume_replay(replica: PostgresServer) -> None:
    """Apply WAL again."""
    replica.execute("SELECT pg_wal_replay_resume()")


def promote(replica: PostgresServer, *, within_seconds: int = 30) -> None:
    """Make this running replica a master, on a new timeline; returns when it takes writes."""
    (promoted,) = replica.execute("SELECT pg_promote(true, %s)", [within_seconds])[0]
    assert promoted, f"{replica.name} was not promoted within {within_seconds} s: see {replica.log_path}"
    replica._primary = None


def environment_of_any_master(stack: LocalStack) -> dict[str, str]:
    """The stack's settings with addresses of each master that name every server of its cluster and ask for the one
    that takes writes: they survive a failover."""
    values = stack.environment()
    for name in ("OWNER", "MASTER", "DISPATCHER"):
        setting = f"DOCWORKER_{name}_URL"
        values[setting] = _of_any_master(values[setting], stack.clusters[HOME])
    others = json.loads(values.get("DOCWORKER_CLUSTERS", "{}"))
    for cluster, addresses in others.items():
        for name in ("owner_url", "master_url", "dispatcher_url"):
            addresses[name] = _of_any_master(addresses[name], stack.clusters[cluster])
    return values | ({"DOCWORKER_CLUSTERS": json.dumps(others)} if others else {})


def _of_any_master(url: str, cluster: LocalCluster) -> str:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in (cluster.master, *cluster.replicas))
    head, _, tail = url.rpartition("@")
    return f"{head}@{hosts}/{tail.partition('/')[2]}?target_session_attrs=read-write"


def failover(stack: LocalStack, to: PostgresServer | None = None, *, at: str = HOME) -> PostgresServer:
    """Kill the master of a cluster, promote a replica, let the others follow it; returns the former master.

    Bring that one back with `rejoin`, or with its own `start` for an old master that does not know.
    """
    cluster = stack.clusters[at]
    former, chosen = cluster.master, to or cluster.replicas[0]
    former.kill()
    promote(chosen)
    cluster._state.masters[at] = chosen.name
    cluster._state.save(stack._home)
    cluster._following.remove(chosen.name)
    for replica in cluster.replicas:
        replica.follow(chosen)
    stack._write_environment()
    return former


def rejoin(stack: LocalStack, former: PostgresServer, *, at: str = HOME) -> None:
    """Rewind a former master and make it a replica of the present one."""
    cluster = stack.clusters[at]
    _rewind(former, cluster.master)
    cluster._following.append(former.name)
    stack._write_environment()
    cluster._await_streaming(former)


def _rewind(former: PostgresServer, primary: PostgresServer) -> None:
    """Throw away what `primary` never got."""
    former.stop()
    # The control file, by which pg_rewind knows the new timeline, is written with the first checkpoint on it.
    primary.execute("CHECKPOINT")
    former._write_config()
    run_tool(
        [
            *(former._programs / "pg_rewind", "--target-pgdata", former.data),
            *("--source-server", primary.tool_conninfo(), "--config-file", former._config_path),
            *([] if former._durable else ["--no-sync"]),
        ],
        user=former.user,
        environment=former._tool_environment(),
    )
    former.follow(primary)
    former.start()
    former.drop_slots()

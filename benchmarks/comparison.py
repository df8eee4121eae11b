"""`compare`: docworker's batches against the usual way, closely, and the rates of all peers, in the same turns."""

import time
from collections.abc import Sequence

from benchmarks.kinds import normalize_document
from benchmarks.peers import PEERS, load
from benchmarks.peers.docworker import enqueue
from benchmarks.peers.peer import Peer
from benchmarks.report import print_comparison, print_cpu, print_peers, ratio
from benchmarks.servers import BenchmarkError
from benchmarks.turns import Load, take_turns
from docworker.db.models.base import new_id
from docworker.db.tenants.organizations import create_organization
from docworker.worker.local.stack import LocalStack

USUAL, OURS = SIDES = ("usual", "docworker-batches")


def compare(
    servers: LocalStack,
    names: Sequence[str],
    *,
    turns: int,
    jobs: int | None,
    documents: int,
    singles: int,
    cpu: bool,
) -> float | None:
    """Measure these peers, and both sides of the comparison if `documents` is more than 0; print everything but the
    ratio of the sides, and return that.

    Raises BenchmarkError when one of the sides did not get through.
    """
    loads: dict[str, tuple[Peer, Load]] = {}
    missing: dict[str, str] = {}
    sides = SIDES if documents else ()
    for name in (one for one in PEERS if one in (*sides, *names)):
        try:
            peer = load(name)
        except BenchmarkError as error:
            missing[name] = str(error)
            continue
        noops = (jobs or peer.noops) if name in names else 0
        one = Load(noops, documents, singles) if name in sides else Load(noops, jobs or peer.documents)
        loads[name] = peer, one
    measured, failures = take_turns(servers, loads, turns)
    if sides:
        for side in sides:
            if side in failures:
                raise BenchmarkError(f"{side}: {failures[side]}")
        print_comparison(measured[USUAL], measured[OURS], enqueue_rate(documents), documents)
    if cpu:
        print_cpu(measured)
    print_peers(names, measured, missing | failures)
    return ratio(measured[USUAL], measured[OURS]) if sides else None


def enqueue_rate(count: int) -> float:
    """Jobs a second that one producer enters, 1,000 a transaction, with nobody dispatching."""
    organization_id = create_organization(f"enqueue-{new_id().hex}")
    rows = [{"document_id": new_id()} for _ in range(count)]
    started = time.perf_counter()
    enqueue(normalize_document, organization_id, rows)
    return count / (time.perf_counter() - started)

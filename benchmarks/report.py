"""What a run prints: the table against the usual way, CPU by process, and a line for each system."""

import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence

from benchmarks.turns import Measured

ROLES = ("producer", "dispatcher", "parent", "keeper", "children", "broker", "backends", "master's others", "replica")


def print_comparison(usual: Measured, ours: Measured, enqueue_rate: float, documents: int) -> None:
    """Medians of the turns; memory is that of the last turn's worker at the end of it."""
    print(f"{documents} documents of 4 KB a turn, 2 worker processes, {os.cpu_count()} cores")
    print(f"{'':34}{'usual':>12}{'docworker':>12}{'ratio':>9}")
    _print_row("documents per second", usual.document_rate, ours.document_rate, ratio(usual, ours))
    one, other = (statistics.median(side.enqueue_rates) for side in (usual, ours))
    _print_row("enqueued per second", one, other, other / one)
    if usual.latencies and ours.latencies:
        for name, share in (("median", 0.5), ("99 %", 0.99)):
            one, other = (at_share(side.latencies, share) * 1e3 for side in (usual, ours))
            _print_row(f"one document, {name}, ms", one, other, other / one)
    if usual.log and ours.log:
        one, other = (statistics.median(side.log) for side in (usual, ours))
        _print_row("MB of log for each MB of text", one, other, other / one)
    for role in ("parent", "keeper", "children"):
        one, other = (side.memory[-1].get(role, 0) / 1e6 for side in (usual, ours))
        _print_row(f"{role}, MB at the end", one, other)
    print(f"{'enqueue_many alone, per second':34}{'':>12}{enqueue_rate:>12,.0f}")


def ratio(usual: Measured, ours: Measured) -> float:
    """How many times the usual way's rate ours is: the median over the turns, each side by side."""
    return statistics.median(one / other for one, other in zip(ours.document_rates, usual.document_rates, strict=True))


def at_share(values: Sequence[float], share: float) -> float:
    """The smallest of the values that so large a share of them does not exceed (nearest rank)."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _print_row(name: str, usual: float, ours: float, ratio: float | None = None) -> None:
    print(f"{name:34}{usual:>12,.1f}{ours:>12,.1f}" + ("" if ratio is None else f"{ratio:>9.2f}"))


def print_cpu(measured: Mapping[str, Measured]) -> None:
    """CPU milliseconds a job, medians of the turns."""
    print(f"{'CPU, ms per job':27}" + "".join(f"{role:>17}" for role in (*ROLES, "together")))
    for name, one in measured.items():
        for shape, turns in (("noop", one.noop_cpu), ("document", one.document_cpu)):
            if turns:
                use = [statistics.median(turn.get(role, 0) for turn in turns) * 1e3 for role in ROLES]
                print(f"{name + ' ' + shape:27}" + "".join(f"{each:>17.3f}" for each in (*use, sum(use))))


def print_peers(names: Sequence[str], measured: Mapping[str, Measured], failures: Mapping[str, str]) -> None:
    """One line each: jobs a second of both shapes, or why there are none."""
    for name in names:
        if name in failures:
            reason, _, log = failures[name].partition("\n")
            print(f"peer {name} left out: {reason}")
            print(log, end="", file=sys.stderr)
        else:
            print(f"peer {name} noop {measured[name].noop_rate:.0f} document {measured[name].document_rate:.0f}")

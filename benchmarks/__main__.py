"""`python -m benchmarks`: everything in one run on the local stack. Rates are jobs or documents per second.

Without options: docworker against the usual way, and one line for each queue that is installed, `peer NAME noop R
document R`; the last line is `ratio N.N`. Or one of the longer runs instead: --tenants, --endurance, --held-snapshot,
--tree, --search, --files, --console, --traces.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

import structlog

from benchmarks.servers import BenchmarkError, running_stack
from docworker.db.settings import settings
from docworker.worker.local.stack import LocalStack


def main() -> None:
    asked = arguments()
    os.environ["DOCWORKER_BATCH_SIZE"] = str(asked.batch)
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    try:
        with running_stack(asked.kept) as servers:
            ratio = run(servers, asked)
    except BenchmarkError as error:
        sys.exit(str(error))
    if ratio is not None:
        print(f"ratio {ratio:.1f}")


def run(servers: LocalStack, asked: argparse.Namespace) -> float | None:
    """What was asked for; returns the ratio to the usual way if that was measured."""
    # Imported here: the modules of queues read the addresses of the running stack.
    if asked.tenants:
        from benchmarks.tenants import compare_tenants

        compare_tenants(
            servers,
            asked.tenants,
            asked.jobs_per_tenant,
            steered=asked.steered,
            document=asked.document,
            deadline_seconds=asked.deadline,
        )
    elif asked.endurance:
        from benchmarks.endurance import endure

        endure(servers, asked.endurance, asked.document)
    elif asked.held_snapshot:
        from benchmarks.endurance import hold_snapshot

        hold_snapshot(servers, asked.held_snapshot * 60, one_by_one=asked.one_by_one, dead=asked.dead)
    elif asked.tree:
        from benchmarks.trees import measure_tree

        measure_tree(servers, asked.tree)
    elif asked.search:
        from benchmarks.search import measure_search

        measure_search(servers, asked.search)
    elif asked.files:
        from benchmarks.files import measure_files

        measure_files(servers, asked.files)
    elif asked.console:
        from benchmarks.console.pages import measure_console

        measure_console(servers, asked.console, asked.pictures)
    elif asked.traces:
        from benchmarks.traces import measure_traces

        measure_traces(servers, asked.traces, asked.turns)
    else:
        from benchmarks.comparison import compare

        return compare(
            servers,
            asked.peers,
            turns=asked.turns,
            jobs=asked.jobs,
            documents=asked.documents,
            singles=asked.singles,
            cpu=asked.cpu,
        )
    return None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=positive, default=3, help="of each system, one after the other (%(default)s)")
    parser.add_argument(
        "--documents", type=int, default=8000, help="a turn, ours and the usual way; 0: peers only (%(default)s)"
    )
    parser.add_argument("--singles", type=int, default=100, help="a turn, one by one on an idle system (%(default)s)")
    parser.add_argument("--batch", type=positive, default=settings().batch_size, help="jobs a message (%(default)s)")
    parser.add_argument("--cpu", action="store_true", help="CPU milliseconds per job by process")
    parser.add_argument("--peers", type=names, default=names("all"), help="a,b, or none (all that are installed)")
    parser.add_argument("--jobs", type=positive, help="a turn, of each peer and shape (a number that suits each)")
    parser.add_argument("--tenants", type=positive, help="so many at once, against ten with as many jobs together")
    parser.add_argument("--jobs-per-tenant", type=positive, default=1, help="with --tenants (%(default)s)")
    parser.add_argument("--steered", action="store_true", help="--tenants: with weights and limits of few, and of each")
    parser.add_argument("--document", action="store_true", help="--tenants, --endurance: a document a job, not nothing")
    parser.add_argument("--deadline", type=float, default=120, help="seconds for each part of --tenants (%(default)g)")
    parser.add_argument("--endurance", type=positive, metavar="JOBS", help="rates and memory at each tenth of these")
    parser.add_argument(
        "--held-snapshot", type=float, metavar="MINUTES", help="so long with one, a fifth of it without"
    )
    parser.add_argument("--one-by-one", action="store_true", help="--held-snapshot: a kind that takes no batches")
    parser.add_argument("--dead", type=int, default=0, help="--held-snapshot: with one, as after so many jobs (0)")
    parser.add_argument("--tree", type=positive, metavar="CHILDREN", help="a job with so many, and a chain of jobs")
    parser.add_argument("--search", type=positive, metavar="DOCUMENTS", help="searches among so many of 50 tenants")
    parser.add_argument("--files", type=Path, metavar="DIR", help="reading, importing and processing what is in there")
    parser.add_argument("--console", type=positive, metavar="JOBS", help="each page of the console, among so many")
    parser.add_argument("--traces", type=positive, metavar="JOBS", help="so many with nobody tracing, and traced")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="--console: leave pictures of the pages there")
    parser.add_argument(
        "--kept",
        type=Path,
        metavar="DIRECTORY",
        help="--search, --console: with the servers there, and what earlier runs entered",
    )
    return parser.parse_args()


def positive(value: str) -> int:
    if int(value) < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {value}")
    return int(value)


def names(value: str) -> list[str]:
    from benchmarks.peers import PEERS

    chosen = {"all": list(PEERS), "none": []}.get(value, value.split(","))
    unknown = sorted(set(chosen) - set(PEERS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return chosen


if __name__ == "__main__":
    main()

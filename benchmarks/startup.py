"""`python -m benchmarks.startup`: how long commands take to start, beside what importing their libraries alone takes.

A command and a program that imports what it imports of others, and nothing of ours, take turns: a slow phase of the
machine meets both. Told are medians of whole processes, with their interpreters, by the clock and in CPU.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

NOWHERE = {
    "DOCWORKER_MASTER_URL": "postgresql://docworker_worker@127.0.0.1:1/docworker",
    "DOCWORKER_REPLICA_URLS": "",
}
COMMANDS = (("--help",), ("search", "--help"), ("search", "words", "-o", "acme"))
"""The last one fails: there is no database."""
RUN = "from docworker.worker.cli import main; main(prog_name='docworker')"
LIST_LIBRARIES = f"""
import sys
try:
    {RUN}
finally:
    for name, module in sys.modules.items():
        if "site-packages" in (getattr(module, "__file__", None) or "") and not name.startswith("__editable__"):
            print(name, file=sys.stderr)
"""
IMPORT = "import sys; from importlib import import_module; [import_module(name) for name in sys.argv[1:]]"


@dataclass(frozen=True)
class Start:
    """What one process took, in seconds."""

    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20, help="of each command (default: %(default)s)")
    turns = parser.parse_args().turns
    print(f"{'docworker …':24} {'libraries':>10} {'command':>10} {'ratio':>7} {'ratio of CPU':>14}")
    for command in COMMANDS:
        print(compared(command, turns))


def compared(command: Sequence[str], turns: int) -> str:
    """The line of a command."""
    libraries = libraries_of(command)
    alone, whole = [], []
    for _ in range(turns):
        alone.append(start(IMPORT, libraries))
        whole.append(start(RUN, command))
    wall = [statistics.median(one.wall for one in runs) for runs in (alone, whole)]
    cpu = [statistics.median(one.cpu for one in runs) for runs in (alone, whole)]
    return (
        f"{' '.join(command):24} {1000 * wall[0]:>7.0f} ms {1000 * wall[1]:>7.0f} ms "
        f"{wall[1] / wall[0]:>7.2f} {cpu[1] / cpu[0]:>14.2f}"
    )


def libraries_of(command: Sequence[str]) -> list[str]:
    """The modules of others that a command imports, in the order in which it does."""
    done = subprocess.run(
        [sys.executable, "-c", LIST_LIBRARIES, *command],
        env={**os.environ, **NOWHERE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return [line for line in done.stderr.splitlines() if line.replace(".", "").isidentifier()]


def start(program: str, arguments: Sequence[str]) -> Start:
    """Run a program to its end, however it ends."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **NOWHERE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Start(time.perf_counter() - begun, usage.ru_utime + usage.ru_stime)


if __name__ == "__main__":
    main()

"""Other queues, and docworker, in the same run on the same servers; each written as its own documentation shows."""

import platform
import sys
from importlib import import_module

from benchmarks.peers.peer import Peer
from benchmarks.servers import BenchmarkError

PEERS = {
    "usual": "usual:PEER",
    "docworker-batches": "docworker:BATCHES",
    "docworker": "docworker:SINGLE_JOBS",
    "celery": "celery:PEER",
    "dramatiq": "dramatiq:PEER",
    "procrastinate": "procrastinate:PEER",
    "pgqueuer": "pgqueuer:PEER",
    "oban": "oban:PEER",
}
"""Module and name of each, in the order of their turns."""


def load(name: str) -> Peer:
    """Import a peer. Raises BenchmarkError when its library is not installed.

    Only after the stack runs: the modules of most queues read their servers' addresses when they are imported.
    """
    module, _, attribute = PEERS[name].partition(":")
    try:
        peer = getattr(import_module(f"benchmarks.peers.{module}"), attribute)
    except ModuleNotFoundError as error:
        if name == "oban" and sys.version_info < (3, 12):
            raise BenchmarkError(f"oban needs Python 3.12 or newer, this is {platform.python_version()}") from None
        raise BenchmarkError(f"{error.name} is not installed: `make bench` installs the extra `bench`") from None
    except ImportError as error:
        raise BenchmarkError(f"{name} cannot be imported: {error}") from error
    assert isinstance(peer, Peer)
    return peer

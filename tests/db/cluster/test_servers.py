"""Timelines: the highest one of its own system is kept, and told to others."""

import os

import pytest

from docworker.db.cluster.servers import Server, Timelines
from docworker.db.errors import ConfigurationError


def test_highest_timeline_of_its_own_system_is_kept() -> None:
    timelines, system = Timelines(), 7_000_000_000_000_000_001
    for timeline in (1, 3, 2):
        timelines.note(system, timeline)
    timelines.note(system + 1, 9)
    assert timelines.highest == 0, "which system it is, is not known yet"
    timelines.identify(system)
    assert timelines.highest == 3
    with pytest.raises(ConfigurationError, match="another database answers at its address"):
        timelines.identify(system + 1)


def test_timeline_is_heard_of_in_messages_and_from_those_it_was_forked_with() -> None:
    system = 7_000_000_000_000_000_009
    teller, listener = Timelines(), Timelines()
    teller.identify(system)
    teller.note(system, 4)
    listener.hear(str(teller))
    listener.hear("nonsense")
    listener.hear("1/2/3")
    listener.identify(system)
    assert listener.highest == 4
    child = os.fork()
    if child == 0:
        teller.note(system, 5)
        os._exit(0)
    os.waitpid(child, 0)
    assert listener.highest == 5


def test_every_address_of_a_server_leads_to_its_disk() -> None:
    for role in ("master", "dispatcher", "lease"):
        assert Server("home", role, Timelines()).disk == "master"
    for role in ("replica2", "replica2 dispatcher"):
        assert Server("home", role, Timelines()).disk == "replica2"

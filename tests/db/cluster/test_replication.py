"""Positions are ordered within one timeline only, and lag is told from where the master was when."""

import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docworker.db.cluster.positions import WalPosition, format_lsn, parse_lsn
from docworker.db.cluster.replica_status import LagHistory, ReplicaStatus
from docworker.db.cluster.servers import Timelines
from docworker.db.errors import ConfigurationError, InvalidArgumentError

positions = st.builds(
    WalPosition,
    system_identifier=st.integers(1, 2**64 - 1),
    timeline=st.integers(1, 2**32 - 1),
    lsn=st.integers(0, 2**64 - 1),
)


@given(positions)
def test_position_travels_as_text(position: WalPosition) -> None:
    assert WalPosition.parse(str(position)) == position
    assert parse_lsn(format_lsn(position.lsn)) == position.lsn


def test_position_reads_as_postgresql_writes_it() -> None:
    assert str(WalPosition(7, 2, parse_lsn("16/B374D848"))) == "7/2/16/B374D848"


@pytest.mark.parametrize("written", ["", "7/2/16", "7/x/16/B3", "7/2/16/B374D8480", "-7/2/16/B3", "7/2/16/B3\n"])
def test_what_is_no_position_is_refused(written: str) -> None:
    with pytest.raises(InvalidArgumentError, match="not a WAL position"):
        WalPosition.parse(written)


@given(positions, positions)
def test_positions_compare_within_one_timeline_of_one_system_only(one: WalPosition, other: WalPosition) -> None:
    sibling = WalPosition(one.system_identifier, one.timeline, other.lsn)
    assert (one <= sibling) == (one.lsn <= other.lsn)
    assert (one < sibling) == (one.lsn < other.lsn)
    assert (one >= sibling) == (one.lsn >= other.lsn)
    assert (one > sibling) == (one.lsn > other.lsn)
    for foreign in (
        WalPosition(one.system_identifier, one.timeline + 1, other.lsn),
        WalPosition(one.system_identifier + 1, one.timeline, other.lsn),
    ):
        assert [one <= foreign, one >= foreign, one < foreign, one > foreign] == [False] * 4


def test_replica_has_replayed_a_position_of_its_own_timeline_only() -> None:
    position = WalPosition(7, 2, 1000)
    assert ReplicaStatus(7, in_recovery=True, timeline=2, replayed=1000).has_replayed(position)
    assert not ReplicaStatus(7, in_recovery=True, timeline=2, replayed=999).has_replayed(position)
    assert not ReplicaStatus(7, in_recovery=True, timeline=3, replayed=5000).has_replayed(position)
    assert not ReplicaStatus(7, in_recovery=True, timeline=None, replayed=5000).has_replayed(position)
    assert not ReplicaStatus(8, in_recovery=True, timeline=2, replayed=5000).has_replayed(position)
    assert not ReplicaStatus(7, in_recovery=False, timeline=2, replayed=5000).has_replayed(position)
    assert not ReplicaStatus(7, in_recovery=True, timeline=2, replayed=None).has_replayed(position)


def history(*seen: tuple[float, int]) -> LagHistory:
    made = LagHistory()
    for at, lsn in seen:
        made.note(at, 1, lsn)
    return made


def test_replica_that_has_everything_does_not_lag_however_long_nothing_happened() -> None:
    assert history((10, 100), (20, 200)).lag_seconds(200, now=9000, since_last_transaction=8000) == 0
    assert history((10, 100), (20, 200)).lag_bytes(250) == 0


def test_lag_counts_from_when_the_master_passed_what_the_replica_has() -> None:
    master = history((10, 100), (20, 200), (30, 300))
    assert master.lag_seconds(250, now=31, since_last_transaction=8000) == 1
    assert master.lag_seconds(150, now=31, since_last_transaction=8000) == 11
    assert master.lag_bytes(150) == 150


def test_lag_that_began_before_the_first_look_is_what_the_replica_says_it_is() -> None:
    master = history((10, 100), (20, 200))
    assert master.lag_seconds(50, now=30, since_last_transaction=3) == 20
    assert master.lag_seconds(50, now=30, since_last_transaction=500) == 500
    assert master.lag_seconds(50, now=30, since_last_transaction=None) == math.inf


def test_master_that_stands_still_is_passed_once() -> None:
    master = history((10, 100), (20, 200), (30, 200), (40, 200))
    assert master.lag_seconds(150, now=41, since_last_transaction=None) == 21


def test_what_an_old_timeline_reached_is_forgotten_after_a_promotion() -> None:
    master = history((10, 100), (20, 900))
    master.note(30, 2, 500)
    assert master.lag_seconds(500, now=31, since_last_transaction=None) == 0
    master.note(40, 1, 950)
    assert master.lag_bytes(500) == 0


def test_without_any_news_of_the_master_nothing_is_known_to_be_missing() -> None:
    assert LagHistory().lag_seconds(0, now=1, since_last_transaction=None) == 0


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

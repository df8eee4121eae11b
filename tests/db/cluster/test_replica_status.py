"""What a replica has is told within its own timeline, and its lag from where the master was when."""

import math

from docworker.db.cluster.positions import WalPosition
from docworker.db.cluster.replica_status import LagHistory, ReplicaStatus


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

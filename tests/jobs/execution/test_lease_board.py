"""What processes read and write on one board, each for itself."""

import os
import signal
import subprocess
import sys

import pytest

from docworker.db.ledger import ClaimKey
from docworker.db.models.base import new_id
from docworker.jobs.execution.lease_board import Board, Place, record_of
from tests.support.waiting import eventually


def key() -> ClaimKey:
    return ClaimKey(new_id(), new_id(), new_id())


@pytest.fixture
def place() -> Place:
    (place,) = Board.private(places=1, claims=10).places
    place.enter()
    return place


def test_another_program_reads_what_is_held_and_tells_what_is_lost() -> None:
    ours = Board.shared(places=2, claims=10)
    assert ours.descriptor is not None
    theirs = Board.open(os.dup(ours.descriptor))
    ours.places[1].enter()
    kept, lost = key(), key()
    ours.places[1].write(0, record_of(kept))
    ours.places[1].write(1, record_of(lost))
    assert [one.key for one in theirs.places[1].kept()] == [kept, lost]
    assert theirs.places[0].kept() == []
    theirs.places[1].lose(theirs.places[1].owner, theirs.places[1].kept()[1:])
    assert ours.places[1].is_lost(1, lost.claim_token.bytes)
    assert not ours.places[1].is_lost(0, kept.claim_token.bytes)
    assert [one.key for one in theirs.places[1].kept()] == [kept]


def test_what_was_released_or_replaced_meanwhile_is_not_lost(place: Place) -> None:
    first, second, third = key(), key(), key()
    place.write(0, record_of(first))
    place.write(1, record_of(second))
    read = place.kept()
    place.clear(0)
    place.clear(1)
    place.write(1, record_of(third))
    assert place.lose(place.owner, read) == []
    assert not place.is_lost(1, third.claim_token.bytes)


def test_a_successor_finds_its_place_empty_and_loses_nothing_of_its_own(place: Place) -> None:
    place.write(0, record_of(key()))
    owner, read = (place.owner[0], place.owner[1] - 1), place.kept()
    place.enter()
    assert place.kept() == []
    place.write(0, read[0].record)
    assert place.lose(owner, read) == []


def test_a_full_place_says_so(place: Place) -> None:
    with pytest.raises(IndexError, match="can hold 10 claims"):
        place.write(10, record_of(key()))


def test_a_stop_and_the_masters_answer_are_seen_by_all() -> None:
    ours = Board.shared(places=0)
    assert ours.descriptor is not None
    theirs = Board.open(os.dup(ours.descriptor))
    assert (theirs.stop_at, ours.master_silent_seconds) == (0, float("inf"))
    ours.stop_at = 5.0
    theirs.master_answered()
    assert theirs.stop_at == 5.0
    assert ours.master_silent_seconds < 5


_ENTER = """
import sys; from docworker.jobs.execution.lease_board import Board
Board.open(int(sys.argv[1])).places[0].enter(); print(flush=True); sys.stdin.read()
"""


def test_the_stopped_and_the_dead_do_not_live() -> None:
    board = Board.shared(places=1, claims=10)
    assert board.descriptor is not None
    (place,) = board.places
    assert not place.lives(), "nobody has entered"
    process = subprocess.Popen(
        [sys.executable, "-c", _ENTER, str(board.descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[board.descriptor],
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert place.lives()
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: not place.lives(), what="it to be stopped")
    process.send_signal(signal.SIGCONT)
    eventually(place.lives, what="it to go on")
    process.kill()
    eventually(lambda: not place.lives(), what="it to be dead, though nobody has asked how it ended")
    process.wait()
    assert not place.lives()


def test_another_process_of_the_same_number_is_not_the_owner() -> None:
    board = Board.shared(places=1, claims=10)
    (place,) = board.places
    place._owner[0], place._owner[1] = os.getppid(), 1
    assert not place.lives()

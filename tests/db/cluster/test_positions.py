"""Positions are ordered within one timeline of one system only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docworker.db.cluster.positions import WalPosition, format_lsn, parse_lsn
from docworker.db.errors import InvalidArgumentError

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

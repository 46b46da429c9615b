"""A gap is listed until a person, by name, accepts it, once."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from spendgate.errors import ConfigurationError
from spendgate.gaps import accept_gap, stored_gaps
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import StreamGap
from tests.factories import NOW


def add_gap(warehouse: Warehouse, start: int = 3) -> int:
    with warehouse.transaction() as transaction:
        transaction.run(
            insert(StreamGap).values(
                stream="ad-clicks",
                partition_id="0",
                epoch=1,
                from_position=str(start),
                to_position=str(start + 4),
                created_at=NOW,
                updated_at=NOW,
            )
        )
    ids = [row.id for row in stored_gaps(warehouse)[1]]
    return int(ids[-1])


def test_there_are_no_gaps_at_first_but_their_columns_have_names(any_warehouse: Warehouse) -> None:
    columns, rows = stored_gaps(any_warehouse)
    assert columns[:2] == ["id", "stream"]
    assert rows == []


def test_gaps_are_listed_oldest_first(any_warehouse: Warehouse) -> None:
    ids = [add_gap(any_warehouse, start) for start in (30, 3)]
    assert [(row.id, row.from_position) for row in stored_gaps(any_warehouse)[1]] == list(
        zip(ids, ("30", "3"), strict=True)
    )


def test_an_accepted_gap_says_who_accepted_it_and_when_and_the_others_stay_open(any_warehouse: Warehouse) -> None:
    first, second = add_gap(any_warehouse, 3), add_gap(any_warehouse, 30)
    accept_gap(any_warehouse, second, "maria", NOW)
    assert {row.id: (row.accepted_by, row.accepted_at) for row in stored_gaps(any_warehouse)[1]} == {
        first: (None, None),
        second: ("maria", NOW),
    }


def test_a_gap_is_accepted_once_and_the_first_name_stays(any_warehouse: Warehouse) -> None:
    gap_id = add_gap(any_warehouse)
    accept_gap(any_warehouse, gap_id, "maria", NOW)
    with pytest.raises(ConfigurationError, match=rf"No open gap has the id {gap_id}; see \./spendgate gaps list"):
        accept_gap(any_warehouse, gap_id, "joe", NOW)
    assert stored_gaps(any_warehouse)[1][0].accepted_by == "maria"


@pytest.mark.parametrize("by", ["", "  ", "x" * 101])
def test_who_accepts_has_a_name_that_can_be_stored(any_warehouse: Warehouse, by: str) -> None:
    gap_id = add_gap(any_warehouse)
    with pytest.raises(ConfigurationError, match="Say who accepts the loss, in 1 to 100 characters"):
        accept_gap(any_warehouse, gap_id, by, NOW)
    assert stored_gaps(any_warehouse)[1][0].accepted_by is None


@pytest.mark.parametrize("gap_id", [1, 0, -1, 2**31 - 1, 2**63, 10**30])
def test_an_unknown_gap_can_not_be_accepted(any_warehouse: Warehouse, gap_id: int) -> None:
    with pytest.raises(ConfigurationError, match=f"No open gap has the id {gap_id};"):
        accept_gap(any_warehouse, gap_id, "maria", NOW)

"""Spend windows: what was spent and may be billed, rebuilt for touched days only, and checked."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import delete, text

from spendgate.errors import CheckFailedError
from spendgate.merge import Merge
from spendgate.spend import Spend, failed_checks
from spendgate.warehouse.engine import Lock, Warehouse
from spendgate.warehouse.statements import statement_files
from spendgate.warehouse.tables import CheckedDay, SpendSummary, TouchedDay
from tests.factories import (
    NOW,
    Bench,
    KilledError,
    advertiser,
    assert_rows_are,
    at,
    budget,
    click,
    modelled,
    stored,
    windows_of,
)


def hours(
    warehouse: Warehouse, day: int = 21, advertiser_id: int = 1
) -> list[tuple[int, float, float, float | None, bool]]:
    """(hour, gross, net, budget, can_serve) of one advertiser's hour windows."""
    return [
        (
            start.hour,
            float(row.gross_spend),
            float(row.net_spend),
            None if row.budget_at_time is None else float(row.budget_at_time),
            row.can_serve,
        )
        for (owner, grain, start), row in sorted(windows_of(warehouse).items())
        if (owner, grain, start.day) == (advertiser_id, "hour", day)
    ]


def written(warehouse: Warehouse) -> dict[tuple[int, str, datetime], datetime]:
    """When each window was last written."""
    return {(row.advertiser_id, row.grain, row.window_start): row.updated_at for row in stored(warehouse, SpendSummary)}


# --- What the numbers mean -------------------------------------------------------------------------------


def test_a_day_of_budgets_raised_and_lowered_is_billed_as_the_contract_says(any_warehouse: Warehouse) -> None:
    bodies = [
        budget(1, at(20, 23), "10"),
        click(1, at(21, 8), "8"),
        click(2, at(21, 9), "6"),
        budget(2, at(21, 12, 30), "20"),
        click(3, at(21, 13), "1"),
        budget(3, at(21, 14), "5"),
        click(4, at(21, 15), "2"),
        click(5, at(21, 15), "100", is_valid=False),
        click(6, at(22), "1"),
    ]
    Bench(any_warehouse).build(*bodies)
    assert hours(any_warehouse) == [
        (8, 8, 8, 10, True),
        (9, 6, 2, 10, False),
        (12, 0, 4, 20, True),  # the 4 that were delivered over the budget before it was raised
        (13, 1, 1, 20, True),
        (14, 0, 0, 5, False),
        (15, 2, 0, 5, False),
    ]
    day = windows_of(any_warehouse)[1, "day", at(21)]
    assert (day.click_count, day.gross_spend, day.invalid_spend, day.net_spend) == (5, 17, 100, 15)
    assert (day.budget_at_time, day.can_serve, day.window_end) == (5, False, at(22))
    assert hours(any_warehouse, 22) == [(0, 1, 1, 5, True)]
    assert_rows_are(any_warehouse, modelled(bodies), flags=False)


def test_of_budgets_of_one_instant_the_last_updated_and_then_the_greatest_id_holds(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(*(budget(number, at(21, 8), str(number)) for number in (1, 3, 2)))
    assert hours(any_warehouse)[0][3] == 3
    bench.build(budget(0, at(21, 8), "9", updated_at=at(21, 9)))
    assert hours(any_warehouse)[0][3] == 9
    assert bench.build(click(1, at(22, 8))).windows_built == 2
    assert hours(any_warehouse, 22)[0][3] == 9


def test_an_hour_with_nothing_but_an_invalid_click_or_a_budget_is_a_window(any_warehouse: Warehouse) -> None:
    Bench(any_warehouse).build(click(1, at(21, 8), is_valid=False), budget(1, at(21, 9), "0"))
    assert hours(any_warehouse) == [(8, 0, 0, None, False), (9, 0, 0, 0, False)]


# --- Restatement -------------------------------------------------------------------------------------------


def test_only_windows_of_touched_days_are_rebuilt(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(*(click(10 * day + owner, at(day, 8), advertiser_id=owner) for day in (20, 21) for owner in (1, 2)))
    bench.now += timedelta(hours=1)
    counts = bench.build(click(99, at(21, 9)))
    assert (counts.days, counts.windows_built, counts.windows_inserted, counts.windows_updated) == (1, 3, 1, 1)
    rewritten = [window for window, instant in written(any_warehouse).items() if instant == bench.now]
    assert sorted(rewritten) == [(1, "day", at(21)), (1, "hour", at(21, 9))]


def test_a_window_with_the_same_numbers_isnt_written_again(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(click(1), budget(1))
    before = written(any_warehouse)
    bench.now += timedelta(hours=1)
    counts = bench.build(budget(1, updated_at=at(22)))
    assert (counts.days, counts.windows_updated, counts.windows_inserted, counts.windows_deleted) == (1, 0, 0, 0)
    assert written(any_warehouse) == before


def test_a_budget_that_comes_or_goes_is_a_change_though_no_other_number_is(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(click(1, at(21, 8), "0"))
    bench.build(budget(1, at(20), "0"))
    assert hours(any_warehouse) == [(8, 0, 0, 0, False)]
    bench.build(budget(1, at(22), "0", updated_at=at(23)))
    assert hours(any_warehouse) == [(8, 0, 0, None, False)]


# Each changes one number of the window at 10:00 and no other.
SINGLE_CHANGES = {
    "click_count": ([click(1, at(21, 10), "1")], [click(2, at(21, 10), "0")]),
    "gross_spend": (
        [click(1, at(21, 10), "1", updated_at=at(21, 10))],
        [click(1, at(21, 10), "2", updated_at=at(21, 11))],
    ),
    "invalid_spend": (
        [click(1, at(21, 10), "1", is_valid=False)],
        [click(1, at(21, 10), "2", is_valid=False, updated_at=at(21, 11))],
    ),
    "net_spend": (
        [budget(1, at(21), "5"), click(1, at(21, 8), "8"), budget(2, at(21, 9), "5"), budget(3, at(21, 10), "9")],
        [budget(4, at(21, 8), "9")],
    ),
    "can_serve": (
        [budget(1, at(21), "9"), click(1, at(21, 8), "8"), click(2, at(21, 10), "1", is_valid=False)],
        [click(3, at(21, 8), "1")],
    ),
    "budget_at_time": ([click(1, at(21, 10), "0")], [budget(1, at(21), "0")]),
}


@pytest.mark.parametrize("number", SINGLE_CHANGES)
def test_a_window_is_written_again_when_any_one_of_its_numbers_changes(any_warehouse: Warehouse, number: str) -> None:
    bench = Bench(any_warehouse)
    bodies, change = SINGLE_CHANGES[number]
    bench.build(*bodies)
    before = windows_of(any_warehouse)[1, "hour", at(21, 10)]
    bench.build(*change)
    after = windows_of(any_warehouse)[1, "hour", at(21, 10)]
    assert before._replace(**{number: getattr(after, number)}) == after != before
    assert_rows_are(any_warehouse, modelled([*bodies, *change]), flags=False)


def test_a_window_goes_when_its_last_click_moves_away(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(click(1, at(21, 8)), click(2, at(21, 9)))
    counts = bench.build(click(1, at(22, 8), updated_at=at(22, 9)))
    assert (counts.windows_deleted, counts.windows_inserted, counts.windows_updated) == (1, 2, 1)
    counts = bench.build(click(2, at(22, 8), updated_at=at(22, 9)))
    assert counts.windows_deleted == 2
    assert sorted(windows_of(any_warehouse)) == [(1, "day", at(22)), (1, "hour", at(22, 8))]


def test_a_late_budget_restates_exactly_the_days_it_holds(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bodies = [*(click(day, at(day, 12), "3") for day in range(16, 23)), budget(1, at(20, 13), "1")]
    bench.build(*bodies)
    bench.now += timedelta(hours=1)
    late = budget(2, at(17, 6), "2")
    assert bench.build(late).days == 4
    assert {start.day for (_, _, start), instant in written(any_warehouse).items() if instant == bench.now} == {
        17,
        18,
        19,
        20,
    }
    assert_rows_are(any_warehouse, modelled([*bodies, late]), flags=False)


def test_days_are_rebuilt_in_chunks_and_once(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, chunk_days=2)
    bodies = [click(day, at(day, 12)) for day in range(16, 23)]
    assert bench.build(*bodies).days == 7
    assert stored(any_warehouse, TouchedDay) == []
    assert bench.rebuild().days == 0
    assert_rows_are(any_warehouse, modelled(bodies), flags=False)


def test_a_rebuild_that_dies_leaves_its_days_touched(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.merge(click(1))

    def clock() -> datetime:
        raise KilledError

    with pytest.raises(KilledError):
        Spend(any_warehouse, clock).rebuild_touched()
    assert len(stored(any_warehouse, TouchedDay)) == 1
    assert bench.rebuild().days == 1


# --- Checks ----------------------------------------------------------------------------------------------

# One offence a check: what makes each return rows, planted behind the pipeline's back.
OFFENCES = {
    "assert_clicks_have_an_hour": [
        "UPDATE ads.ClickEvent SET click_time = '2026-11-21T09:00:00' WHERE click_time = '2026-11-21T08:00:00'",
        "UPDATE ads.ClickEvent SET click_time = '2026-11-21T07:59:59.999' WHERE click_time = '2026-11-21T08:00:00'",
        "DELETE FROM ads.TimeHierarchy WHERE time_key = '2026-11-21T08:00:00'",
    ],
    "assert_clicks_have_members": [
        "DELETE FROM ads.Advertiser WHERE advertiser_id = 1",
        "DELETE FROM ads.Ad WHERE ad_id = 10",
    ],
    "assert_flags_agree_with_numbers": [
        "UPDATE ads.ServingFlag SET can_serve = 0",
        "UPDATE ads.ServingFlag SET remaining = remaining + 1",
        "UPDATE ads.ServingFlag SET reason = 'no_budget', can_serve = 0",
        "UPDATE ads.ServingFlag SET reason = 'exhausted', can_serve = 0",
        "UPDATE ads.ServingFlag SET spent_today = budget, remaining = 0",
        "UPDATE ads.ServingFlag SET budget = NULL, remaining = 0",
        "UPDATE ads.ServingFlag SET reason = 'whim', can_serve = 0",
    ],
    "assert_flags_have_messages": [
        "DELETE FROM etl.Outbox",
        "UPDATE etl.Outbox SET version = version + 1",
        "UPDATE ads.ServingFlag SET version = version + 1",
    ],
    "assert_hours_add_up_to_days": [
        "UPDATE ads.SpendSummary SET gross_spend = gross_spend + 0.0001 WHERE grain = 'day'",
        "UPDATE ads.SpendSummary SET invalid_spend = invalid_spend + 1 WHERE grain = 'hour' AND click_count = 1",
        "UPDATE ads.SpendSummary SET net_spend = net_spend - 0.0001 WHERE grain = 'day'",
        "UPDATE ads.SpendSummary SET click_count = 7 WHERE grain = 'day'",
        "DELETE FROM ads.SpendSummary WHERE grain = 'day'",
        "DELETE FROM ads.SpendSummary WHERE grain = 'hour'",
    ],
    "assert_net_spend_within_budget": [
        "UPDATE ads.SpendSummary SET net_spend = -0.0001",
        "UPDATE ads.SpendSummary SET net_spend = gross_spend + 0.0001",
        "UPDATE ads.SpendSummary SET budget_at_time = 1.9999",
        "UPDATE ads.SpendSummary SET budget_at_time = NULL",
    ],
    "assert_windows_are_whole": [
        "UPDATE ads.SpendSummary SET window_end = window_start WHERE grain = 'hour'",
        "UPDATE ads.SpendSummary SET window_end = window_start WHERE grain = 'day'",
        "UPDATE ads.SpendSummary SET grain = 'week' WHERE grain = 'day'",
    ],
    "assert_windows_can_serve_as_spent": [
        "UPDATE ads.SpendSummary SET can_serve = 0 WHERE grain = 'hour'",
        "UPDATE ads.SpendSummary SET can_serve = 0 WHERE grain = 'day'",
        "UPDATE ads.SpendSummary SET budget_at_time = 2 WHERE grain = 'day'",
        "UPDATE ads.SpendSummary SET budget_at_time = NULL WHERE grain = 'day'",
    ],
}


def spoil(warehouse: Warehouse, statement: str) -> None:
    with warehouse.transaction() as transaction:
        assert transaction.connection.execute(text(statement)).rowcount > 0


def built(warehouse: Warehouse) -> Bench:
    """One advertiser that may serve, with one click of 2.0000 under a budget of 5, not checked yet."""
    bench = Bench(warehouse)
    bench.merge(advertiser(), budget(1, at(21), "5"), click(1, at(21, 8), "2"))
    Spend(warehouse, bench.clock).rebuild_touched()
    bench.decide(at(21, 12))
    return bench


@pytest.mark.parametrize("check", OFFENCES)
def test_a_check_finds_its_offences_and_names_itself(any_warehouse: Warehouse, check: str) -> None:
    bench = built(any_warehouse)
    for offence in OFFENCES[check]:
        with any_warehouse.transaction() as transaction:
            assert failed_checks(transaction) == {}
            assert transaction.connection.execute(text(offence)).rowcount > 0
            assert check in failed_checks(transaction), offence
            transaction.connection.rollback()
    spoil(any_warehouse, OFFENCES[check][0])
    with pytest.raises(CheckFailedError, match=f"{check}: "):
        bench.rebuild()
    assert len(stored(any_warehouse, CheckedDay)) == 1, "the day has to be checked again"


def test_every_check_has_an_offence() -> None:
    checks = [name.removeprefix("checks/") for name in statement_files("checks") if "assert_" in name]
    assert sorted(OFFENCES) == checks


def test_a_sound_build_passes_and_its_days_are_checked_once(any_warehouse: Warehouse) -> None:
    bench = built(any_warehouse)
    spend = Spend(any_warehouse, bench.clock)
    assert spend.check_rebuilt() == 1
    assert spend.check_rebuilt() == 0


def test_days_that_were_not_rebuilt_are_checked_when_asked_for(any_warehouse: Warehouse) -> None:
    bench = built(any_warehouse)
    bench.rebuild()
    spend = Spend(any_warehouse, bench.clock)
    assert spend.check_recent(at(20)) == {}
    spoil(any_warehouse, OFFENCES["assert_hours_add_up_to_days"][0])
    assert spend.check_rebuilt() == 0
    assert list(spend.check_recent(at(20)) or {}) == ["assert_hours_add_up_to_days"]
    assert spend.check_recent(at(22)) == {}
    assert stored(any_warehouse, CheckedDay) == []


def test_nothing_is_checked_in_the_middle_of_a_build(any_warehouse: Warehouse) -> None:
    bench = built(any_warehouse)
    with any_warehouse.transaction() as build:
        build.hold(Lock.BUILD)
        assert Spend(any_warehouse, bench.clock).check_recent(at(20)) is None


def test_no_day_is_checked_twice_whatever_touched_it_how_often(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    spend = Spend(any_warehouse, bench.clock)
    for number in range(3):
        bench.stage(click(number, at(21, number)))
        bench.judge()
        Merge(any_warehouse, bench.clock).merge_staged()
        spend.rebuild_touched()
    assert spend.check_rebuilt() == 1


def test_windows_that_were_lost_come_back_when_their_day_is_touched(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(click(1, at(21, 8)), click(2, at(21, 9)))
    with any_warehouse.transaction() as transaction:
        transaction.run(delete(SpendSummary))
    bench.build(click(3, at(21, 10)))
    assert_rows_are(
        any_warehouse, modelled([click(1, at(21, 8)), click(2, at(21, 9)), click(3, at(21, 10))]), flags=False
    )
    assert set(written(any_warehouse).values()) == {NOW}

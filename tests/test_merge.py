"""Merge: of all versions the newest, whatever order they came in, and who else is touched by them."""

from __future__ import annotations

import itertools
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from spendgate.merge import DAYS_AHEAD, Merge, hours_of
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import (
    Ad,
    Advertiser,
    Batch,
    BudgetEvent,
    ClickEvent,
    RejectedEvent,
    TimeHierarchy,
    TouchedDay,
)
from tests.factories import (
    NOW,
    Bench,
    KilledError,
    ad,
    ads_of,
    advertiser,
    advertisers_of,
    assert_rows_are,
    at,
    budget,
    budgets_of,
    click,
    click_id,
    clicks_of,
    empty_everything,
    killed_between_copy_and_commit,
    modelled,
    rejections_of,
    stored,
)

FIRST = click(1, at(21, 8), "2")
NEWER = click(1, at(21, 8), "3", updated_at=at(21, 9))
NEWEST = click(1, at(21, 8), "3", is_valid=False, updated_at=at(21, 10))


def touched(warehouse: Warehouse) -> list[tuple[int, int]]:
    """(advertiser, day of the month) of every touched day."""
    return sorted((row.advertiser_id, row.date_key.day) for row in stored(warehouse, TouchedDay))


def only_click(warehouse: Warehouse) -> tuple[Decimal, bool, datetime]:
    [row] = clicks_of(warehouse).values()
    return row.amount, row.is_valid, row.updated_at


# --- Versions --------------------------------------------------------------------------------------------


def test_of_several_versions_in_one_batch_the_newest_is_stored_in_any_order(any_warehouse: Warehouse) -> None:
    for order in itertools.permutations((FIRST, NEWER, NEWEST)):
        empty_everything(any_warehouse)
        counts = Bench(any_warehouse).merge(*order)
        assert only_click(any_warehouse) == (3, False, at(21, 10))
        assert (counts.inserted, counts.updated, counts.superseded) == (1, 0, 2)


def test_of_several_versions_over_batches_the_newest_is_stored_in_any_order(any_warehouse: Warehouse) -> None:
    for order in itertools.permutations((FIRST, NEWER, NEWEST)):
        empty_everything(any_warehouse)
        bench = Bench(any_warehouse)
        for version in order:
            bench.merge(version)
        assert only_click(any_warehouse) == (3, False, at(21, 10))


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (budget(value="5"), budget(value="6", time=at(22), updated_at=at(23))),
        (advertiser(), advertiser(at(21), name="Norvale BV", industry="travel", country="NL", is_active=False)),
        (ad(), ad(at(21), advertiser_id=2, ad_title="Tents", ad_format="banner", product_link="https://n.example")),
    ],
    ids=["budget", "advertiser", "ad"],
)
def test_every_entity_has_versions_like_clicks(any_warehouse: Warehouse, older: bytes, newer: bytes) -> None:
    for order in ([older, newer], [newer, older]):
        for together in (True, False):
            empty_everything(any_warehouse)
            bench = Bench(any_warehouse)
            for bodies in [order] if together else [[one] for one in order]:
                bench.merge(*bodies)
            bench.rebuild()
            assert_rows_are(any_warehouse, modelled(order), flags=False)


def test_a_duplicate_changes_nothing_however_it_is_spelt(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(FIRST)
    [before] = stored(any_warehouse, ClickEvent)
    bench.now += timedelta(hours=1)
    counts = bench.merge(FIRST, click(1, click_time="2026-11-21t10:00:00.0009+02:00", amount="20e-1", note="again"))
    assert stored(any_warehouse, ClickEvent) == [before]
    assert (counts.duplicates, counts.inserted, counts.updated, counts.conflicts) == (2, 0, 0, 0)
    assert touched(any_warehouse) == []


def test_created_at_is_when_a_row_came_and_updated_at_the_version_that_holds(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.merge(FIRST)
    bench.now += timedelta(hours=1)
    bench.merge(NEWER)
    [row] = stored(any_warehouse, ClickEvent)
    assert (row.created_at, row.updated_at, row.time_key) == (NOW, at(21, 9), at(21, 8))


# --- Conflicts -------------------------------------------------------------------------------------------


CONFLICTS = {
    "amount": (click(), click(amount="2.0001")),
    "ad": (click(), click(ad_id=11)),
    "verdict": (click(), click(is_valid=False)),
    "source": (budget(), budget(source="ui")),
    "letter case": (advertiser(), advertiser(name="norvale")),
    "null to text": (advertiser(), advertiser(industry="travel")),
    "text to null": (advertiser(country="NL"), advertiser()),
    "title": (ad(), ad(ad_title="Tents")),
    "trailing space": (ad(), ad(ad_title="Boots ")),
    "trailing space of a source": (budget(source="ui"), budget(source="ui ")),
    "null to empty": (ad(), ad(ad_format="")),
    "null to space": (advertiser(), advertiser(industry=" ")),
    "empty to space": (ad(ad_format=""), ad(ad_format=" ")),
    "composed to combining": (advertiser(name="Caf\u00e9"), advertiser(name="Cafe\u0301")),
}


@pytest.mark.parametrize(("first", "other"), CONFLICTS.values(), ids=CONFLICTS)
def test_an_equal_version_of_other_content_is_rejected_and_what_came_first_stays(
    any_warehouse: Warehouse, first: bytes, other: bytes
) -> None:
    for together in (True, False):
        empty_everything(any_warehouse)
        bench = Bench(any_warehouse)
        bench.merge(*([first, other, first] if together else [first]))
        if not together:
            bench.merge(other, first)
        bench.rebuild()
        assert rejections_of(any_warehouse) == {"conflicting_duplicate": 1}
        assert_rows_are(any_warehouse, modelled([first]), flags=False)


def test_a_conflict_keeps_its_bytes_and_coordinates_whatever_the_broker_still_has(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.merge(click(1), click(2))
    other = b"  " + click(2, amount="9", note="\u00e9")
    bench.stage(click(3), other)
    bench.stream.lose(4)
    bench.now += timedelta(hours=1)
    bench.judge()
    counts = Merge(any_warehouse, bench.clock).merge_staged()
    assert counts.conflicts == 1
    [row] = stored(any_warehouse, RejectedEvent)
    assert (bytes(row.raw), row.stream, row.partition_id, row.epoch, row.position) == (other, "ad-clicks", "0", 1, "3")
    assert (row.reason, row.enqueued_at, row.created_at) == ("conflicting_duplicate", NOW, bench.now)
    assert row.detail.startswith("Another version of this click")


def test_conflicts_of_several_batches_and_entities_are_all_rejected(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, batch_size=2)
    first = [click(), budget(), advertiser(), ad()]
    others = [click(amount="9"), budget(value="9"), advertiser(name="9"), ad(ad_title="9")]
    counts = bench.merge(*first, *others, *others)
    assert counts.conflicts == 8
    assert sorted(bytes(row.raw) for row in stored(any_warehouse, RejectedEvent)) == sorted(others * 2)


def test_a_conflict_with_a_version_that_was_superseded_is_only_old_news(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.merge(FIRST)
    bench.merge(NEWER, click(1, at(21, 8), "9"))
    assert rejections_of(any_warehouse) == {}
    assert only_click(any_warehouse)[0] == 3


def test_a_newer_version_after_a_conflict_holds(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.merge(FIRST, click(1, at(21, 8), "9"), NEWER)
    assert rejections_of(any_warehouse) == {"conflicting_duplicate": 1}
    assert only_click(any_warehouse)[0] == 3


def test_a_rejected_conflict_infers_nobody(any_warehouse: Warehouse) -> None:
    Bench(any_warehouse).merge(click(1), click(1, advertiser_id=7, ad_id=70))
    assert (list(advertisers_of(any_warehouse)), list(ads_of(any_warehouse))) == ([1], [10])


# --- Members ---------------------------------------------------------------------------------------------


def test_early_facts_infer_their_members_and_real_rows_of_any_age_fill_them_in(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    counts = bench.merge(click(1, advertiser_id=3, ad_id=30), budget(advertiser_id=4))
    assert counts.inferred == 3
    members = [
        (row.advertiser_id, row.name, row.is_active, row.is_inferred) for row in stored(any_warehouse, Advertiser)
    ]
    assert members == [(3, "unknown", 0, 1), (4, "unknown", 0, 1)]
    [inferred] = stored(any_warehouse, Ad)
    assert (inferred.ad_id, inferred.advertiser_id, inferred.is_inferred, inferred.is_active) == (30, 3, 1, 0)
    old = at(1) - timedelta(days=4000)
    bench.merge(advertiser(old, advertiser_id=3, name="Three"), ad(old, ad_id=30, advertiser_id=5))
    known = advertisers_of(any_warehouse)
    assert (known[3].name, known[3].is_active, known[3].is_inferred) == ("Three", True, False)
    assert (known[4].is_inferred, known[5].is_inferred) == (True, True)
    assert ads_of(any_warehouse)[30].advertiser_id == 5
    assert not ads_of(any_warehouse)[30].is_inferred


def test_a_member_that_is_announced_with_its_first_click_is_not_inferred(any_warehouse: Warehouse) -> None:
    counts = Bench(any_warehouse).merge(click(1), advertiser(), ad())
    assert counts.inferred == 0
    assert not advertisers_of(any_warehouse)[1].is_inferred


def test_an_inferred_ad_has_the_smallest_advertiser_that_clicked_it_in_any_order(any_warehouse: Warehouse) -> None:
    for order in itertools.permutations((77, 2, 4040)):
        for together in (True, False):
            empty_everything(any_warehouse)
            bench = Bench(any_warehouse)
            bodies = [click(number, advertiser_id=owner) for number, owner in enumerate(order)]
            for chunk in [bodies] if together else [[one] for one in bodies]:
                bench.merge(*chunk)
            assert ads_of(any_warehouse)[10].advertiser_id == 2
            assert sorted(advertisers_of(any_warehouse)) == [2, 77, 4040]


def test_a_version_that_came_too_late_to_hold_still_infers_its_members(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.merge(NEWER)
    bench.merge(click(1, at(21, 8), "2", advertiser_id=7, ad_id=70))
    assert sorted(advertisers_of(any_warehouse)) == [1, 7]
    assert clicks_of(any_warehouse)[click_id(1)].advertiser_id == 1


# --- Touched days ----------------------------------------------------------------------------------------


def test_a_new_click_touches_its_day(any_warehouse: Warehouse) -> None:
    counts = Bench(any_warehouse).merge(click(1, at(21, 23, 59)), click(2, at(22)), click(3, at(22), advertiser_id=2))
    assert touched(any_warehouse) == [(1, 21), (1, 22), (2, 22)]
    assert counts.touched_days == 3


def test_a_moved_click_touches_the_day_it_left_and_the_day_it_came_to(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(click(1, at(20)), click(2, at(21)))
    bench.merge(click(1, at(22), updated_at=at(23), advertiser_id=2))
    assert touched(any_warehouse) == [(1, 20), (2, 22)]


def test_versions_that_never_were_stored_touch_nothing(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(click(1, at(20), updated_at=at(22)))
    bench.merge(click(1, at(19), updated_at=at(21)))
    assert touched(any_warehouse) == []
    bench.merge(click(1, at(18), updated_at=at(22, 1)), click(1, at(17), updated_at=at(22, 2)))
    assert touched(any_warehouse) == [(1, 17), (1, 20)]


def test_a_late_budget_touches_its_day_and_every_later_day_up_to_the_next_budget(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(
        *(click(day, at(day, 12)) for day in range(16, 23)),
        click(99, at(18, 12), advertiser_id=2),
        budget(1, at(20, 13)),
    )
    bench.merge(budget(2, at(17, 6)))
    assert touched(any_warehouse) == [(1, 17), (1, 18), (1, 19), (1, 20)]


def test_a_budget_that_holds_for_one_day_touches_that_day_and_at_most_the_next(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(*(click(day, at(day, 12)) for day in range(18, 22)), budget(1, at(20)))
    bench.merge(budget(2, at(19)))
    assert set(touched(any_warehouse)) <= {(1, 19), (1, 20)}
    assert (1, 19) in touched(any_warehouse)


def test_a_moved_budget_touches_the_days_it_held_and_the_days_it_holds(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bodies = [*(click(day, at(day, 12)) for day in range(16, 23)), budget(1, at(18, 6), "1"), budget(2, at(21, 6), "3")]
    bench.build(*bodies)
    moved = budget(1, at(16, 18), "1", updated_at=at(22))
    bench.merge(moved)
    assert touched(any_warehouse) == [(1, day) for day in range(16, 22)]
    bench.rebuild()
    assert_rows_are(any_warehouse, modelled([*bodies, moved]), flags=False)


def test_a_last_budget_touches_all_that_comes_after_it(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(*(click(day, at(day, 12)) for day in range(18, 22)))
    bench.merge(budget(1, at(19, 13)))
    assert touched(any_warehouse) == [(1, 19), (1, 20), (1, 21)]


# --- Books -----------------------------------------------------------------------------------------------


def test_a_merge_with_nothing_staged_does_nothing(any_warehouse: Warehouse) -> None:
    assert set(Bench(any_warehouse).merge().as_dict().values()) == {0}


def test_batches_are_merged_in_chunks_and_once(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, batch_size=2, chunk_events=3)
    counts = bench.merge(*(click(number) for number in range(7)), click(6, amount="9"))
    assert (counts.batches, counts.events, counts.inserted, counts.conflicts) == (4, 8, 7, 1)
    rows = sorted(stored(any_warehouse, Batch), key=lambda row: row.batch_id)
    assert {row.state for row in rows} == {"merged"}
    assert len({row.merge_id for row in rows}) == 4
    assert bench.merge().batches == 0


def test_a_merge_that_dies_leaves_its_batches_staged(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stage(click(1), budget(1), click(1, amount="9"))
    bench.judge()
    calls: list[object] = []

    class Killed(Merge):
        """Dies when all is merged and only the hours of the touched days are missing."""

        def _ensure_hours(self, *arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) == 2:
                raise KilledError
            super()._ensure_hours(*arguments)

    with pytest.raises(KilledError):
        Killed(any_warehouse, bench.clock).merge_staged()
    assert (clicks_of(any_warehouse), budgets_of(any_warehouse), rejections_of(any_warehouse)) == ({}, {}, {})
    counts = bench.merge()
    assert (counts.batches, counts.inserted, counts.conflicts) == (1, 2, 1)


def test_orphaned_rows_are_never_merged(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stream.append(click(1), click(1, amount="9"), budget())
    killed_between_copy_and_commit(bench)
    assert bench.merge().inserted == 2
    assert clicks_of(any_warehouse)[click_id(1)].amount == 2
    assert rejections_of(any_warehouse) == {"conflicting_duplicate": 1}


# --- TimeHierarchy ---------------------------------------------------------------------------------------


def test_time_hierarchy_is_complete_for_every_touched_day_and_a_week_ahead(any_warehouse: Warehouse) -> None:
    Bench(any_warehouse).merge(click(1, at(3, 5)), budget(1, datetime(2020, 2, 29, 12, tzinfo=NOW.tzinfo)))
    hours = [row.time_key for row in stored(any_warehouse, TimeHierarchy)]
    days = [date(2020, 2, 29), date(2026, 11, 3), *(NOW.date() + timedelta(ahead) for ahead in range(DAYS_AHEAD + 1))]
    assert sorted(hours) == sorted(hour["time_key"] for day in days for hour in hours_of(day, NOW))


def test_time_hierarchy_grows_without_events_too(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.merge()
    bench.now += timedelta(days=1)
    bench.merge()
    assert len(stored(any_warehouse, TimeHierarchy)) == 24 * (DAYS_AHEAD + 2)


@pytest.mark.parametrize(
    ("day", "week", "week_start", "quarter", "weekday"),
    [
        (date(2026, 11, 23), 48, date(2026, 11, 23), 4, "Monday"),
        (date(2027, 1, 1), 53, date(2026, 12, 28), 1, "Friday"),
        (date(2024, 12, 30), 1, date(2024, 12, 30), 4, "Monday"),
        (date(2024, 3, 31), 13, date(2024, 3, 25), 1, "Sunday"),
        (date(2024, 4, 1), 14, date(2024, 4, 1), 2, "Monday"),
    ],
)
def test_an_hour_knows_its_iso_week_quarter_and_weekday(
    day: date, week: int, week_start: date, quarter: int, weekday: str
) -> None:
    hours = hours_of(day, NOW)
    assert [hour["hour"] for hour in hours] == list(range(24))
    assert {(hour["week"], hour["week_start"], hour["quarter"], hour["weekday_name"]) for hour in hours} == {
        (week, week_start, quarter, weekday)
    }
    assert all(hour["time_key"].hour == hour["hour"] for hour in hours)  # type: ignore[attr-defined]


def test_budget_rows_carry_their_hour(any_warehouse: Warehouse) -> None:
    Bench(any_warehouse).merge(budget(1, at(21, 8, 59)))
    assert [row.time_key for row in stored(any_warehouse, BudgetEvent)] == [at(21, 8)]

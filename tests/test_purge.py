"""Purging: exactly what is old enough and done with goes, in pieces; what comes after it is as right as before."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy import insert, update

from spendgate.purge import Purge
from spendgate.replay import RejectedFilter
from spendgate.settings import Settings
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import (
    Batch,
    BatchPayload,
    ClickEvent,
    ClosedHistory,
    Discrepancy,
    Outbox,
    RejectedEvent,
    RunLog,
    StagedBudget,
    StagedClick,
    TouchedDay,
)
from tests.factories import DAY, NOW, Bench, advertiser, at, budget, click, clicks_of, count, stored, windows_of


def settings(**keep: Any) -> Settings:
    return Settings(warehouse_url=SecretStr("postgresql+psycopg://unused"), **keep)


def purge(bench: Bench, now: datetime, chunk_rows: int = 3, **keep: Any) -> dict[str, int]:
    return Purge(bench.warehouse, lambda: now, settings(**keep), chunk_rows).purge_history()


def batches_in(warehouse: Warehouse, table: Any) -> set[int]:
    return {row.batch_id for row in stored(warehouse, table)}


def test_staged_rows_and_messages_go_when_their_batch_is_old_and_done_with(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, batch_size=2)
    bench.build(advertiser(), budget(), *(click(number) for number in range(7)), b"not json")
    old = batches_in(any_warehouse, BatchPayload)
    bench.now = NOW + DAY
    bench.build(click(10), click(11))
    young = batches_in(any_warehouse, BatchPayload) - old
    bench.stage(click(12), b"nor this")
    held, discarded, *_ = sorted(old)
    with any_warehouse.transaction() as transaction:  # what a gate makes of batches
        for batch_id, state in ((held, "held"), (discarded, "discarded")):
            changed = update(Batch).where(Batch.c.batch_id == batch_id)
            transaction.run(changed.values(state=state, merge_id=None, merged_at=None))
    staged = count(any_warehouse, StagedClick) + count(any_warehouse, StagedBudget) + 1
    before = clicks_of(any_warehouse), windows_of(any_warehouse)

    assert purge(bench, NOW + 7 * DAY)["batches"] == 0
    removed = purge(bench, NOW + 7 * DAY + timedelta(seconds=1))
    assert removed["batches"] == len(old) - 1
    waiting = batches_in(any_warehouse, BatchPayload) - young - {held}
    assert batches_in(any_warehouse, BatchPayload) == {held, *young, *waiting}
    assert len(waiting) == 1
    kept = count(any_warehouse, StagedClick) + count(any_warehouse, StagedBudget)
    # The held batch has the advertiser and the budget, the batches of the next day three clicks.
    assert (kept, removed["staged_rows"]) == (4, staged - kept - 1)
    assert (clicks_of(any_warehouse), windows_of(any_warehouse)) == before
    assert purge(bench, NOW + 7 * DAY + timedelta(seconds=1))["batches"] == 0
    bench.build(*(click(number) for number in range(7)), click(3, amount="9", updated_at=at(22)))
    assert len(clicks_of(any_warehouse)) == len(before[0]) + 1  # the one that waited


def test_rejected_events_go_but_for_those_on_their_way_to_be_merged_again(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.merge(*(b"%d is no event" % number for number in range(7)), click(1, at(1) - 20 * DAY))
    bench.lateness = 100 * DAY
    bench.replay(RejectedFilter())
    waiting = {row.id for row in stored(any_warehouse, RejectedEvent, RejectedEvent.c.replay_batch_id.is_not(None))}
    assert len(waiting) == 1
    assert purge(bench, NOW + 90 * DAY)["rejected_events"] == 0
    assert purge(bench, NOW + 91 * DAY)["rejected_events"] == 7
    assert {row.id for row in stored(any_warehouse, RejectedEvent)} == waiting


def test_the_newest_message_of_each_advertiser_stays(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(*(advertiser(advertiser_id=number) for number in (1, 2)), budget())
    for amount in ("4", "1", "20"):
        bench.decide(at(21, 12))
        bench.build(click(int(amount), amount=amount))
    bench.decide(at(21, 12))
    published = update(Outbox).where(Outbox.c.version < 3).values(published_at=NOW)
    with any_warehouse.transaction() as transaction:
        transaction.run(published)
    before = {(row.advertiser_id, row.version) for row in stored(any_warehouse, Outbox)}
    removed = purge(bench, NOW + 8 * DAY)["outbox_messages"]
    kept = {(row.advertiser_id, row.version) for row in stored(any_warehouse, Outbox)}
    newest = {(who, max(version for other, version in before if other == who)) for who, _ in before}
    assert kept == newest
    assert removed == len(before) - len(newest) > 0
    bench.rebuild()  # its checks compare flags with messages


def test_run_logs_and_closed_differences_go_after_their_time(any_warehouse: Warehouse) -> None:
    zeros = dict.fromkeys((column.name for column in RunLog.columns if column.name.endswith("_count")), 0)
    texts = {"dag": "build_spend", "rejected": "{}", "seconds": "{}"}
    log = {**texts, **zeros, "ended_at": NOW, "created_at": NOW, "updated_at": NOW}
    seen = dict.fromkeys(("found_at", "seen_at", "created_at", "updated_at"), NOW)
    difference = {"kind": "window", "expected": "1", "found": "2", "detail": "Wrong.", **seen}
    with any_warehouse.transaction() as transaction:
        rows = [{**log, "run_id": str(number), "started_at": NOW + number * DAY} for number in range(3)]
        transaction.run(insert(RunLog), rows)
        ends = [NOW, None]
        transaction.run(
            insert(Discrepancy),
            [{**difference, "subject": str(number), "closed_at": ends[number]} for number in (0, 1)],
        )
    removed = purge(Bench(any_warehouse), NOW + 401 * DAY, run_log_keep_days=400)
    assert (removed["run_logs"], removed["discrepancies"]) == (1, 1)
    assert [row.run_id for row in stored(any_warehouse, RunLog)] == ["1", "2"]
    assert [row.closed_at for row in stored(any_warehouse, Discrepancy)] == [None]


def test_clicks_stay_unless_a_limit_is_set_and_then_their_windows_stay(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.lateness = 400 * DAY
    bench.build(budget(), *(click(number, at(20 + number // 3, 1 + number % 3)) for number in range(3, 12)))
    windows = windows_of(any_warehouse)
    later = at(23) + 40 * DAY
    assert purge(bench, later)["clicks"] == 0
    assert purge(bench, later + timedelta(hours=23), clicks_keep_days=40)["clicks"] == 6
    assert {row.closed_before for row in stored(any_warehouse, ClosedHistory)} == {at(23).date()}
    assert {one.click_time.day for one in clicks_of(any_warehouse).values()} == {23}
    assert windows_of(any_warehouse) == windows

    # All of it once more, a correction, and a budget that would have restated those days: closed is closed.
    again = [click(number, at(20 + number // 3, 1 + number % 3)) for number in range(3, 12)]
    bench.build(*again, click(4, at(21, 2), "9", updated_at=at(23)), budget(2, at(20), "1"))
    changed = {key: one for key, one in windows_of(any_warehouse).items() if one != windows.get(key)}
    assert changed == {}
    assert purge(bench, later, clicks_keep_days=40)["clicks"] == 6
    assert count(any_warehouse, TouchedDay) == 0
    bench.build(click(20, at(23, 5)))
    assert windows_of(any_warehouse) != windows


def test_a_day_that_waits_to_be_rebuilt_is_not_closed(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.merge(click(1, at(21, 1)), click(2, at(22, 1)))
    assert purge(bench, at(23) + 40 * DAY, clicks_keep_days=40)["clicks"] == 0
    bench.rebuild()
    assert purge(bench, at(23) + 40 * DAY, clicks_keep_days=40)["clicks"] == 2
    assert count(any_warehouse, ClickEvent) == 0


@pytest.mark.parametrize(
    "keep", [{"rejected_keep_days": 6}, {"staging_keep_days": 91}, {"clicks_keep_days": 60, "lateness_days": 60}]
)
def test_what_needs_each_other_is_kept_together(keep: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="are kept"):
        settings(**keep)

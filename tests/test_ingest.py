"""Intake: every message staged exactly once, whatever dies, races or is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import insert, text

from spendgate.errors import ConfigurationError, StreamGapError, StreamUnavailableError
from spendgate.gaps import accept_gap, stored_gaps
from spendgate.ingest import IntakeCounts
from spendgate.payload import unpack_messages
from spendgate.warehouse.engine import Lock, Warehouse
from spendgate.warehouse.tables import (
    STAGED,
    Batch,
    BatchPayload,
    RejectedEvent,
    StagedClick,
    StagingSweep,
    StreamGap,
    StreamPosition,
)
from tests.factories import (
    LATENESS,
    NOW,
    Bench,
    InterruptedIntake,
    ListStream,
    ad,
    advertiser,
    at,
    budget,
    click,
    click_id,
    clicks_of,
    count,
    killed_between_copy_and_commit,
    rejections_of,
    stored,
)


def position(warehouse: Warehouse) -> tuple[int, str | None]:
    """(epoch, position) of the only partition."""
    [row] = stored(warehouse, StreamPosition)
    return row.epoch, row.position


def batches(warehouse: Warehouse) -> list[tuple[str, str, int]]:
    """(from, to, events) of every batch that counts, in order."""
    rows = sorted(stored(warehouse, Batch), key=lambda row: row.batch_id)
    return [(row.from_position, row.to_position, row.event_count) for row in rows]


def staged_clicks(warehouse: Warehouse) -> list[str]:
    """Ids of staged clicks of batches that count."""
    known = {row.batch_id for row in stored(warehouse, Batch)}
    return sorted(str(row.click_id) for row in stored(warehouse, StagedClick) if row.batch_id in known)


def staged_rows(warehouse: Warehouse) -> int:
    """All rows that intake ever wrote, whether they count or not."""
    return sum(count(warehouse, table) for table in (*STAGED, RejectedEvent, BatchPayload))


# --- Reading ---------------------------------------------------------------------------------------------


def test_a_partition_is_read_to_its_end_in_batches_and_then_from_there(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, batch_size=3)
    bench.stream.append(*(click(number) for number in range(7)))
    first = bench.read()
    assert (first.batches, first.events) == (3, 7)
    assert batches(any_warehouse) == [("0", "3", 3), ("3", "6", 3), ("6", "7", 1)]
    assert (bench.read().batches, bench.read().events) == (0, 0)
    bench.stream.append(click(7))
    assert bench.read().events == 1
    assert batches(any_warehouse)[3:] == [("7", "8", 1)]
    assert staged_clicks(any_warehouse) == [click_id(number) for number in range(8)]
    assert bench.stream.committed == [("0", "7"), ("0", "7"), ("0", "7"), ("0", "8")]


def test_a_batch_of_everything_lands_in_its_tables(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stream.append(click(), budget(), advertiser(), ad(), b"?")
    assert bench.read().as_dict() == {
        "partitions": 1,
        "batches": 1,
        "events": 5,
        "rejected": {"not_json": 1},
    }
    assert [count(any_warehouse, table) for table in STAGED] == [1, 1, 1, 1]
    [batch] = stored(any_warehouse, Batch)
    assert (batch.event_count, batch.click_count, batch.rejected_count, batch.state) == (5, 1, 1, "staged")


def test_an_empty_stream_is_known_from_then_on_and_nothing_else(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    assert bench.read() == IntakeCounts("ad-clicks", "0")
    assert position(any_warehouse) == (1, None)
    assert bench.stream.committed == []


def test_positions_that_hold_nothing_are_passed(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stream.skip(4)
    assert bench.read().batches == 1
    assert position(any_warehouse) == (1, "4")
    assert batches(any_warehouse) == []
    bench.stream.append(click())
    bench.stream.skip(2)
    bench.read()
    assert batches(any_warehouse) == [("4", "7", 1)]


def test_a_read_that_breaks_off_keeps_the_batches_it_had(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, batch_size=2)
    bench.stream.append(*(click(number) for number in range(5)))
    bench.stream.break_at(3)
    with pytest.raises(StreamUnavailableError):
        bench.read()
    assert position(any_warehouse) == (1, "2")
    bench.stream.break_at(None)
    assert bench.read().events == 3
    assert staged_clicks(any_warehouse) == [click_id(number) for number in range(5)]


# --- Rejected messages -------------------------------------------------------------------------------------


def test_a_batch_with_nothing_valid_is_all_rejections_with_bytes_and_coordinates(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bodies = [None, b"", b"\x00\xff", click(event_type="view"), click(amount="-1")]
    bench.stream.append(*bodies)
    counts = bench.read()
    assert counts.rejected == {"not_json": 3, "unknown_event_type": 1, "out_of_range": 1}
    rows = sorted(stored(any_warehouse, RejectedEvent), key=lambda row: row.ordinal)
    assert [None if row.raw is None else bytes(row.raw) for row in rows] == bodies
    assert [(row.stream, row.partition_id, row.epoch, row.position) for row in rows] == [
        ("ad-clicks", "0", 1, str(offset)) for offset in range(5)
    ]
    assert {row.enqueued_at for row in rows} == {NOW}
    assert rows[4].detail == "amount is negative."
    assert position(any_warehouse) == (1, "5")


def test_a_batchs_payload_keeps_every_message_as_it_came(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stream.append(click(), None, b"\x00\xff")
    bench.read()
    [row] = stored(any_warehouse, BatchPayload)
    messages = unpack_messages(bytes(row.content), range(3))
    assert [one.raw for one in messages] == [click(), None, b"\x00\xff"]
    assert [one.position for one in messages] == ["0", "1", "2"]


# --- Races -----------------------------------------------------------------------------------------------


def test_of_two_readers_the_slower_ones_rows_are_gone_and_every_message_counts_once(
    any_warehouse: Warehouse,
) -> None:
    stream = ListStream()
    stream.append(*(click(number) for number in range(4)), b"?")
    faster = Bench(any_warehouse, stream, batch_size=5)
    slower = InterruptedIntake(any_warehouse, lambda: NOW, 2, LATENESS, interruption=faster.read)
    counts = slower.read_partition(stream, stream.partitions()[0])
    assert counts.overtaken
    assert (counts.batches, counts.events, dict(counts.rejected)) == (0, 0, {})
    assert batches(any_warehouse) == [("0", "5", 5)]
    assert staged_clicks(any_warehouse) == [click_id(number) for number in range(4)]
    assert count(any_warehouse, StagedClick) == 4
    assert count(any_warehouse, BatchPayload) == 1
    assert rejections_of(any_warehouse) == {"not_json": 1}


def test_who_was_overtaken_before_it_began_copies_nothing(any_warehouse: Warehouse) -> None:
    stream = ListStream()
    stream.append(click(1))
    bench = Bench(any_warehouse, stream)
    partition = stream.partitions()[0]

    class Overtaken(ListStream):
        """Hands out a read, and is read by another before that begins."""

        @contextmanager
        def read(self, partition: Any, position: str | None) -> Iterator[Any]:
            with stream.read(partition, position) as opened:
                bench.read()
                yield opened

    counts = bench.intake().read_partition(Overtaken(), partition)
    assert counts.overtaken
    assert staged_rows(any_warehouse) == 2  # the click and its batch's payload


def test_two_readers_may_meet_a_partition_for_the_first_time_at_once(warehouse: Warehouse) -> None:
    bench = Bench(warehouse)
    bench.stream.append(click(1))
    first = {"stream": "ad-clicks", "partition_id": "0", "epoch": 1, "incarnation": "ad-clicks-1", "position": None}
    with ThreadPoolExecutor(1) as other:
        with warehouse.transaction() as transaction:
            transaction.run(insert(StreamPosition), [first | {"created_at": NOW, "updated_at": NOW}])
            reading = other.submit(bench.read)
            wait_until_blocked(warehouse)
        assert reading.result(20).events == 1


def wait_until_blocked(warehouse: Warehouse) -> None:
    """Wait until some other session waits for a row of ours."""
    for _ in range(200):
        with warehouse.transaction() as transaction:
            waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'"
            if transaction.connection.scalar(text(waiting)):
                return
        time.sleep(0.05)
    raise AssertionError("nobody waits")


# --- Orphans ---------------------------------------------------------------------------------------------


def test_rows_of_a_killed_reader_count_for_nothing_and_are_removed_by_the_next_run(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stream.append(click(1), click(2), b"?")
    killed_between_copy_and_commit(bench)
    assert staged_rows(any_warehouse) == 4
    assert batches(any_warehouse) == []
    assert bench.merge().inserted == 2  # read again, from where the position still is
    assert len(clicks_of(any_warehouse)) == 2
    assert rejections_of(any_warehouse) == {"not_json": 1}
    assert staged_rows(any_warehouse) == 8
    assert bench.intake().remove_orphans() == 4
    assert staged_rows(any_warehouse) == 4
    assert rejections_of(any_warehouse) == {"not_json": 1}


def test_a_clock_that_fails_in_the_middle_of_a_batch_leaves_only_orphans(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stream.append(click(1), b"?")
    ticks = iter([NOW, NOW])

    def failing() -> datetime:
        return next(ticks)

    with pytest.raises(StopIteration):
        bench.intake(failing).read_partition(bench.stream, bench.stream.partitions()[0])
    assert position(any_warehouse) == (1, None)
    assert bench.read().events == 2
    assert bench.intake().remove_orphans() > 0
    assert staged_clicks(any_warehouse) == [click_id(1)]


def test_orphans_wait_while_somebody_is_staging(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stream.append(click())
    killed_between_copy_and_commit(bench)
    with any_warehouse.transaction() as other:
        other.hold(Lock.STAGING, shared=True)
        assert bench.intake().remove_orphans() == 0
        assert staged_rows(any_warehouse) == 2
    assert bench.intake().remove_orphans() == 2


def test_a_batch_that_is_being_staged_is_no_orphan(any_warehouse: Warehouse) -> None:
    stream = ListStream()
    stream.append(click())
    bench = Bench(any_warehouse, stream)
    removed: list[int] = []
    intake = InterruptedIntake(
        any_warehouse,
        bench.clock,
        10,
        LATENESS,
        interruption=lambda: removed.append(bench.intake().remove_orphans()),
    )
    assert intake.read_partition(stream, stream.partitions()[0]).events == 1
    assert removed == [0]
    assert staged_clicks(any_warehouse) == [click_id(1)]


def test_rows_of_merged_batches_are_no_orphans_and_a_sweep_goes_on_where_the_last_one_ended(
    any_warehouse: Warehouse,
) -> None:
    bench = Bench(any_warehouse)
    bench.merge(click(1))
    assert bench.intake().remove_orphans() == 0
    [first] = stored(any_warehouse, StagingSweep)
    bench.merge(click(2))
    assert bench.intake().remove_orphans() == 0
    [second] = stored(any_warehouse, StagingSweep)
    assert second.swept_through > first.swept_through
    assert staged_clicks(any_warehouse) == [click_id(1), click_id(2)]


# --- Gaps and epochs -----------------------------------------------------------------------------------------


def test_events_that_retention_took_are_a_gap_until_a_person_accepts_it(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stage(click(0), click(1))
    bench.stream.append(*(click(number) for number in range(2, 7)))
    bench.stream.lose(4)
    for _ in range(2):
        with pytest.raises(StreamGapError, match="ad-clicks/0 lost the events from 2 to 4"):
            bench.read()
    [gap] = stored(any_warehouse, StreamGap)
    assert (gap.epoch, gap.from_position, gap.to_position, gap.accepted_at) == (1, "2", "4", None)
    assert position(any_warehouse) == (1, "2")
    accept_gap(any_warehouse, gap.id, "ops", NOW)
    assert bench.read().events == 3
    assert batches(any_warehouse)[-1] == ("2", "7", 3)  # batches join without a seam, the loss included
    assert [row.accepted_by for row in stored_gaps(any_warehouse)[1]] == ["ops"]
    with pytest.raises(ConfigurationError):
        accept_gap(any_warehouse, gap.id, "ops", NOW)


def test_a_gap_that_grew_before_it_was_accepted_is_one_gap(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stage(click(0))
    bench.stream.append(*(click(number) for number in range(1, 6)))
    for lost in (2, 2):
        bench.stream.lose(lost)
        with pytest.raises(StreamGapError):
            bench.read()
    assert [(row.from_position, row.to_position) for row in stored(any_warehouse, StreamGap)] == [("1", "4")]


def test_a_loss_beyond_the_one_that_was_accepted_has_to_be_accepted_too(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stage(click(0))
    bench.stream.append(*(click(number) for number in range(1, 6)))
    bench.stream.lose(2)
    with pytest.raises(StreamGapError):
        bench.read()
    [gap] = stored(any_warehouse, StreamGap)
    accept_gap(any_warehouse, gap.id, "ops", NOW)
    bench.stream.lose(2)
    with pytest.raises(StreamGapError, match="to 4"):
        bench.read()


def test_what_retention_took_before_anybody_read_is_no_gap(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stream.append(click(0), click(1), click(2))
    bench.stream.lose(2)
    assert bench.read().events == 1
    assert batches(any_warehouse) == [("2", "3", 1)]


def test_a_stream_made_anew_is_read_from_its_beginning_as_a_new_epoch(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stage(click(0), click(1), b"old")
    bench.stream.make_anew()
    bench.stream.append(click(1), click(2), b"new")
    assert bench.read().events == 3
    assert position(any_warehouse) == (2, "3")
    epochs = sorted((row.epoch, bytes(row.raw)) for row in stored(any_warehouse, RejectedEvent))
    assert epochs == [(1, b"old"), (2, b"new")]
    bench.merge()
    assert sorted(clicks_of(any_warehouse)) == [click_id(0), click_id(1), click_id(2)]


def test_each_partition_has_its_own_position(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, ListStream(partitions=2))
    bench.stream.append(click(1), click(2))
    bench.stream.append(click(3), partition=1)
    bench.read(1)
    assert {row.partition_id: row.position for row in stored(any_warehouse, StreamPosition)} == {"1": "1"}
    bench.read(0)
    assert {row.partition_id: row.position for row in stored(any_warehouse, StreamPosition)} == {"0": "2", "1": "1"}


def test_a_click_is_late_by_its_time_on_the_broker_and_not_by_when_it_is_read(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, now=at(30))
    bench.stream.append(click(1, at(1)), enqueued_at=at(2))
    bench.stream.append(click(2, at(1)), enqueued_at=at(2) + LATENESS)
    assert bench.read().rejected == {"too_late": 1}


def test_a_batch_that_somebody_else_registered_is_never_half_there(any_warehouse: Warehouse) -> None:
    """The batch's row and the position are one transaction: a clash of batch ids moves nothing."""
    bench = Bench(any_warehouse)
    bench.stage(click(1))
    [known] = stored(any_warehouse, Batch)
    row = dict(known._mapping) | {"batch_id": known.batch_id + 1}
    with any_warehouse.transaction() as transaction:
        transaction.run(insert(Batch), [row])
    bench.stream.append(click(2))
    with pytest.raises(Exception, match="warehouse"):
        bench.read()
    assert position(any_warehouse) == (1, "1")

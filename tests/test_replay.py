"""Replay: rejected events are read once more, count once, and leave their table only by being accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from sqlalchemy import Table, delete, event, select, update

from spendgate.errors import ConfigurationError, RunUnderWayError
from spendgate.events import Reason
from spendgate.merge import Merge
from spendgate.payload import unpack_messages
from spendgate.replay import RejectedFilter, Replay, ReplayCounts
from spendgate.warehouse.engine import Lock, Warehouse
from spendgate.warehouse.tables import METADATA, STAGED, Batch, BatchPayload, RejectedEvent, StagedClick
from tests import model
from tests.factories import (
    DAY,
    LENIENT,
    NOW,
    Bench,
    KilledError,
    ListStream,
    ad,
    advertiser,
    assert_rows_are,
    at,
    budget,
    click,
    click_id,
    clicks_of,
    count,
    empty_everything,
    kill,
    killed_between_copy_and_commit,
    rejected_bodies,
    rejections_of,
    stored,
)
from tests.strategies import World, worlds
from tests.test_pipeline import benches, hold

ONE_DAY = timedelta(days=1)
# Rejected by a limit of one day, and by none of thirty-one.
OLD = [click(number, at(20 - number, 8)) for number in range(4)]


def late_bench(warehouse: Warehouse, *bodies: bytes | None, **more: Any) -> Bench:
    """A bench that was built with a lateness of one day, which then was raised."""
    bench = Bench(warehouse, lateness=ONE_DAY, **more)
    bench.build(*bodies)
    bench.lateness = timedelta(days=31)
    return bench


def one_pass(*bodies: bytes | None, enqueued_at: datetime = NOW, read_at: datetime | None = None) -> model.Model:
    """What a single pass over all events gives, had all been right from the beginning."""
    truth = model.Model(read_at=read_at)
    truth.feed((raw, enqueued_at) for raw in bodies)
    return truth


def assert_all_is(warehouse: Warehouse, truth: model.Model) -> None:
    assert_rows_are(warehouse, truth, flags=False)
    assert rejected_bodies(warehouse) == Counter((one.reason, one.raw) for one in truth.rejections)
    assert stored(warehouse, RejectedEvent, RejectedEvent.c.replay_batch_id.is_not(None)) == []


def replays(warehouse: Warehouse) -> list[tuple[str, str, int, str, str, int]]:
    """(stream, partition, epoch, from, to, events) of every replayed batch, in order."""
    rows = sorted(stored(warehouse, Batch, Batch.c.is_replay == 1), key=lambda row: row.batch_id)
    return [(r.stream, r.partition_id, r.epoch, r.from_position, r.to_position, r.event_count) for r in rows]


def rows_in(warehouse: Warehouse) -> dict[str, list[Any]]:
    """Everything that is in the warehouse."""
    return {table.fullname: stored(warehouse, table) for table in METADATA.tables.values()}


# --- After the cause was mended ----------------------------------------------------------------------------


def test_after_lateness_was_raised_a_replay_gives_what_one_pass_would_have_given(any_warehouse: Warehouse) -> None:
    bodies = [budget(1, at(15)), *OLD, click(9, at(23, 8)), advertiser(at(22)), b"?", click(8, at(23), amount="-1")]
    bench = late_bench(any_warehouse, *bodies)
    assert rejections_of(any_warehouse) == {"too_late": 4, "not_json": 1, "out_of_range": 1}
    counts = bench.replay()
    assert counts.as_dict() == {
        "dry_run": False,
        "looked_at": 6,
        "accepted": 4,
        "batches": 1,
        "rejected": {"not_json": 1, "out_of_range": 1},
    }
    assert bench.merge().replayed == 4
    bench.rebuild()
    assert_all_is(any_warehouse, one_pass(*bodies))


def test_what_was_in_the_future_is_an_event_once_its_time_has_come(any_warehouse: Warehouse) -> None:
    bodies = [
        click(1, NOW + timedelta(hours=3)),
        budget(1, NOW + timedelta(hours=3)),
        advertiser(NOW + timedelta(hours=3)),
        ad(NOW + timedelta(hours=3)),
    ]
    bench = Bench(any_warehouse)
    bench.build(*bodies)
    bench.now = NOW + timedelta(hours=3, minutes=-5, milliseconds=-1)
    assert bench.replay().rejected == {"in_the_future": 4}
    bench.now += timedelta(milliseconds=1)
    assert bench.replay().accepted == 4
    bench.build()
    assert_all_is(any_warehouse, one_pass(*bodies, read_at=bench.now))


def test_too_late_is_judged_by_the_time_of_enqueueing_however_long_ago_that_was(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, click(1, at(20)))
    bench.now += timedelta(days=400)
    assert bench.replay().accepted == 1
    bench.build()
    assert list(clicks_of(any_warehouse)) == [click_id(1)]


def test_every_stream_is_judged_by_its_own_limit(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, click(1, at(20)))
    files = Bench(any_warehouse, ListStream("history"), lateness=ONE_DAY)
    files.build(click(2, at(20)))
    limits = {"ad-clicks": timedelta(days=2), "history": timedelta(days=400)}
    counts = Replay(any_warehouse, bench.clock, 10, limits.__getitem__).replay_rejected(RejectedFilter())
    assert (counts.accepted, counts.rejected) == (1, {"too_late": 1})
    bench.build()
    assert list(clicks_of(any_warehouse)) == [click_id(2)]


def test_a_clock_that_is_behind_the_producers_makes_no_answer_stricter(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, click(1, at(20), updated_at=NOW))
    bench.now = at(22)
    assert bench.replay().accepted == 1


def test_replayed_events_restate_days_that_were_built(any_warehouse: Warehouse) -> None:
    bodies = [budget(1, at(18), "3"), click(1, at(22, 18), "2"), click(2, at(21, 8), "2"), click(3, at(21, 9), "2")]
    bench = late_bench(any_warehouse, *bodies)
    bench.replay()
    bench.build()
    assert_all_is(any_warehouse, one_pass(*bodies))


# --- What stays rejected -----------------------------------------------------------------------------------


def test_who_is_rejected_again_keeps_its_row_and_only_a_new_answer_is_written_down(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, lateness=ONE_DAY)
    bench.build(click(1, at(1)), b"?", None)
    before = {row.ordinal: row for row in stored(any_warehouse, RejectedEvent)}
    bench.lateness = timedelta(days=2)
    bench.now += timedelta(hours=1)
    assert bench.replay().as_dict() == {
        "dry_run": False,
        "looked_at": 3,
        "accepted": 0,
        "batches": 0,
        "rejected": {"not_json": 2, "too_late": 1},
    }
    after = {row.ordinal: row for row in stored(any_warehouse, RejectedEvent)}
    assert (after[1], after[2]) == (before[1], before[2])
    assert after[0].detail == "click_time is more than 2 days before the event was enqueued."
    assert after[0]._asdict() | {"detail": before[0].detail, "updated_at": NOW} == before[0]._asdict()
    assert after[0].updated_at == bench.now


def test_a_conflict_that_is_replayed_stays_one_row_however_often(any_warehouse: Warehouse) -> None:
    bodies = [click(1), click(1, amount="9"), budget(1), budget(1, value="9"), advertiser(), advertiser(name="9")]
    bench = Bench(any_warehouse)
    bench.build(*bodies, ad(), ad(ad_title="9"))
    before = stored(any_warehouse, RejectedEvent)
    for hours in (1, 2):
        bench.now = NOW + timedelta(hours=hours)
        assert bench.replay().accepted == 4
        counts = bench.merge()
        assert (counts.conflicts, counts.replayed) == (4, 0)
        bench.rebuild()
        after = stored(any_warehouse, RejectedEvent)
        assert [row._asdict() | {"updated_at": NOW} for row in after] == [row._asdict() for row in before]
        assert {row.updated_at for row in after} == {bench.now}
    assert_all_is(any_warehouse, one_pass(*bodies, ad(), ad(ad_title="9")))


def test_an_event_that_turns_out_to_be_in_conflict_gets_that_reason_in_its_row(any_warehouse: Warehouse) -> None:
    late = click(1, at(20), "9", updated_at=at(23))
    bench = late_bench(any_warehouse, late, click(1, at(23), "2"), click(2, at(20)))
    [row, _] = stored(any_warehouse, RejectedEvent)
    bench.replay()
    counts = bench.merge()
    assert (counts.conflicts, counts.replayed) == (1, 1)
    [now] = stored(any_warehouse, RejectedEvent)
    assert (now.id, bytes(now.raw), now.reason) == (row.id, late, "conflicting_duplicate")
    assert now.detail.startswith("Another version of this click")
    assert (now.replay_batch_id, now.replay_ordinal) == (None, None)


def test_a_conflict_with_a_version_that_no_longer_holds_is_known_and_leaves(any_warehouse: Warehouse) -> None:
    bodies = [click(1), click(1, amount="9"), click(1, amount="3", updated_at=at(22))]
    bench = Bench(any_warehouse)
    bench.build(bodies[0])
    bench.build(bodies[1])
    bench.build(bodies[2])
    assert rejections_of(any_warehouse) == {"conflicting_duplicate": 1}
    bench.replay()
    counts = bench.merge()
    assert (counts.superseded, counts.replayed) == (1, 1)
    assert_rows_are(any_warehouse, one_pass(*bodies), flags=False)
    assert count(any_warehouse, RejectedEvent) == 0


def test_of_one_event_that_was_rejected_twice_both_rows_leave_and_it_counts_once(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, click(1, at(20)), click(1, at(20)), budget(1, at(20)))
    bench.replay()
    counts = bench.merge()
    assert (counts.inserted, counts.duplicates, counts.replayed) == (1, 1, 2)
    bench.rebuild()
    assert_all_is(any_warehouse, one_pass(click(1, at(20)), budget(1, at(20))))


# --- Which are meant ---------------------------------------------------------------------------------------


@pytest.fixture
def assorted(any_warehouse: Warehouse) -> Bench:
    """Two streams, three instants, four reasons."""
    bench = Bench(any_warehouse)
    bench.build(click(1), click(1, amount="2.5"))  # in conflict, and the last to be found so
    for body, hour in ((b"?", 0), (click(2, amount="-1"), 1), (b"[", 2)):
        bench.stream.append(body, enqueued_at=NOW + timedelta(hours=hour))
    bench.read()
    other = Bench(any_warehouse, ListStream("ad-budgets"))
    other.stage(b"!", budget(value="x"))
    return bench


@pytest.mark.parametrize(
    ("which", "raws"),
    [
        (RejectedFilter(), [b"?", b"[", b"!", click(2, amount="-1"), budget(value="x"), click(1, amount="2.5")]),
        (RejectedFilter(reason=Reason.NOT_JSON), [b"?", b"[", b"!"]),
        (RejectedFilter(stream="ad-budgets"), [b"!", budget(value="x")]),
        (RejectedFilter(reason=Reason.NOT_JSON, stream="ad-clicks"), [b"?", b"["]),
        (RejectedFilter(since=NOW + timedelta(hours=1)), [click(2, amount="-1"), b"["]),
        (RejectedFilter(since=NOW + timedelta(hours=1), until=NOW + timedelta(hours=2)), [click(2, amount="-1")]),
        (RejectedFilter(until=NOW), []),
        (RejectedFilter(stream="nope"), []),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(value.reason or value.stream or value.since or "all"),
)
def test_only_what_the_filter_means_is_looked_at(
    assorted: Bench, any_warehouse: Warehouse, which: RejectedFilter, raws: list[bytes]
) -> None:
    rows = stored(any_warehouse, RejectedEvent, *which.conditions())
    assert sorted(bytes(row.raw) for row in rows) == sorted(raws)
    assert assorted.replay(which).looked_at == len(raws)


def test_single_events_are_meant_by_their_ids(assorted: Bench, any_warehouse: Warehouse) -> None:
    ids = [row.id for row in stored(any_warehouse, RejectedEvent)]
    assert assorted.replay(RejectedFilter(ids=(ids[0], ids[-1], 4711))).looked_at == 2
    assert assorted.replay(RejectedFilter(ids=(4711,))).looked_at == 0


def test_a_filter_is_read_as_a_person_types_it() -> None:
    assert RejectedFilter.typed(None, None, None, None) == RejectedFilter()
    assert RejectedFilter.typed("", "", "", "") == RejectedFilter()
    typed = RejectedFilter.typed("too_late", "ad-clicks", "2026-11-21T00:00:00Z", "2026-11-22T01:00:00+01:00", [3])
    assert typed == RejectedFilter(Reason.TOO_LATE, "ad-clicks", at(21), at(22), (3,))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"reason": "late"}, "There is no reason 'late'; there are not_json, unknown_event_type, .*duplicate"),
        ({"since": "yesterday"}, "'yesterday' is not a time; write it like"),
        ({"until": "2026-11-21T00:00:00"}, "has no offset"),
        ({"since": "2026-11-21T00:00:00Z", "until": "2026-11-21T00:00:00Z"}, "make since the earlier one"),
        ({"ids": range(1001)}, "1001 ids; give at most 1000"),
    ],
)
def test_a_filter_that_is_none_is_refused_in_a_sentence(typed: dict[str, Any], said: str) -> None:
    nothing = {"reason": None, "stream": None, "since": None, "until": None}
    with pytest.raises(ConfigurationError, match=said):
        RejectedFilter.typed(**(nothing | typed))


def test_rows_of_a_batch_that_never_came_to_count_are_not_meant(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, lateness=ONE_DAY)
    bench.stream.append(click(1, at(20)))
    killed_between_copy_and_commit(bench)
    bench.lateness = timedelta(days=31)
    assert count(any_warehouse, RejectedEvent) == 1
    assert bench.replay().looked_at == 0
    assert bench.intake().remove_orphans() == 2


# --- Batches and their coordinates ---------------------------------------------------------------------------


def test_a_replayed_batch_is_of_one_partition_and_epoch_and_keeps_all_coordinates(any_warehouse: Warehouse) -> None:
    stream = ListStream(partitions=2)
    bench = Bench(any_warehouse, stream, lateness=ONE_DAY)
    stamp = NOW - timedelta(seconds=1, milliseconds=-1)
    stream.append(click(1, at(20)), click(7, at(23)), click(2, at(20)), enqueued_at=stamp)
    stream.append(click(3, at(20)), partition=1)
    bench.build()
    stream.make_anew()
    stream.append(click(4, at(20)))
    bench.build()
    bench.lateness = timedelta(days=31)
    assert bench.replay().batches == 3
    assert replays(any_warehouse) == [
        ("ad-clicks", "0", 1, "0", "2", 2),
        ("ad-clicks", "1", 1, "0", "0", 1),
        ("ad-clicks", "0", 2, "0", "0", 1),
    ]
    first = min(row.batch_id for row in stored(any_warehouse, Batch, Batch.c.is_replay == 1))
    [payload] = stored(any_warehouse, BatchPayload, BatchPayload.c.batch_id == first)
    messages = unpack_messages(bytes(payload.content), range(2))
    assert [(one.raw, one.position) for one in messages] == [(click(1, at(20)), "0"), (click(2, at(20)), "2")]
    assert {one.enqueued_ms for one in messages} == {round(stamp.timestamp() * 1000)}
    assert sum(row.event_count for row in stored(any_warehouse, Batch, Batch.c.is_replay == 0)) == 5


def test_rejected_events_are_walked_in_chunks_in_the_order_of_their_arrival(any_warehouse: Warehouse) -> None:
    bodies = [body for pair in zip(OLD, (b"1", b"2", b"3", b"4"), strict=True) for body in pair]
    bench = late_bench(any_warehouse, *bodies, budget(1, at(10)), batch_size=3)
    ticks: list[tuple[int, int]] = []
    counts = bench.replayer().replay_rejected(
        RejectedFilter(), progress=lambda done, total: ticks.append((done, total))
    )
    assert (counts.looked_at, counts.accepted, counts.batches) == (8, 4, 3)
    assert ticks == [(3, 8), (6, 8), (8, 8)]
    assert [row[3:] for row in replays(any_warehouse)] == [("0", "2", 2), ("4", "4", 1), ("6", "6", 1)]
    bench.build()
    assert_all_is(any_warehouse, one_pass(*bodies, budget(1, at(10))))


def test_a_conflict_that_came_before_a_newer_version_is_replayed_before_it(any_warehouse: Warehouse) -> None:
    """Its row was written later, when it was merged; arrived it had before."""
    newer = click(1, updated_at=NOW + DAY)
    bench = Bench(any_warehouse)
    bench.build(click(1), click(1, amount="9"), newer)
    assert [row.reason for row in stored(any_warehouse, RejectedEvent)] == ["in_the_future", "conflicting_duplicate"]
    bench.now += DAY
    bench.replay()
    bench.build()
    assert_all_is(any_warehouse, one_pass(click(1), click(1, amount="9"), newer, read_at=bench.now))
    assert rejections_of(any_warehouse) == {"conflicting_duplicate": 1}


def test_thousands_are_marked_each_with_its_place(any_warehouse: Warehouse) -> None:
    bodies = [click(number, at(20), amount=str(number % 9)) for number in range(2_500)]
    bench = late_bench(any_warehouse, *bodies, thresholds=LENIENT)
    assert bench.replay().accepted == 2_500
    with any_warehouse.transaction() as transaction:
        # Every 50th clashes with what is stored by the time of the merge.
        staged = transaction.run(select(StagedClick).where(StagedClick.c.ordinal % 50 == 7)).mappings().all()
        clashing = {str(row["click_id"]) for row in staged}
    rivals = [click(number, at(23), updated_at=at(20)) for number in range(2_500) if click_id(number) in clashing]
    with any_warehouse.transaction() as transaction:
        transaction.run(update(Batch).where(Batch.c.is_replay == 1).values(state="held"))
    bench.merge(*rivals)
    with any_warehouse.transaction() as transaction:
        transaction.run(update(Batch).where(Batch.c.is_replay == 1).values(state="staged"))
    counts = bench.merge()
    assert (counts.conflicts, counts.replayed) == (50, 2_450)
    assert {row.raw for row in stored(any_warehouse, RejectedEvent)} == {
        body for number, body in enumerate(bodies) if click_id(number) in clashing
    }


def test_what_is_rejected_while_a_replay_runs_is_left_to_the_next(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, *OLD, batch_size=1)

    class Busy(Replay):
        def _stage(self, *arguments: Any) -> None:
            bench.stage(b"?")
            Replay._stage(self, *arguments)

    counts = Busy(any_warehouse, bench.clock, 1, lambda _: bench.lateness).replay_rejected(RejectedFilter())
    assert counts.looked_at == 4
    assert bench.replay().rejected == {"not_json": 4}


# --- Twice, at once, by hand -------------------------------------------------------------------------------


def test_a_second_replay_changes_nothing_before_or_after_the_merge(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, *OLD, b"?", budget(1, at(20)))
    assert bench.replay().accepted == 4
    waiting = rows_in(any_warehouse)
    assert bench.replay() == ReplayCounts(False, rejected=Counter(not_json=1))
    assert rows_in(any_warehouse) == waiting
    bench.build()
    done = rows_in(any_warehouse)
    assert bench.replay().accepted == 0
    bench.build()
    assert rows_in(any_warehouse) == done


def test_a_dry_run_counts_the_same_and_writes_nothing(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, *OLD, b"?", click(9), click(9, at(1)), click(9, amount="9"))
    bench.lateness = timedelta(days=7)
    before = rows_in(any_warehouse)
    dry = bench.replay(dry_run=True)
    assert rows_in(any_warehouse) == before
    wet = bench.replay()
    assert dry.as_dict() | {"dry_run": False, "batches": wet.batches} == wet.as_dict()
    assert dry.batches == 0


def test_two_replays_at_once_count_every_event_once(any_warehouse: Warehouse) -> None:
    bodies = [click(number, at(20)) for number in range(60)]
    bench = late_bench(any_warehouse, *bodies, budget(1, at(20)), batch_size=4)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(bench.replay), pool.submit(bench.replay)]
        counts = [one.result(60) for one in both]
    assert sum(one.accepted for one in counts) == 60
    assert sum(row[-1] for row in replays(any_warehouse)) == 60
    assert count(any_warehouse, StagedClick) == 60
    bench.build()
    assert_all_is(any_warehouse, one_pass(*bodies, budget(1, at(20))))


def test_who_waits_for_a_replay_too_long_says_so(warehouse: Warehouse) -> None:
    bench = late_bench(warehouse, *OLD)
    warehouse.lock_timeout = 0.2
    with warehouse.transaction() as other:
        other.hold(Lock.REPLAY)
        with pytest.raises(RunUnderWayError, match="replay lock"):
            bench.replay()
    assert replays(warehouse) == []


@contextmanager
def after_each_copy(warehouse: Warehouse, interruptions: list[Callable[[], object]]) -> Iterator[None]:
    """Run the next interruption whenever a payload, the last that is copied of a batch, was copied."""
    original = Warehouse.bulk_load

    def loading(self: Warehouse, table: Table, rows: Any) -> int:
        loaded = original(self, table, rows)
        if table is BatchPayload and interruptions:
            interruptions.pop(0)()
        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Warehouse, "bulk_load", loading)
        yield


def test_a_row_that_a_person_removes_meanwhile_is_not_staged_and_the_others_are(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, *OLD, budget(1, at(10)))

    def remove() -> None:
        with any_warehouse.transaction() as transaction:
            transaction.run(delete(RejectedEvent).where(RejectedEvent.c.raw == OLD[1]))

    with after_each_copy(any_warehouse, [remove]):
        counts = bench.replay()
    assert (counts.accepted, counts.batches) == (3, 1)
    assert count(any_warehouse, StagedClick) == 3
    assert count(any_warehouse, BatchPayload) == 2
    bench.build()
    assert_all_is(any_warehouse, one_pass(OLD[0], *OLD[2:], budget(1, at(10))))


def test_where_locks_lock_nothing_the_slower_replay_still_stages_nothing_twice(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, *OLD)

    def take() -> None:
        # What a replay does that the lock didn't hold back.
        with any_warehouse.transaction() as transaction:
            transaction.run(update(RejectedEvent).values(replay_batch_id=4711, replay_ordinal=RejectedEvent.c.ordinal))

    with after_each_copy(any_warehouse, [take]):
        assert bench.replay().looked_at == 0
    assert replays(any_warehouse) == []
    assert count(any_warehouse, StagedClick) == 0


def test_a_replay_that_is_always_in_the_way_ends_in_a_sentence(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, *OLD)

    def mark(batch_id: int | None) -> None:
        with any_warehouse.transaction() as transaction:
            transaction.run(update(RejectedEvent).values(replay_batch_id=batch_id))

    class Hindered(Replay):
        def _next_chunk(self, *arguments: Any) -> Any:
            mark(None)
            return Replay._next_chunk(self, *arguments)

        def _stage(self, *arguments: Any) -> None:
            mark(4711)
            Replay._stage(self, *arguments)

    with pytest.raises(RunUnderWayError, match="Another replay takes the same events"):
        Hindered(any_warehouse, bench.clock, 10, lambda _: bench.lateness).replay_rejected(RejectedFilter())


# --- Whatever dies -----------------------------------------------------------------------------------------


@dataclass
class Steps:
    """Counts what the warehouse keeps, commits and bulk copies, and dies before the one with the number `fatal`.

    Who dies at a statement before a commit leaves what he leaves at that commit: nothing of the transaction.
    """

    warehouse: Warehouse
    fatal: int | None = None
    taken: int = 0

    def step(self, *_: Any) -> None:
        if self.taken == self.fatal:
            self.taken += 1
            raise KilledError
        self.taken += 1

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Every commit and every bulk copy is a step."""
        engine, original = self.warehouse.engine, Warehouse.bulk_load

        def loading(warehouse: Warehouse, table: Table, rows: Any) -> int:
            self.step()
            return original(warehouse, table, rows)

        event.listen(engine, "commit", self.step)
        try:
            with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
                patch.setattr(Warehouse, "bulk_load", loading)
                yield
        finally:
            event.remove(engine, "commit", self.step)


MIXED = [
    budget(1, at(17), "3"),
    *OLD,
    click(4, at(20), "9", updated_at=at(23)),
    click(4, at(23), "2"),
    budget(2, NOW + DAY, "4"),
    click(5, at(1)),
    click(6),
    click(6, amount="9"),
    b"?",
]


def mixed_bench(warehouse: Warehouse) -> Bench:
    """Events that a replay accepts, finds in conflict, or rejects again, for one reason or another."""
    bench = late_bench(warehouse, *MIXED, batch_size=3)
    bench.lateness = timedelta(days=10)
    bench.now = NOW + DAY
    return bench


@pytest.mark.slow
@pytest.mark.parametrize("dying", ["replay", "merge"])
def test_killed_between_any_two_steps_and_run_again_it_ends_in_the_same_rows(
    any_warehouse: Warehouse, dying: str
) -> None:
    truth = model.Model(lateness_days=1)
    truth.feed((raw, NOW) for raw in MIXED)
    truth.lateness_days, truth.read_at = 10, NOW + DAY
    truth.replay()
    for fatal in range(1000):
        empty_everything(any_warehouse)
        bench = mixed_bench(any_warehouse)
        if dying == "merge":
            bench.replay()
            bench.judge()
        steps = Steps(any_warehouse, fatal)
        with steps.counted():
            bench.replay() if dying == "replay" else Merge(any_warehouse, bench.clock).merge_staged()
        bench.intake().remove_orphans()
        bench.replay()
        bench.build()
        assert_all_is(any_warehouse, truth)
        known = {row.batch_id for row in stored(any_warehouse, Batch)}
        assert {row.batch_id for table in (*STAGED, BatchPayload) for row in stored(any_warehouse, table)} <= known
        if steps.taken == fatal:
            break
    assert fatal >= {"replay": 22, "merge": 2}[dying], "there are more steps than that"


def test_orphans_of_a_killed_replay_are_removed_and_marked_rows_stay(any_warehouse: Warehouse) -> None:
    bench = late_bench(any_warehouse, *OLD[:2])
    bench.replay()
    bench.lateness = ONE_DAY
    bench.stage(*OLD[2:])
    bench.lateness = timedelta(days=31)
    with suppress(KilledError), after_each_copy(any_warehouse, [kill]):
        bench.replay()
    assert count(any_warehouse, StagedClick) == 4
    assert bench.intake().remove_orphans() == 3
    assert count(any_warehouse, StagedClick) == 2
    assert count(any_warehouse, RejectedEvent) == 4
    bench.replay()
    assert bench.merge().replayed == 4


# --- Any world ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.untraced
def test_in_any_world_a_replay_ends_in_the_models_rows(any_warehouse: Warehouse) -> None:
    """Events that came too early or too late by what held then; without conflicts it is as one pass gives."""

    def check(case: tuple[bool, World], sizes: dict[str, int], early: int, lateness: int) -> None:
        conflicts, world = case
        empty_everything(any_warehouse)
        enqueued_at = NOW - timedelta(days=early)
        bench = Bench(any_warehouse, lateness=timedelta(days=lateness), **sizes)
        truth = model.Model(lateness_days=lateness)
        for run in world.runs:
            bench.stream.append(*run.bodies, enqueued_at=enqueued_at)
            truth.feed((body, enqueued_at) for body in run.bodies)
            bench.build()
        bench.lateness, truth.lateness_days, truth.read_at = timedelta(days=40), 40, NOW
        for _ in range(2):
            bench.replay()
            bench.build()
            truth.replay()
            assert_all_is(any_warehouse, truth)
        if not conflicts:
            whole = model.Model(lateness_days=40, read_at=NOW)
            whole.feed((body, enqueued_at) for body in world.bodies)
            assert_all_is(any_warehouse, whole)

    cases = st.booleans().flatmap(lambda conflicts: st.tuples(st.just(conflicts), worlds(NOW, conflicts=conflicts)))
    early, lateness = st.sampled_from((0, 1, 2, 3)), st.sampled_from((1, 2, 31))
    hold(any_warehouse.dialect, {"case": cases, "sizes": benches(), "early": early, "lateness": lateness}, check)

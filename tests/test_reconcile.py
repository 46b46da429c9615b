"""Reconciliation with a real broker: each damage is found, named, and repaired where that is right, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, update

from spendgate.bookkeeping import Bookkeeping, asked_days
from spendgate.clock import day_start, utc_now
from spendgate.differences import accept_difference
from spendgate.errors import ConfigurationError, DiscrepancyError, RunUnderWayError
from spendgate.pipeline import Pipeline
from spendgate.reconcile import Days
from spendgate.replay import RejectedFilter
from spendgate.settings import Settings
from spendgate.streams.endpoints import Endpoints
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import (
    Batch,
    BatchOutcome,
    BatchPayload,
    BudgetEvent,
    ClickEvent,
    Discrepancy,
    Outbox,
    RejectedEvent,
    ServingFlag,
    SpendSummary,
    StagedClick,
    StreamPosition,
)
from tests.brokers import Bench, WheelBroker
from tests.factories import Bench as Memory
from tests.factories import (
    advertiser,
    budget,
    budgets_of,
    click,
    click_id,
    clicks_of,
    flags_of,
    read_topic,
    stored,
    windows_of,
)

TODAY = day_start(utc_now().date())
YESTERDAY = TODAY - timedelta(days=1)
BEFORE = TODAY - timedelta(days=2)
NOON = YESTERDAY + timedelta(hours=12)
DAYS = Days(BEFORE.date(), TODAY.date())


class Desk:
    """A pipeline over one warehouse and topics of its own, two runs behind it, and what is wrong on purpose."""

    def __init__(self, warehouse: Warehouse, broker: Bench) -> None:
        self.warehouse, self.broker = warehouse, broker
        self.stream = broker.topic(partitions=2)
        settings = Settings(
            warehouse_url=SecretStr("postgresql+psycopg://unused"),
            streams=(self.stream,),
            flag_topic=broker.topic(),
            stream_timeout=5,
            batch_size=5,
        )
        self.pipeline = Pipeline(settings, warehouse, Endpoints(settings, kafka=lambda: broker.properties))
        self.send(
            *(advertiser(BEFORE, advertiser_id=number) for number in (1, 2)),
            budget(1, BEFORE, "5"),
            budget(2, BEFORE, "5", advertiser_id=2),
            *(click(number, YESTERDAY + timedelta(hours=number)) for number in range(1, 5)),
            click(1, YESTERDAY + timedelta(hours=1)),  # a duplicate
            click(1, YESTERDAY + timedelta(hours=1), "3"),  # a conflict
            b"not json",
        )
        self.send(
            click(2, YESTERDAY + timedelta(hours=3), "1.5", is_valid=False, updated_at=NOON),  # restated and moved
            click(2, YESTERDAY + timedelta(hours=2)),  # and superseded
            click(5, BEFORE + timedelta(hours=5), "4", advertiser_id=2),
            click(6, YESTERDAY + timedelta(hours=6), "4", advertiser_id=2),
            budget(3, BEFORE + timedelta(hours=4), "3", advertiser_id=2),  # a late budget restates both days
            partition=1,
        )

    def send(self, *bodies: bytes, partition: int = 0) -> None:
        self.broker.produce(self.stream, bodies, partition=partition)
        self.pipeline.run(NOON)

    def books(self, by: str = "maria") -> Bookkeeping:
        return Bookkeeping(self.pipeline, by, settle_seconds=0.0)

    def reconcile(self, days: Days = DAYS, *, repair: bool = False) -> dict[str, Any]:
        return self.books().reconcile(days, repair=repair)

    def spoil(self, statement: Any) -> None:
        with self.warehouse.transaction() as transaction:
            assert transaction.run(statement).rowcount == 1

    def open(self) -> dict[str, tuple[str, str]]:
        """Expected and found of every open difference, by what it is."""
        rows = stored(self.warehouse, Discrepancy, Discrepancy.c.closed_at.is_(None))
        return {row.subject: (row.expected, row.found) for row in rows}

    def outcomes(self) -> set[tuple[str, str, str]]:
        rows = stored(self.warehouse, Discrepancy, Discrepancy.c.closed_at.is_not(None))
        return {(row.kind, row.outcome, row.closed_by) for row in rows}

    def newest(self) -> dict[int, dict[str, Any]]:
        """The message with the greatest version of each advertiser on the topic."""
        records = read_topic(self.broker.properties["bootstrap.servers"], self.pipeline.settings.flag_topic)
        messages = sorted(
            (json.loads(value) for _, value in records if value and value[:1] == b"{"), key=lambda one: one["version"]
        )
        return {message["advertiser_id"]: message for message in messages}

    def is_whole(self) -> None:
        """What everybody sees is what it was before anything was spoiled."""
        assert self.snapshot == self.take()
        flags = flags_of(self.warehouse)
        assert {key: (one["can_serve"], one["version"]) for key, one in self.newest().items()} == {
            key: (one.flag.can_serve, one.version) for key, one in flags.items()
        }

    def take(self) -> tuple[Any, ...]:
        flags = {key: one.flag for key, one in flags_of(self.warehouse).items()}
        return clicks_of(self.warehouse), budgets_of(self.warehouse), windows_of(self.warehouse), flags


@pytest.fixture
def desk(any_warehouse: Warehouse, wheel_broker: WheelBroker) -> Desk:
    made = Desk(any_warehouse, Bench(wheel_broker.bootstrap))
    made.snapshot = made.take()
    return made


def the_click(number: int) -> Any:
    return ClickEvent.c.click_id == UUID(click_id(number))


def the_hour(advertiser_id: int, hour: int) -> tuple[Any, ...]:
    columns = SpendSummary.c
    start = YESTERDAY + timedelta(hours=hour)
    return columns.advertiser_id == advertiser_id, columns.grain == "hour", columns.window_start == start


FLAG_1 = ServingFlag.c.advertiser_id == 1

# What is done to the rows, and what reconciliation has to say of it: subject, expected, found.
DAMAGES: dict[str, tuple[Callable[[], Any], str, str, str]] = {
    "a row deleted from ClickEvent": (
        lambda: delete(ClickEvent).where(the_click(3)),
        f"click {click_id(3)}",
        f"2.0000 at {YESTERDAY:%Y-%m-%d}T03:00:00.000Z",
        "no row",
    ),
    "an amount changed by 0.0001": (
        lambda: update(ClickEvent).where(the_click(3)).values(amount=Decimal("2.0001")),
        f"click {click_id(3)}",
        "amount 2.0000",
        "amount 2.0001",
    ),
    "a restated click turned back": (
        lambda: update(ClickEvent).where(the_click(2)).values(is_valid=1),
        f"click {click_id(2)}",
        "is_valid 0",
        "is_valid 1",
    ),
    "a click moved to another advertiser": (
        lambda: update(ClickEvent).where(the_click(3)).values(advertiser_id=2),
        f"click {click_id(3)}",
        "advertiser_id 1",
        "advertiser_id 2",
    ),
    "a budget changed": (
        lambda: (
            update(BudgetEvent)
            .where(BudgetEvent.c.advertiser_id == 1)
            .values(new_budget_value=Decimal(9), source="somebody ")
        ),
        "budget 00000000-0000-4000-9000-000000000001",
        "new_budget_value 5.0000, source unknown",
        "new_budget_value 9.0000, source somebody ",
    ),
    "a window's net changed": (
        lambda: update(SpendSummary).where(*the_hour(1, 3)).values(net_spend=Decimal("1.9999")),
        f"hour window of advertiser 1 at {YESTERDAY:%Y-%m-%d}T03:00:00.000Z",
        "net_spend 2.0000",
        "net_spend 1.9999",
    ),
    "a window deleted": (
        lambda: delete(SpendSummary).where(*the_hour(2, 6)),
        f"hour window of advertiser 2 at {YESTERDAY:%Y-%m-%d}T06:00:00.000Z",
        "click_count 1, gross_spend 4.0000",
        "no row",
    ),
    "a flag flipped by hand": (
        lambda: update(ServingFlag).where(FLAG_1).values(can_serve=1, reason="ok"),
        "flag of advertiser 1",
        "can_serve 0, reason exhausted",
        "can_serve 1, reason ok",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_found_named_and_repaired(desk: Desk, damage: str) -> None:
    spoiling, subject, expected, found = DAMAGES[damage]
    assert desk.reconcile()["differences"] == 0
    desk.spoil(spoiling())
    with pytest.raises(DiscrepancyError, match=r"found 1 difference; first: .*" + subject.rpartition(" ")[2]):
        desk.reconcile()
    assert desk.open() == {subject: (expected, found)}
    assert desk.reconcile(repair=True)["repaired"] == 1
    assert desk.open() == {}
    assert {outcome for _, outcome, _ in desk.outcomes()} == {"repaired"}
    desk.is_whole()
    assert desk.reconcile()["differences"] == 0


def test_a_message_missing_on_the_topic_is_found_and_sent_again(desk: Desk) -> None:
    desk.broker.produce(desk.stream, [budget(4, YESTERDAY, "50")])
    for part in desk.pipeline.list_slices():
        desk.pipeline.read_slice(part)
    desk.pipeline.judge_batches()
    desk.pipeline.merge_events()
    desk.pipeline.rebuild_windows()
    desk.pipeline.decide_flags(NOON)
    desk.spoil(update(Outbox).where(Outbox.c.published_at.is_(None)).values(published_at=utc_now()))
    with pytest.raises(DiscrepancyError, match="The newest message of advertiser 1 on"):
        desk.reconcile()
    subject = f"message of advertiser 1 on {desk.pipeline.settings.flag_topic}"
    assert desk.open() == {
        subject: ("version 2, can_serve 1, reason ok", "version 1, can_serve 0, reason exhausted"),
    }
    assert desk.reconcile(repair=True)["repaired"] == 1
    assert (desk.newest()[1]["version"], desk.newest()[1]["can_serve"]) == (2, True)


def test_a_message_that_says_another_thing_is_sent_again_under_a_version_that_wins(desk: Desk) -> None:
    wrong = {"advertiser_id": 1, "can_serve": True, "reason": "ok", "version": 7}
    desk.broker.produce(desk.pipeline.settings.flag_topic, [json.dumps(wrong).encode(), b"not ours"])
    with pytest.raises(DiscrepancyError, match="and is version 7, can_serve 1, reason ok"):
        desk.reconcile()
    assert desk.reconcile(repair=True)["repaired"] == 1
    assert (desk.newest()[1]["version"], desk.newest()[1]["can_serve"]) == (8, False)
    desk.is_whole()


def position(desk: Desk) -> Any:
    columns = StreamPosition.c
    return update(StreamPosition).where(columns.stream == desk.stream, columns.partition_id == "0")


@pytest.mark.parametrize("moved_to", ["3", "10", "4711"])
def test_a_position_that_was_moved_is_found_and_left_to_a_person(desk: Desk, moved_to: str) -> None:
    desk.spoil(position(desk).values(position=moved_to))
    with pytest.raises(DiscrepancyError, match=rf"would begin at {moved_to}, and batch .* ends at 11"):
        desk.reconcile(repair=True)
    assert desk.open() == {f"position of {desk.stream}/0, epoch 1": ("11", moved_to)}
    desk.spoil(position(desk).values(position="11"))
    assert desk.reconcile()["closed"] == 1
    assert desk.outcomes() == {("position", "gone", "maria")}


def test_a_position_past_the_streams_end_is_found_though_the_books_agree(desk: Desk) -> None:
    desk.spoil(position(desk).values(position="4711"))
    last = max(stored(desk.warehouse, Batch, Batch.c.partition_id == "0"), key=lambda batch: batch.batch_id)
    desk.spoil(update(Batch).where(Batch.c.batch_id == last.batch_id).values(to_position="4711"))
    with pytest.raises(DiscrepancyError, match="before the stored position 4711"):
        desk.reconcile()


def test_what_was_read_from_a_moved_position_is_known_by_its_batch(desk: Desk) -> None:
    desk.spoil(position(desk).values(position="9"))
    desk.pipeline.run(NOON)
    with pytest.raises(DiscrepancyError, match=r"was read from 9, and batch .* before it ends at 11"):
        desk.reconcile()
    number = stored(desk.warehouse, Discrepancy)[0].id
    accept_difference(desk.warehouse, number, "maria", utc_now())
    assert desk.reconcile()["accepted"] == 1
    with pytest.raises(ConfigurationError, match="No open difference"):
        accept_difference(desk.warehouse, number, "maria", utc_now())


def test_events_that_nobody_sent_are_found_and_left_to_a_person(desk: Desk) -> None:
    with desk.warehouse.transaction() as transaction:
        row = dict(stored(desk.warehouse, ClickEvent, the_click(4))[0]._mapping)
        transaction.run(ClickEvent.insert(), [row | {"click_id": UUID(int=7)}])
    with pytest.raises(DiscrepancyError, match="no message brought this version"):
        desk.reconcile()
    assert f"click {UUID(int=7)}" in desk.open()


def test_rows_that_leave_staging_and_books_that_dont_balance_are_found(desk: Desk) -> None:
    (first, *_), (outcome, *_) = stored(desk.warehouse, StagedClick), stored(desk.warehouse, BatchOutcome)
    one = (StagedClick.c.batch_id == first.batch_id, StagedClick.c.ordinal == first.ordinal)
    desk.spoil(delete(StagedClick).where(*one))
    books = update(BatchOutcome).where(BatchOutcome.c.batch_id == outcome.batch_id)
    desk.spoil(books.values(duplicate_count=BatchOutcome.c.duplicate_count + 1))
    desk.spoil(delete(RejectedEvent).where(RejectedEvent.c.reason == "not_json"))
    with pytest.raises(DiscrepancyError):
        desk.reconcile()
    assert {row.kind for row in stored(desk.warehouse, Discrepancy)} >= {"batch", "merge", "rejected"}


def test_clicks_that_only_windows_remember_are_not_forgotten_by_a_rebuild(desk: Desk) -> None:
    with desk.warehouse.transaction() as transaction:  # as if their batches had been purged
        transaction.run(delete(StagedClick))
        transaction.run(delete(BatchPayload))
    desk.spoil(delete(ClickEvent).where(the_click(3)))
    with pytest.raises(DiscrepancyError, match="bring them back before the day is rebuilt"):
        desk.reconcile(repair=True)
    assert windows_of(desk.warehouse) == desk.snapshot[2]


def test_every_event_is_accounted_for(desk: Desk) -> None:
    desk.broker.produce(desk.stream, [click(9, NOON), b"not json"])
    for part in desk.pipeline.list_slices():
        desk.pipeline.read_slice(part)
    books = desk.reconcile()["books"][desk.stream]
    assert books == {
        "read": 18,
        "rejected": 3,
        "merged": 12,
        "duplicate": 1,
        "superseded": 1,
        "staged": 1,
    }
    assert books["read"] == sum(books.values()) - books["read"]


def test_a_replay_and_a_late_event_raise_no_alarm(desk: Desk) -> None:
    late = click(20, TODAY - timedelta(days=40))
    desk.send(late, click(1, YESTERDAY + timedelta(hours=1), "7"))
    desk.reconcile()
    longer = Settings(**{**desk.pipeline.settings.model_dump(), "lateness_days": 60})
    desk.pipeline = Pipeline(longer, desk.warehouse, Endpoints(longer, kafka=lambda: desk.broker.properties))
    desk.pipeline.replay_rejected(RejectedFilter(), dry_run=False)
    desk.reconcile()
    desk.pipeline.run(NOON)
    assert desk.reconcile(Days(date(2026, 1, 1), TODAY.date()) if TODAY.year == 2026 else DAYS)["differences"] == 0


def test_in_the_middle_of_a_build_nothing_is_told_that_isnt_so(desk: Desk) -> None:
    desk.broker.produce(desk.stream, [click(7, NOON), budget(4, NOON, "50")])
    for part in desk.pipeline.list_slices():
        desk.pipeline.read_slice(part)
    desk.reconcile()
    desk.pipeline.judge_batches()
    for step in (desk.pipeline.merge_events, desk.pipeline.rebuild_windows):
        step()
        with pytest.raises(RunUnderWayError, match="Flags couldn't be compared"):
            desk.reconcile()
        assert desk.open() == {}
    desk.pipeline.decide_flags(NOON)
    assert desk.reconcile()["differences"] == 0  # the messages wait in the outbox
    assert [row for row in stored(desk.warehouse, Outbox) if row.published_at is None]


def test_positions_that_hold_no_event_leave_no_hole_between_batches(any_warehouse: Warehouse) -> None:
    memory = Memory(any_warehouse, batch_size=2)
    memory.stage(click(1), click(2), click(3))
    memory.stream.skip(5)  # control records, or what compaction removed
    memory.stage()
    memory.stage(click(4))
    memory.stream.skip(1)
    memory.stage()
    batches = sorted(stored(any_warehouse, Batch), key=lambda batch: batch.batch_id)
    assert [(batch.from_position, batch.to_position) for batch in batches] == [("0", "2"), ("2", "8"), ("8", "10")]
    assert [row.position for row in stored(any_warehouse, StreamPosition)] == ["10"]


def test_days_are_asked_for_as_people_write_them() -> None:
    today = date(2026, 11, 25)
    assert asked_days(None, None, today) == Days(date(2026, 11, 23), today)
    assert asked_days("2026-11-01", None, today).begin == day_start(date(2026, 11, 1))
    assert asked_days(None, "2026-11-01", today) == Days(date(2026, 10, 30), date(2026, 11, 1))
    for first, last in (("2026-11-32", None), ("2026-11-26", None), ("2001-01-01", None), ("today", None)):
        with pytest.raises(ConfigurationError):
            asked_days(first, last, today)

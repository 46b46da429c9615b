"""What tests make: events as bytes, a stream in memory, and a warehouse's rows in the model's shapes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from sqlalchemy import Row, Table, delete, select, text

from spendgate.clock import Clock
from spendgate.errors import StreamUnavailableError
from spendgate.flags import FlagCounts, Flags
from spendgate.ingest import Intake, IntakeCounts
from spendgate.merge import CHUNK_EVENTS, Merge, MergeCounts
from spendgate.quality.expectations import Severity, Thresholds, load_thresholds
from spendgate.quality.gate import Gate, GateCounts
from spendgate.replay import RejectedFilter, Replay, ReplayCounts
from spendgate.settings import ROOT
from spendgate.spend import CHUNK_DAYS, Spend, SpendCounts
from spendgate.streams.base import PartitionRef, RecordBatch
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import (
    METADATA,
    Ad,
    Advertiser,
    Batch,
    BudgetEvent,
    ClickEvent,
    RejectedEvent,
    ServingFlag,
    SpendSummary,
)
from tests import model

THRESHOLDS = load_thresholds(ROOT / "quality.yaml")
# For tests about what is in a batch, however odd: the gate lets everything pass.
LENIENT = replace(
    THRESHOLDS,
    everywhere={
        name: threshold.model_copy(update={"severity": Severity.IGNORE})
        for name, threshold in THRESHOLDS.everywhere.items()
    },
)
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LATENESS = timedelta(days=31)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    """An instant of November 2026, UTC."""
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


DAY_BEFORE = at(20)
MIDNIGHT = at(21)
MORNING = at(21, 8)


def spelt(value: object) -> object:
    """Times as RFC 3339; everything else as it is."""
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value


# --- Events ----------------------------------------------------------------------------------------------


def body(event: dict[str, Any]) -> bytes:
    """An event as a producer would spell it."""
    return json.dumps({name: spelt(value) for name, value in event.items()}).encode()


def click_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def click(number: int = 1, time: datetime = MORNING, amount: object = "2", **more: Any) -> bytes:
    """A click of advertiser 1 on ad 10."""
    event = {"event_type": "click", "click_id": click_id(number), "advertiser_id": 1, "ad_id": 10}
    return body(event | {"click_time": time, "amount": amount} | more)


def budget(number: int = 1, time: datetime = MIDNIGHT, value: object = "5", **more: Any) -> bytes:
    """A budget of advertiser 1."""
    event = {"event_type": "budget", "event_id": f"00000000-0000-4000-9000-{number:012}", "advertiser_id": 1}
    return body(event | {"new_budget_value": value, "event_time": time} | more)


def advertiser(time: datetime = DAY_BEFORE, **more: Any) -> bytes:
    """Advertiser 1."""
    return body({"event_type": "advertiser", "advertiser_id": 1, "name": "Norvale", "updated_at": time} | more)


def ad(time: datetime = DAY_BEFORE, **more: Any) -> bytes:
    """Ad 10 of advertiser 1."""
    event = {"event_type": "ad", "ad_id": 10, "advertiser_id": 1, "ad_title": "Boots", "updated_at": time}
    return body(event | more)


# --- A stream in memory ------------------------------------------------------------------------------------


@dataclass
class _Partition:
    records: list[tuple[int, bytes | None, int]] = field(default_factory=list)
    first: int = 0
    end: int = 0


class ListStream:
    """A test double of the protocol in `spendgate.streams.base`, for tests that are about the warehouse.

    It is no broker: what brokers really do is tested against real ones in tests/streams. It keeps to what the
    protocol promises (bounded by the end at opening, resumable, positions as text) and can do on demand what
    brokers do once a year: lose records to retention, be made anew, break off in the middle of a read.
    """

    def __init__(self, name: str = "ad-clicks", partitions: int = 1) -> None:
        self.name = name
        self.incarnation = 1
        self.committed: list[tuple[str, str]] = []
        self._partitions = [_Partition() for _ in range(partitions)]
        self._breaks: dict[int, int] = {}

    def append(self, *bodies: bytes | None, partition: int = 0, enqueued_at: datetime = NOW) -> None:
        """Put records at the end of a partition."""
        place = self._partitions[partition]
        for raw in bodies:
            place.records.append((place.end, raw, round(enqueued_at.timestamp() * 1000)))
            place.end += 1

    def skip(self, count: int, partition: int = 0) -> None:
        """Let `count` positions hold nothing, as control records and compacted ones do."""
        self._partitions[partition].end += count

    def lose(self, count: int, partition: int = 0) -> None:
        """Let retention take the first `count` positions."""
        place = self._partitions[partition]
        place.first = min(place.first + count, place.end)
        place.records = [record for record in place.records if record[0] >= place.first]

    def make_anew(self) -> None:
        """Delete the stream and make it again, empty, under another identity."""
        self.incarnation += 1
        self._partitions = [_Partition() for _ in self._partitions]

    def break_at(self, position: int | None, partition: int = 0) -> None:
        """Raise StreamUnavailableError when a read gets to `position`; None: heal."""
        self._breaks.pop(partition, None)
        if position is not None:
            self._breaks[partition] = position

    def partitions(self) -> list[PartitionRef]:
        """All partitions, in order."""
        identity = f"{self.name}-{self.incarnation}"
        return [PartitionRef(self.name, str(number), identity) for number in range(len(self._partitions))]

    @contextmanager
    def read(self, partition: PartitionRef, position: str | None) -> Iterator[_ListRead]:
        """A bounded read from `position`, or from the first record there is."""
        place = self._partitions[int(partition.partition)]
        asked = place.first if position is None else int(position)
        yield _ListRead(self, partition.partition, place, asked, place.end)


@dataclass
class _ListRead:
    stream: ListStream
    partition: str
    place: _Partition
    asked: int
    end: int

    @property
    def start(self) -> str:
        return str(max(self.asked, self.place.first))

    @property
    def lost(self) -> tuple[str, str] | None:
        return (str(self.asked), str(self.place.first)) if self.asked < self.place.first else None

    def batches(self, limit: int) -> Iterator[RecordBatch]:
        start = int(self.start)
        records = [record for record in self.place.records if start <= record[0] < self.end]
        if not records and start < self.end:
            yield RecordBatch([], [], [], str(self.end))
        breaks = self.stream._breaks.get(int(self.partition))
        for index in range(0, len(records), limit):
            chunk = records[index : index + limit]
            if breaks is not None and chunk[-1][0] >= breaks:
                raise StreamUnavailableError("The stream broke off.")
            last = index + limit >= len(records)
            yield RecordBatch(
                values=[raw for _, raw, _ in chunk],
                positions=[str(offset) for offset, _, _ in chunk],
                enqueued_ms=[stamp for _, _, stamp in chunk],
                next_position=str(self.end if last else chunk[-1][0] + 1),
            )

    def commit(self, position: str) -> None:
        self.stream.committed.append((self.partition, position))


# --- A topic of a real broker ------------------------------------------------------------------------------


def read_topic(bootstrap: str, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """(key, value) of every record of a topic, partition by partition, to the end of each."""
    properties = {
        "bootstrap.servers": bootstrap,
        "group.id": "tests",
        "enable.auto.commit": False,
        # The wheel's broker lies about the last offset; the end of a fetch doesn't.
        "enable.partition.eof": True,
    }
    consumer = Consumer(properties)
    try:
        numbers = sorted(consumer.list_topics(topic, 10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers])
        records: dict[int, list[tuple[bytes | None, bytes | None]]] = {number: [] for number in numbers}
        open_ends = set(numbers)
        while open_ends:
            message = consumer.poll(10)
            assert message is not None, f"{topic} is silent"
            number = message.partition()
            if message.error() is None:
                records[number].append((message.key(), message.value()))
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                open_ends.discard(number)
    finally:
        consumer.close()
    return [record for number in numbers for record in records[number]]


# --- The steps over a warehouse ------------------------------------------------------------------------------


@dataclass
class Bench:
    """The steps over one warehouse and one stream in memory, with a clock that the test sets."""

    warehouse: Warehouse
    stream: ListStream = field(default_factory=ListStream)
    now: datetime = NOW
    batch_size: int = 50_000
    lateness: timedelta = LATENESS
    chunk_events: int = CHUNK_EVENTS
    chunk_days: int = CHUNK_DAYS
    thresholds: Thresholds = THRESHOLDS

    def clock(self) -> datetime:
        return self.now

    def intake(self, clock: Clock | None = None) -> Intake:
        return Intake(self.warehouse, clock or self.clock, self.batch_size, self.lateness)

    def read(self, number: int = 0) -> IntakeCounts:
        """Stage what one partition has."""
        return self.intake().read_partition(self.stream, self.stream.partitions()[number])

    def stage(self, *bodies: bytes | None) -> None:
        """Stage `bodies` and whatever else is on the stream."""
        self.stream.append(*bodies)
        for number in range(len(self.stream.partitions())):
            self.read(number)

    def replayer(self) -> Replay:
        return Replay(self.warehouse, self.clock, self.batch_size, lambda _stream: self.lateness)

    def replay(self, which: RejectedFilter | None = None, *, dry_run: bool = False) -> ReplayCounts:
        """Stage rejected events again."""
        return self.replayer().replay_rejected(which or RejectedFilter(), dry_run=dry_run)

    def judge(self) -> GateCounts:
        """Let the gate judge what is staged."""
        return Gate(self.warehouse, self.clock, self.thresholds).judge_staged()

    def merge(self, *bodies: bytes | None) -> MergeCounts:
        """Stage, judge and merge."""
        self.stage(*bodies)
        self.judge()
        return Merge(self.warehouse, self.clock, self.chunk_events).merge_staged()

    def build(self, *bodies: bytes | None) -> SpendCounts:
        """Stage, merge and rebuild; the data checks must pass."""
        self.merge(*bodies)
        return self.rebuild()

    def rebuild(self) -> SpendCounts:
        spend = Spend(self.warehouse, self.clock, self.chunk_days)
        counts = spend.rebuild_touched()
        spend.check_rebuilt()
        return counts

    def decide(self, as_of: datetime | None = None) -> FlagCounts:
        return Flags(self.warehouse, self.clock).decide(as_of)


@dataclass(frozen=True, slots=True)
class InterruptedIntake(Intake):
    """Lets something happen just after its first batch was copied, before it is registered."""

    interruption: Any = None

    def _copy(self, *arguments: Any) -> None:
        # `super()` has no cell in a dataclass with slots.
        Intake._copy(self, *arguments)
        if self.interruption:
            self.interruption()


class KilledError(Exception):
    """Stands for SIGKILL."""


def kill() -> None:
    raise KilledError


def killed_between_copy_and_commit(bench: Bench) -> None:
    """Leave what a reader leaves that dies before its transaction commits."""
    intake = InterruptedIntake(bench.warehouse, bench.clock, bench.batch_size, bench.lateness, interruption=kill)
    with suppress(KilledError):
        intake.read_partition(bench.stream, bench.stream.partitions()[0])


# --- Rows, in the model's shapes -----------------------------------------------------------------------------


def stored(warehouse: Warehouse, table: Table, *conditions: Any) -> list[Row[Any]]:
    """The rows of a table, ordered by their columns from the left."""
    with warehouse.transaction() as transaction:
        rows = transaction.run(select(table).where(*conditions)).all()
    return sorted(rows, key=lambda row: tuple(str(value) for value in row))


def count(warehouse: Warehouse, table: Table) -> int:
    return len(stored(warehouse, table))


def empty_everything(warehouse: Warehouse) -> None:
    """Leave a migrated warehouse with no row in it."""
    tables = list(METADATA.tables.values())
    with warehouse.transaction() as transaction:
        if warehouse.dialect == "postgresql":
            names = ", ".join(table.fullname for table in tables)
            transaction.connection.execute(text(f"TRUNCATE TABLE {names}"))
        else:
            for table in tables:
                transaction.run(delete(table))


def clicks_of(warehouse: Warehouse) -> dict[str, model.Click]:
    return {
        str(row.click_id): model.Click(
            str(row.click_id),
            row.advertiser_id,
            row.ad_id,
            row.click_time,
            row.amount,
            bool(row.is_valid),
            row.updated_at,
        )
        for row in stored(warehouse, ClickEvent)
    }


def budgets_of(warehouse: Warehouse) -> dict[str, model.Budget]:
    return {
        str(row.event_id): model.Budget(
            str(row.event_id), row.advertiser_id, row.new_budget_value, row.event_time, row.source, row.updated_at
        )
        for row in stored(warehouse, BudgetEvent)
    }


def advertisers_of(warehouse: Warehouse) -> dict[int, model.Advertiser]:
    return {
        row.advertiser_id: model.Advertiser(row.advertiser_id, None, None, None, False, None, True)
        if row.is_inferred
        else model.Advertiser(
            row.advertiser_id, row.name, row.industry, row.country, bool(row.is_active), row.updated_at
        )
        for row in stored(warehouse, Advertiser)
    }


def ads_of(warehouse: Warehouse) -> dict[int, model.Ad]:
    return {
        row.ad_id: model.Ad(row.ad_id, row.advertiser_id, None, None, None, False, None, True)
        if row.is_inferred
        else model.Ad(
            row.ad_id,
            row.advertiser_id,
            row.ad_title,
            row.ad_format,
            row.product_link,
            bool(row.is_active),
            row.updated_at,
        )
        for row in stored(warehouse, Ad)
    }


def windows_of(warehouse: Warehouse) -> dict[tuple[int, str, datetime], model.Window]:
    return {
        (row.advertiser_id, row.grain, row.window_start): model.Window(
            row.window_end,
            row.click_count,
            row.gross_spend,
            row.invalid_spend,
            row.net_spend,
            row.budget_at_time,
            bool(row.can_serve),
        )
        for row in stored(warehouse, SpendSummary)
    }


def flags_of(warehouse: Warehouse) -> dict[int, model.VersionedFlag]:
    return {
        row.advertiser_id: model.VersionedFlag(
            model.Flag(bool(row.can_serve), row.reason, row.budget, row.spent_today, row.remaining, row.day),
            row.as_of,
            row.version,
        )
        for row in stored(warehouse, ServingFlag)
    }


def rejections_of(warehouse: Warehouse) -> dict[str, int]:
    """Rejections by reason; rows of batches that don't count, don't."""
    known = {row.batch_id for row in stored(warehouse, Batch)}
    return dict(Counter(row.reason for row in stored(warehouse, RejectedEvent) if row.batch_id in known))


def rejected_bodies(warehouse: Warehouse) -> Counter[tuple[str, bytes | None]]:
    known = {row.batch_id for row in stored(warehouse, Batch)}
    return Counter(
        (row.reason, None if row.raw is None else bytes(row.raw))
        for row in stored(warehouse, RejectedEvent)
        if row.batch_id in known
    )


def assert_rows_are(warehouse: Warehouse, truth: model.Model, *, flags: bool = True) -> None:
    """Every row that the model speaks of, exactly, and no other."""
    assert clicks_of(warehouse) == truth.clicks
    assert budgets_of(warehouse) == truth.budgets
    assert advertisers_of(warehouse) == truth.advertisers
    assert ads_of(warehouse) == truth.ads
    assert windows_of(warehouse) == truth.summaries()
    if flags:
        assert flags_of(warehouse) == truth.flags


def modelled(bodies: Iterable[bytes | None], enqueued_at: datetime = NOW) -> model.Model:
    """The model after these arrivals."""
    truth = model.Model()
    truth.feed((raw, enqueued_at) for raw in bodies)
    return truth


def uuid_of(number: int) -> UUID:
    return UUID(click_id(number))

"""Intake: from a partition's stored position to the end it has now, exactly once, whatever dies.

The order of effects for one batch, all of it under `_stage_batch`:

1. A transaction T begins, holds the STAGING lock shared and takes a fresh batch id.
2. The batch's rows are bulk-copied to staging. Bulk copies commit on their own, on another connection:
   rows of a batch that isn't in etl.Batch count for nothing.
3. In T the batch's row is written and the position moved, on condition that the position still is where the
   read began. If it isn't, another run was faster: T is rolled back and the rows are removed.
4. T commits; the batch counts. Only then is the broker told, for lag monitors' sake.

Meanwhile a thread reads and decodes the next batch, which touches neither warehouse nor position.

Killed before 4, the rows are orphans and the next run reads the same messages again. `remove_orphans` takes the
STAGING lock exclusively: it never sees a batch between 2 and 4. Whoever lost its connection lost T with it, so a
task that was given up for dead and wakes up again can't commit.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Table, and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from spendgate.ahead import one_ahead
from spendgate.clock import Clock
from spendgate.columns import DecodedBatch, decode_batch
from spendgate.errors import PermanentError, StreamGapError, StreamUnavailableError
from spendgate.staging import BATCH_TABLES, Origin, OvertakenError, copy_rows, count_batch, forget_rows
from spendgate.streams.base import BoundedRead, PartitionRef, RecordBatch, StoredPosition, Stream
from spendgate.warehouse.engine import Lock, Transaction, Warehouse
from spendgate.warehouse.tables import Batch, StagingSweep, StreamGap, StreamPosition

log = logging.getLogger(__name__)

# States of batches that a build has something to do with.
WAITING = ("staged", "passed", "released")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition's next read begins; `position` None: at its beginning."""

    epoch: int
    position: str | None


@dataclass(slots=True)
class IntakeCounts:
    """What one read of one partition did."""

    stream: str
    partition: str
    batches: int = 0
    events: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    overtaken: bool = False

    def as_dict(self) -> dict[str, object]:
        """Plain values, for XCom and for people."""
        return {
            "partitions": 1,
            "batches": self.batches,
            "events": self.events,
            "rejected": dict(sorted(self.rejected.items())),
        }


@dataclass(frozen=True, slots=True)
class Intake:
    """Reads partitions into staging."""

    warehouse: Warehouse
    clock: Clock
    batch_size: int
    lateness: timedelta

    def remove_orphans(self) -> int:
        """Remove staged rows of batches that never came to count; returns how many rows.

        Does nothing while somebody is staging: orphans can wait.
        """
        with self.warehouse.transaction() as transaction:
            if not transaction.try_hold(Lock.STAGING):
                log.info("Another run is staging; orphans are left to the next run.")
                return 0
            swept = _swept_through(transaction)
            through = transaction.next_batch_id()
            removed = sum(_remove_unknown(transaction, table, swept) for table in BATCH_TABLES)
            now = self.clock()
            transaction.run(delete(StagingSweep))
            transaction.run(
                insert(StagingSweep),
                [{"id": 1, "swept_through": through, "created_at": now, "updated_at": now}],
            )
        if removed:
            log.info("Removed %d orphaned rows.", removed)
        return removed

    def stored_positions(self, stream: str) -> dict[str, StoredPosition]:
        """Where the next read of each partition of a stream begins, by partition."""
        # No more columns than that: a stream of files has a row for each file that it ever had.
        columns = (StreamPosition.c.partition_id, StreamPosition.c.incarnation, StreamPosition.c.position)
        with self.warehouse.transaction(read_only=True) as transaction:
            rows = transaction.run(select(*columns).where(StreamPosition.c.stream == stream)).all()
        return {partition: StoredPosition(incarnation, position) for partition, incarnation, position in rows}

    def waiting_events(self) -> int:
        """How many events are in batches that a build would judge or merge."""
        waiting = select(func.coalesce(func.sum(Batch.c.event_count), 0)).where(Batch.c.state.in_(WAITING))
        with self.warehouse.transaction(read_only=True) as transaction:
            return int(transaction.run(waiting).scalar_one())

    def read_partition(self, stream: Stream, partition: PartitionRef) -> IntakeCounts:
        """Stage everything between the stored position and the partition's present end.

        Raises:
            StreamGapError: retention removed events that were never read, and nobody accepted that yet.
            TransientError, PermanentError: as the stream and the warehouse say.
        """
        counts = IntakeCounts(partition.stream, partition.partition)
        stored = self._stored_position(partition)
        with stream.read(partition, None if stored is None else stored.position) as read:
            # Opening the read proves that the stream still is the one that we were told of: only then may a new
            # epoch begin, or a late task with an old list would turn the books back.
            at = self._begin_epoch(partition) if stored is None else stored
            if stored is None and at.position is not None:
                counts.overtaken = True
                return counts
            if read.lost is not None:
                self._record_gap(partition, at, *read.lost)
            with closing(one_ahead(self._decoded(read))) as batches:
                for batch, decoded in batches:
                    begin = read.start if at.position is None else at.position
                    try:
                        self._stage_batch(partition, at, begin, batch, decoded, counts)
                    except OvertakenError:
                        log.info(
                            "Another run was faster on %s/%s; its rows stay.",
                            partition.stream,
                            partition.partition,
                        )
                        counts.overtaken = True
                        return counts
                    at = Position(at.epoch, batch.next_position)
            self._commit(read, at)
        return counts

    def _decoded(self, read: BoundedRead) -> Iterator[tuple[RecordBatch, DecodedBatch]]:
        """Batches, and their rows of a batch that has no number yet."""
        for batch in read.batches(self.batch_size):
            yield batch, decode_batch(batch.values, batch.enqueued_ms, batch_id=0, lateness=self.lateness)

    def _commit(self, read: BoundedRead, at: Position) -> None:
        if at.position is not None:
            read.commit(at.position)

    def _stored_position(self, partition: PartitionRef) -> Position | None:
        """The stored position; None for a partition seen for the first time, or made anew."""
        with self.warehouse.transaction(read_only=True) as transaction:
            row = transaction.run(select(StreamPosition).where(_key(partition))).one_or_none()
        return Position(row.epoch, row.position) if row and row.incarnation == partition.incarnation else None

    def _begin_epoch(self, partition: PartitionRef) -> Position:
        """Begin at the partition's beginning; where another run did so in the same moment, what it has stored."""
        try:
            with self.warehouse.transaction() as transaction:
                transaction.hold(Lock.STAGING, shared=True)
                self._store_epoch(transaction, partition)
        except PermanentError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
        begun = self._stored_position(partition)
        if begun is None:
            raise StreamUnavailableError(f"{partition.stream} was made anew while it was read; run again.")
        return begun

    def _store_epoch(self, transaction: Transaction, partition: PartitionRef) -> None:
        now = self.clock()
        row = transaction.run(select(StreamPosition).where(_key(partition))).one_or_none()
        if row is not None and row.incarnation == partition.incarnation:
            return
        epoch = 1 if row is None else row.epoch + 1
        values = {"epoch": epoch, "incarnation": partition.incarnation, "position": None, "updated_at": now}
        if row is None:
            first = {"stream": partition.stream, "partition_id": partition.partition, "created_at": now}
            transaction.run(insert(StreamPosition), [{**first, **values}])
        else:
            log.warning("%s was made anew; epoch %d starts at its beginning.", partition.stream, epoch)
            same = and_(_key(partition), StreamPosition.c.epoch == row.epoch)
            transaction.run(update(StreamPosition).where(same).values(values))

    def _record_gap(self, partition: PartitionRef, stored: Position, asked: str, available: str) -> None:
        now = self.clock()
        key = and_(
            StreamGap.c.stream == partition.stream,
            StreamGap.c.partition_id == partition.partition,
            StreamGap.c.epoch == stored.epoch,
            StreamGap.c.from_position == asked,
        )
        with self.warehouse.transaction() as transaction:
            row = transaction.run(select(StreamGap).where(key)).one_or_none()
            if row is not None and row.accepted_at is not None and row.to_position == available:
                return
            if row is None:
                gap = {"stream": partition.stream, "partition_id": partition.partition, "epoch": stored.epoch}
                bounds = {"from_position": asked, "to_position": available}
                transaction.run(insert(StreamGap), [{**gap, **bounds, "created_at": now, "updated_at": now}])
            else:
                # Who accepted a smaller loss didn't accept this one.
                grown = {"to_position": available, "accepted_at": None, "accepted_by": None, "updated_at": now}
                transaction.run(update(StreamGap).where(key).values(grown))
        raise StreamGapError(
            f"{partition.stream}/{partition.partition} lost the events from {asked} to {available}, "
            "which retention removed before they were read; accept the loss (docs/runbook.md, stream gap) to go on."
        )

    def _stage_batch(
        self,
        partition: PartitionRef,
        at: Position,
        from_position: str,
        batch: RecordBatch,
        unnumbered: DecodedBatch,
        counts: IntakeCounts,
    ) -> None:
        batch_id = None
        try:
            with self.warehouse.transaction() as transaction:
                transaction.hold(Lock.STAGING, shared=True)
                _require_position(transaction, partition, at)
                batch_id = transaction.next_batch_id()
                decoded = unnumbered.numbered(batch_id)
                self._copy(partition, at.epoch, batch_id, batch, decoded)
                self._register(transaction, partition, at, from_position, batch, batch_id, decoded)
        except OvertakenError:
            if batch_id is not None:
                forget_rows(self.warehouse, batch_id)
            raise
        counts.batches += 1
        counts.events += len(batch.values)
        counts.rejected.update(str(rejection.reason) for _, rejection in unnumbered.rejections)

    def _copy(
        self, partition: PartitionRef, epoch: int, batch_id: int, batch: RecordBatch, decoded: DecodedBatch
    ) -> None:
        if batch.values:
            origin = Origin(partition.stream, partition.partition, epoch)
            copy_rows(self.warehouse, origin, batch_id, batch, decoded, self.clock())

    def _register(
        self,
        transaction: Transaction,
        partition: PartitionRef,
        at: Position,
        from_position: str,
        batch: RecordBatch,
        batch_id: int,
        decoded: DecodedBatch,
    ) -> None:
        now = self.clock()
        condition = _stands_at(partition, at)
        moved = transaction.run(
            update(StreamPosition).where(condition).values(position=batch.next_position, updated_at=now)
        )
        if moved.rowcount != 1:
            raise OvertakenError
        if batch.values:
            origin = Origin(partition.stream, partition.partition, at.epoch)
            positions = (from_position, batch.next_position)
            count_batch(transaction, origin, batch_id, positions, decoded, batch.enqueued_ms, now)
        else:
            _reach_on(transaction, partition, at, batch.next_position, now)


def _key(partition: PartitionRef) -> ColumnElement[bool]:
    return and_(StreamPosition.c.stream == partition.stream, StreamPosition.c.partition_id == partition.partition)


def _stands_at(partition: PartitionRef, at: Position) -> ColumnElement[bool]:
    same = StreamPosition.c.position.is_(None) if at.position is None else StreamPosition.c.position == at.position
    return and_(_key(partition), StreamPosition.c.epoch == at.epoch, same)


def _reach_on(transaction: Transaction, partition: PartitionRef, at: Position, to: str, now: datetime) -> None:
    """Where nothing was read but positions that hold no event, the batch before it reaches up to there.

    So each batch begins where the one before it ended, and reconcile_spend sees a position that was moved by hand.
    """
    batch = Batch.c
    mine = (batch.stream == partition.stream, batch.partition_id == partition.partition, batch.epoch == at.epoch)
    newest = transaction.run(select(func.max(batch.batch_id)).where(*mine, batch.is_replay == 0)).scalar_one()
    reached = (batch.batch_id == newest, batch.to_position == at.position)
    transaction.run(update(Batch).where(*reached).values(to_position=to, updated_at=now))


def _require_position(transaction: Transaction, partition: PartitionRef, at: Position) -> None:
    """Don't copy 50,000 rows only to find out that another run was faster."""
    if (
        transaction.run(select(func.count()).select_from(StreamPosition).where(_stands_at(partition, at))).scalar_one()
        != 1
    ):
        raise OvertakenError


def _swept_through(transaction: Transaction) -> int:
    return int(transaction.run(select(func.coalesce(func.max(StagingSweep.c.swept_through), 0))).scalar_one())


def _remove_unknown(transaction: Transaction, table: Table, swept: int) -> int:
    known = select(Batch.c.batch_id).where(Batch.c.batch_id == table.c.batch_id)
    statement = delete(table).where(table.c.batch_id > swept, ~known.exists())
    return int(transaction.run(statement).rowcount)

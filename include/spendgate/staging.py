"""A batch's rows in staging, and its row in etl.Batch, which alone makes them count.

What is read from a stream (`spendgate.ingest`) and what is replayed (`spendgate.replay`) is staged alike: rows are
bulk-copied first and commit on their own; in a transaction the batch's row is written. A batch that never gets
its row is an orphan, whose rows `forget_rows` or `spendgate.ingest.Intake.remove_orphans` takes away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from sqlalchemy import delete, insert

from spendgate.columns import INSTANT, DecodedBatch
from spendgate.payload import pack_messages
from spendgate.streams.base import RecordBatch
from spendgate.warehouse.engine import Transaction, Warehouse
from spendgate.warehouse.tables import (
    STAGED,
    Batch,
    BatchPayload,
    RejectedEvent,
    StagedAd,
    StagedAdvertiser,
    StagedBudget,
    StagedClick,
)

# Every table that rows of a batch are copied to.
BATCH_TABLES = (*STAGED, RejectedEvent, BatchPayload)

MAX_DETAIL = 500
PAYLOAD_SCHEMA = pa.schema([("batch_id", pa.int64()), ("content", pa.large_binary())])
REJECTED_SCHEMA = pa.schema(
    [
        ("batch_id", pa.int64()),
        ("ordinal", pa.int32()),
        ("stream", pa.string()),
        ("partition_id", pa.string()),
        ("epoch", pa.int32()),
        ("position", pa.string()),
        ("enqueued_at", INSTANT),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("raw", pa.large_binary()),
        ("created_at", INSTANT),
        ("updated_at", INSTANT),
    ]
)


class OvertakenError(Exception):
    """What a batch was to be made of isn't there any more: another run was faster. Never leaves a step."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The partition that a batch's messages came from, and in which of its epochs."""

    stream: str
    partition: str
    epoch: int


def copy_rows(
    warehouse: Warehouse, origin: Origin, batch_id: int, batch: RecordBatch, decoded: DecodedBatch, now: datetime
) -> None:
    """Bulk-copy all rows of a batch; they count for nothing yet, and stay whatever the caller's transaction does."""
    load = warehouse.bulk_load
    load(StagedClick, decoded.clicks)
    load(StagedBudget, decoded.budgets)
    load(StagedAdvertiser, decoded.advertisers)
    load(StagedAd, decoded.ads)
    load(RejectedEvent, _rejected(origin, batch_id, batch, decoded, now))
    packed = pack_messages(batch.values, batch.positions, batch.enqueued_ms)
    load(BatchPayload, pa.table([[batch_id], [packed]], schema=PAYLOAD_SCHEMA))


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _rejected(origin: Origin, batch_id: int, batch: RecordBatch, decoded: DecodedBatch, now: datetime) -> pa.Table:
    stamp = now.replace(tzinfo=None)
    rows: list[Mapping[str, object]] = [
        {
            "batch_id": batch_id,
            "ordinal": ordinal,
            "stream": origin.stream,
            "partition_id": origin.partition,
            "epoch": origin.epoch,
            "position": batch.positions[ordinal],
            "enqueued_at": _instant(batch.enqueued_ms[ordinal]).replace(tzinfo=None),
            "reason": str(rejection.reason),
            "detail": rejection.detail[:MAX_DETAIL],
            "raw": batch.values[ordinal],
            "created_at": stamp,
            "updated_at": stamp,
        }
        for ordinal, rejection in decoded.rejections
    ]
    return pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA)


def count_batch(
    transaction: Transaction,
    origin: Origin,
    batch_id: int,
    positions: tuple[str, str],
    decoded: DecodedBatch,
    enqueued_ms: Sequence[int],
    now: datetime,
    *,
    is_replay: bool = False,
) -> None:
    """Let a batch's rows count from the transaction's commit on.

    Args:
        positions: of a read batch where it began and where the next one begins; of a replayed one those of its
            first and last event.
        enqueued_ms: of all messages of the batch, the rejected ones included; milliseconds since 1970 UTC.
    """
    row = {
        "batch_id": batch_id,
        "stream": origin.stream,
        "partition_id": origin.partition,
        "epoch": origin.epoch,
        "from_position": positions[0],
        "to_position": positions[1],
        "event_count": len(enqueued_ms),
        "click_count": decoded.clicks.num_rows,
        "rejected_count": len(decoded.rejections),
        "is_replay": int(is_replay),
        "first_enqueued_at": _instant(min(enqueued_ms)),
        "last_enqueued_at": _instant(max(enqueued_ms)),
        "state": "staged",
        "created_at": now,
        "updated_at": now,
    }
    transaction.run(insert(Batch), [row])


def forget_rows(warehouse: Warehouse, batch_id: int) -> None:
    """Remove the copied rows of a batch that will never count."""
    with warehouse.transaction() as transaction:
        for table in BATCH_TABLES:
            transaction.run(delete(table).where(table.c.batch_id == batch_id))

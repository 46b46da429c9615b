"""Purge: what has been kept for long enough goes, a bounded piece a transaction.

Each piece holds BUILD, for no longer than its own deletes, so that it never comes between a merge and the rows that it
reads. Killed anywhere, the next run goes on with what is left. What keeps events from being read twice
(etl.StreamPosition, and etl.Batch) stays for good: it is small, and a file may come again after years.

Days whose clicks are purged are closed (`etl.ClosedHistory`): their windows stay as they are, whatever comes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, delete, func, insert, select, update
from sqlalchemy.orm import aliased

from spendgate.clock import Clock, day_start
from spendgate.settings import Settings
from spendgate.warehouse.engine import Lock, Transaction, Warehouse, in_slices
from spendgate.warehouse.tables import (
    STAGED,
    Batch,
    BatchPayload,
    ClickEvent,
    ClosedHistory,
    Discrepancy,
    Outbox,
    RejectedEvent,
    RunLog,
    TouchedDay,
)

log = logging.getLogger(__name__)

# Rows, or staged events, of one transaction.
CHUNK_ROWS = 10_000
CHUNK_BATCHES = 500
# Batches in these states are done with: their events are in ads, or never will be.
DONE = ("merged", "discarded")


@dataclass(frozen=True, slots=True)
class Purge:
    """Removes what is older than the settings keep it."""

    warehouse: Warehouse
    clock: Clock
    settings: Settings
    chunk_rows: int = CHUNK_ROWS

    def purge_history(self) -> dict[str, int]:
        """Remove it all; returns how many rows (of batches: staged rows and batches) by what they were.

        Raises:
            TransientError, PermanentError: as the warehouse says; what is removed by then stays removed.
        """
        keep = self.settings
        removed = self._purge_staged(self._before(keep.staging_keep_days))
        removed["rejected_events"] = self._in_pieces(
            RejectedEvent, _old_rejections(self._before(keep.rejected_keep_days))
        )
        removed["outbox_messages"] = self._in_pieces(Outbox, _old_messages(self._before(keep.outbox_keep_days)))
        removed["run_logs"] = self._in_pieces(RunLog, RunLog.c.started_at < self._before(keep.run_log_keep_days))
        closed = Discrepancy.c.closed_at < self._before(keep.discrepancy_keep_days)
        removed["discrepancies"] = self._in_pieces(Discrepancy, closed)
        removed["clicks"] = 0
        if keep.clicks_keep_days is not None:
            removed["clicks"] = self._purge_clicks(self._before(keep.clicks_keep_days).date())
        return removed

    def _before(self, days: int) -> datetime:
        return self.clock() - timedelta(days=days)

    def _purge_staged(self, before: datetime) -> dict[str, int]:
        """Staged rows and raw messages of batches that are done with, oldest first."""
        removed = {"batches": 0, "staged_rows": 0}
        while batches := self._next_batches(before):
            with self.warehouse.transaction() as transaction:
                transaction.hold(Lock.BUILD)
                for table in (*STAGED, BatchPayload):
                    in_range = table.c.batch_id.between(batches[0], batches[-1])
                    gone = transaction.run(_delete(table).where(in_range, table.c.batch_id.in_(batches))).rowcount
                    removed["staged_rows"] += 0 if table is BatchPayload else gone
            removed["batches"] += len(batches)
        return removed

    def _next_batches(self, before: datetime) -> list[int]:
        """Batches with a payload left, which goes last and with the rows: a piece of them, and at least one."""
        done = (Batch.c.state.in_(DONE), func.coalesce(Batch.c.merged_at, Batch.c.updated_at) < before)
        asked = (
            select(Batch.c.batch_id, Batch.c.event_count)
            .join(BatchPayload, BatchPayload.c.batch_id == Batch.c.batch_id)
            .where(*done)
            .order_by(Batch.c.batch_id)
            .limit(CHUNK_BATCHES)
        )
        with self.warehouse.transaction(read_only=True) as transaction:
            rows = transaction.run(asked).all()
        taken: list[int] = []
        events = 0
        for batch_id, count in rows:
            events += count
            if taken and events > self.chunk_rows:
                break
            taken.append(batch_id)
        return taken

    def _in_pieces(self, table: Table, old: ColumnElement[bool], key: str = "id") -> int:
        """Delete rows that are `old`, in the order of their key."""
        removed = 0
        while True:
            with self.warehouse.transaction() as transaction:
                transaction.hold(Lock.BUILD)
                ids = transaction.run(
                    select(table.c[key]).where(old).order_by(table.c[key]).limit(self.chunk_rows)
                ).scalars()
                found: Sequence[Any] = ids.all()
                for some in in_slices(found):
                    removed += transaction.run(delete(table).where(table.c[key].in_(some), old)).rowcount
            if len(found) < self.chunk_rows:
                return removed

    def _purge_clicks(self, wanted: date) -> int:
        """Clicks of whole days before `wanted`, or before the first day that still waits to be rebuilt."""
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.BUILD)
            before = _close_history(transaction, wanted, self.clock())
        return self._in_pieces(ClickEvent, ClickEvent.c.time_key < day_start(before), "click_id")


def _delete(table: Table) -> Any:
    """A heap of SQL Server gives its pages back only to a delete that holds the whole table (docs/adr/0009)."""
    return delete(table).with_hint("WITH (TABLOCK)", dialect_name="mssql")


def _old_rejections(before: datetime) -> ColumnElement[bool]:
    """Of batches that are done with, and not on their way to be merged once more."""
    done = select(Batch.c.batch_id).where(Batch.c.batch_id == RejectedEvent.c.batch_id, Batch.c.state.in_(DONE))
    return and_(RejectedEvent.c.created_at < before, RejectedEvent.c.replay_batch_id.is_(None), done.exists())


def _old_messages(before: datetime) -> ColumnElement[bool]:
    """The newest message of each advertiser stays: a check compares it with the flag."""
    later = aliased(Outbox)
    newer = select(later.c.id).where(
        later.c.advertiser_id == Outbox.c.advertiser_id,
        later.c.version >= Outbox.c.version,
        later.c.id > Outbox.c.id,
    )
    return and_(Outbox.c.published_at < before, newer.exists())


def _close_history(transaction: Transaction, wanted: date, now: datetime) -> date:
    """Close the days before `wanted`; days that are closed stay so. Returns before which day history is closed."""
    waiting = transaction.run(select(func.min(TouchedDay.c.date_key))).scalar_one_or_none()
    closed = transaction.run(select(ClosedHistory.c.closed_before)).scalar_one_or_none()
    before = min(wanted, waiting or wanted)
    if closed is None:
        row = {"id": 1, "closed_before": before, "created_at": now, "updated_at": now}
        transaction.run(insert(ClosedHistory), [row])
    elif before > closed:
        transaction.run(update(ClosedHistory).values(closed_before=before, updated_at=now))
    return max(before, closed or before)

"""Repair: what reconciliation found and staging can witness is brought back through the steps that made it.

1. Lost events are staged once more, all their versions, as a batch of its own (is_replay 1). A row that is damaged is
   marked as older than any version in the same transaction, so that the merge gives it the newest one: it touches the
   days of both, and nothing else of the pipeline is gone round. Killed before the merge, the next build merges it.
2. Wrong windows are rebuilt: their days are touched.
3. Flags are decided again, at the instant that they were decided for.
4. Messages that the topic lacks are queued again, with a version above what the topic has if that one is wrong.

What isn't repaired: a position (what lies between was skipped or read twice, and only a person knows why), events that
nobody sent, books that don't balance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Table, and_, func, insert, select, update

from spendgate.clock import Clock
from spendgate.differences import Difference, Kind
from spendgate.payload import pack_messages
from spendgate.warehouse.engine import Lock, Transaction, Warehouse, in_slices
from spendgate.warehouse.tables import (
    Batch,
    BatchOutcome,
    BatchPayload,
    BudgetEvent,
    ClickEvent,
    Outbox,
    RejectedEvent,
    ServingFlag,
    StagedBudget,
    StagedClick,
    TouchedDay,
)

# Older than any event that there can be.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)

_EVENTS = {Kind.CLICK: (StagedClick, ClickEvent, "click_id"), Kind.BUDGET: (StagedBudget, BudgetEvent, "event_id")}
_MESSAGE = ("advertiser_id", "can_serve", "reason", "budget", "spent_today", "remaining", "as_of")


@dataclass(frozen=True, slots=True)
class Repair:
    """Brings rows back; merging, rebuilding, deciding and publishing them is the caller's."""

    warehouse: Warehouse
    clock: Clock

    def restage_events(self, lost: Sequence[Difference]) -> int:
        """Stage all versions of lost events again, for the next merge; returns how many versions."""
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.STAGING, shared=True)
            transaction.hold(Lock.BUILD)
            batch_id = transaction.next_batch_id()
            witnesses: list[Row[Any]] = []
            clicks = 0
            for kind, (staged, stored, key) in _EVENTS.items():
                ids = sorted({UUID(one.event_key) for one in lost if one.kind is kind and one.event_key})
                versions = [
                    row for some in in_slices(ids) for row in _versions(transaction, staged, staged.c[key], some)
                ]
                versions.sort(key=lambda row: (row.batch_id, row.ordinal))
                ordinals = range(len(witnesses), len(witnesses) + len(versions))
                again = [
                    {**row._mapping, "batch_id": batch_id, "ordinal": at}
                    for at, row in zip(ordinals, versions, strict=True)
                ]
                transaction.run(insert(staged), again)
                for some in in_slices(ids):
                    transaction.run(update(stored).where(stored.c[key].in_(some)).values(updated_at=NEVER))
                witnesses += versions
                clicks += len(versions) if kind is Kind.CLICK else 0
            if witnesses:
                self._count_batch(transaction, batch_id, witnesses[0].batch_id, len(witnesses), clicks)
        return len(witnesses)

    def touch_days(self, wrong: Sequence[Difference]) -> int:
        """Let the days of wrong windows be rebuilt; returns how many (advertiser, day) pairs."""
        pairs = {pair for one in wrong for pair in one.touches}
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.BUILD)
            for advertiser_id, day in sorted(pairs):
                key = and_(TouchedDay.c.advertiser_id == advertiser_id, TouchedDay.c.date_key == day)
                if not transaction.run(select(func.count()).select_from(TouchedDay).where(key)).scalar_one():
                    row = {"advertiser_id": advertiser_id, "date_key": day, "created_at": self.clock()}
                    transaction.run(insert(TouchedDay), [row])
        return len(pairs)

    def decided_at(self) -> datetime | None:
        """The instant that flags were decided for last; None: there are none."""
        with self.warehouse.transaction(read_only=True) as transaction:
            instant: datetime | None = transaction.run(select(func.max(ServingFlag.c.as_of))).scalar_one_or_none()
        return instant

    def requeue_flags(self, above: Mapping[int, int]) -> int:
        """Queue flags again.

        Args:
            above: by advertiser the version on the topic that the flag's has to be greater than; 0: any is.
        """
        now = self.clock()
        queued = 0
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.BUILD)
            for advertiser_id, version in sorted(above.items()):
                mine = ServingFlag.c.advertiser_id == advertiser_id
                too_low = (mine, ServingFlag.c.version <= version)
                transaction.run(update(ServingFlag).where(*too_low).values(version=version + 1, updated_at=now))
                flag = transaction.run(select(ServingFlag).where(mine)).one_or_none()
                if flag is not None:
                    row = {name: getattr(flag, name) for name in (*_MESSAGE, "version")}
                    transaction.run(insert(Outbox), [{**row, "created_at": now, "updated_at": now}])
                    queued += 1
        return queued

    def _count_batch(self, transaction: Transaction, batch_id: int, like: int, events: int, clicks: int) -> None:
        """The batch counts from now on; its coordinates are those of the oldest batch that witnessed."""
        now = self.clock()
        origin = transaction.run(select(Batch).where(Batch.c.batch_id == like)).one()
        coordinates = ("stream", "partition_id", "epoch", "from_position", "to_position")
        row = {name: getattr(origin, name) for name in coordinates}
        counts = {"event_count": events, "click_count": clicks, "rejected_count": 0, "is_replay": 1}
        stamps = {"created_at": now, "updated_at": now}
        # A person asked for it: the gate has no say.
        transaction.run(insert(Batch), [{"batch_id": batch_id, **row, **counts, "state": "released", **stamps}])
        # Nothing was read; but a batch without a payload is one that was purged.
        transaction.run(insert(BatchPayload), [{"batch_id": batch_id, "content": pack_messages([], [], [])}])


def _versions(transaction: Transaction, staged: Table, key: Any, ids: Sequence[UUID]) -> Sequence[Row[Any]]:
    """The staged rows of these events that were merged and not rejected; as in find_lost_clicks."""
    merged = (
        select(Batch.c.batch_id)
        .outerjoin(BatchOutcome, BatchOutcome.c.batch_id == Batch.c.batch_id)
        .where(Batch.c.batch_id == staged.c.batch_id, Batch.c.state == "merged")
        .where((Batch.c.is_replay == 0) | (func.coalesce(BatchOutcome.c.conflict_count, 0) == 0))
    )
    rejected = select(RejectedEvent.c.id).where(
        RejectedEvent.c.batch_id == staged.c.batch_id, RejectedEvent.c.ordinal == staged.c.ordinal
    )
    rows: Sequence[Row[Any]] = transaction.run(
        select(staged).where(key.in_(ids), merged.exists(), ~rejected.exists())
    ).all()
    return rows

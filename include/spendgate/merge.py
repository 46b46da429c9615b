"""Merge: accepted batches become rows of `ads`, versions decided, members inferred, touched days recorded.

One transaction a chunk of batches: killed anywhere, the chunk's batches are still as the gate left them and the next
run merges them again. What is compared with what is in the headers of sql/merge/.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import Row, Table, delete, func, insert, select, update

from spendgate.clock import DAY, HOUR, Clock, day_start
from spendgate.events import Reason
from spendgate.payload import unpack_messages
from spendgate.warehouse.engine import LIST_LENGTH, Lock, Transaction, Warehouse, in_slices
from spendgate.warehouse.tables import (
    AdVersion,
    AdvertiserVersion,
    Batch,
    BatchOutcome,
    BatchPayload,
    BudgetVersion,
    ClickVersion,
    ContestedClick,
    NewClickGroup,
    RejectedEvent,
    TimeHierarchy,
    TouchedBudget,
    TouchedDay,
)

log = logging.getLogger(__name__)

# Most messages merged in one transaction: enough to make its fixed cost vanish, few enough to keep its
# memory, its locks and what a kill throws away small.
CHUNK_EVENTS = 2_000_000
CHUNK_BATCHES = LIST_LENGTH
DAYS_AHEAD = 7
# The gate (spendgate.quality) let the first pass, a person the second.
MAY_PASS = ("passed", "released")
_WORK = (
    ContestedClick,
    ClickVersion,
    BudgetVersion,
    AdvertiserVersion,
    AdVersion,
    NewClickGroup,
    TouchedBudget,
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(slots=True)
class MergeCounts:
    """What merging did, in messages."""

    batches: int = 0
    events: int = 0
    inserted: int = 0
    updated: int = 0
    duplicates: int = 0
    superseded: int = 0
    conflicts: int = 0
    inferred: int = 0
    touched_days: int = 0
    replayed: int = 0  # rejected events that are accepted now

    def as_dict(self) -> dict[str, int]:
        """Plain values, for XCom and for people."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Merge:
    """Merges the batches that the gate, or a person, let pass."""

    warehouse: Warehouse
    clock: Clock
    chunk_events: int = CHUNK_EVENTS

    def merge_staged(self) -> MergeCounts:
        """Merge every batch that may pass, in the order of their ids."""
        counts = MergeCounts()
        while self._merge_chunk(counts):
            pass
        return counts

    def _merge_chunk(self, counts: MergeCounts) -> bool:
        """Merge the next chunk; False when nothing may be merged."""
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.BUILD)
            now = self.clock()
            self._ensure_hours(transaction, _days_ahead(now), now)
            batches = self._next_batches(transaction)
            if not batches:
                return False
            _Chunk(transaction, batches, now, counts).merge()
            self._ensure_hours(transaction, transaction.run(select(TouchedDay.c.date_key).distinct()).scalars(), now)
        log.info("Merged %d batches with %d events.", len(batches), sum(batch.event_count for batch in batches))
        return True

    def _next_batches(self, transaction: Transaction) -> Sequence[Row[Any]]:
        staged: Sequence[Row[Any]] = transaction.run(
            select(
                Batch.c.batch_id, Batch.c.event_count, Batch.c.click_count, Batch.c.rejected_count, Batch.c.is_replay
            )
            .where(Batch.c.state.in_(MAY_PASS))
            .order_by(Batch.c.batch_id)
            .limit(CHUNK_BATCHES)
        ).all()
        taken = 0
        for index, batch in enumerate(staged):
            taken += batch.event_count
            if taken > self.chunk_events and index:
                return staged[:index]
        return staged

    def _ensure_hours(self, transaction: Transaction, days: Iterable[date], now: datetime) -> None:
        """Make sure that TimeHierarchy has the 24 hours of each day."""
        wanted = set(days)
        known = select(TimeHierarchy.c.date_key).where(TimeHierarchy.c.date_key.in_(wanted)).distinct()
        missing = wanted - set(transaction.run(known).scalars())
        transaction.run(insert(TimeHierarchy), [hour for day in sorted(missing) for hour in hours_of(day, now)])


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The merge of one chunk, inside its transaction."""

    transaction: Transaction
    batches: Sequence[Row[Any]]
    now: datetime
    counts: MergeCounts
    # Of each batch, how its versions that had to be compared stood (`held`, `late`, ...).
    stood: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def merge(self) -> None:
        ids = [batch.batch_id for batch in self.batches]
        run = self.transaction
        run.empty(*_WORK)
        run.run(
            update(Batch)
            .where(Batch.c.batch_id.in_(ids))
            .values(state="merged", merge_id=ids[-1], merged_at=self.now, updated_at=self.now)
        )
        # Without it PostgreSQL looks the staged rows up batch by batch, which is three times slower.
        run.refresh_statistics(Batch)
        before = self._touched()
        written_before = self.counts.inserted + self.counts.updated
        if any(batch.event_count > batch.click_count for batch in self.batches):
            self._merge_versions("advertiser", AdvertiserVersion)
            self._merge_versions("ad", AdVersion)
            self._merge_budgets()
        self._merge_clicks()
        self._infer_members()
        self._record_outcomes(self.counts.inserted + self.counts.updated - written_before)
        self._release_replayed()
        self.counts.batches += len(ids)
        self.counts.events += sum(batch.event_count for batch in self.batches)
        self.counts.touched_days += self._touched() - before

    def _scope(self) -> dict[str, object]:
        first, last = self.batches[0].batch_id, self.batches[-1].batch_id
        return {"first_batch": first, "last_batch": last, "merge_id": last}

    def _merge_versions(self, entity: str, versions: Table) -> None:
        """Advertisers, ads or budgets: few, so every one of them takes the exact way."""
        self._rank(entity, versions)
        self.counts.updated += self.transaction.execute(f"merge/update_changed_{entity}s")
        self.counts.inserted += self.transaction.execute(f"merge/insert_new_{entity}s", now=self.now)

    def _merge_budgets(self) -> None:
        self._merge_versions("budget", BudgetVersion)
        if self.transaction.execute("merge/list_touched_budgets"):
            self.transaction.refresh_statistics(TouchedBudget)
            self.transaction.execute("merge/touch_budget_days", now=self.now)

    def _merge_clicks(self) -> None:
        run, scope = self.transaction, self._scope()
        contested = run.execute("merge/find_repeated_clicks", **scope)
        contested += run.execute("merge/find_known_clicks", **scope)
        if contested:
            # Left alone when empty: the planner takes it for some rows then and hashes it, but would look through a
            # table that it knows to be empty once for every click.
            run.refresh_statistics(ContestedClick)
        self.counts.inserted += run.execute("merge/insert_new_clicks", **scope, now=self.now)
        run.execute("merge/group_new_clicks", **scope)
        run.refresh_statistics(NewClickGroup)
        run.execute("merge/touch_new_click_days", now=self.now)
        if contested:
            self._rank("click", ClickVersion)
            run.execute("merge/touch_changed_click_days", now=self.now)
            self.counts.updated += run.execute("merge/update_changed_clicks")
            self.counts.inserted += run.execute("merge/insert_contested_clicks", now=self.now)

    def _rank(self, entity: str, versions: Table) -> None:
        """Rank versions, reject conflicts and count how every message ended."""
        run = self.transaction
        if not run.execute(f"merge/rank_{entity}_versions", **self._scope()):
            return
        run.refresh_statistics(versions)
        if run.execute(f"merge/mark_{entity}_conflicts"):
            self._reject(run.rows(f"merge/list_{entity}_conflicts"), entity)
        ended: Counter[str] = Counter()
        for row in run.rows(f"merge/count_{entity}_standings"):
            ended[row.standing] += row.messages
            self.stood[row.batch_id][row.standing] += row.messages
        self.counts.duplicates += ended["equal"]
        self.counts.superseded += ended["late"] + ended["passed"]
        self.counts.conflicts += ended["clash"]

    def _reject(self, conflicts: Sequence[Row[Any]], entity: str) -> None:
        for batch_id, group in groupby(conflicts, key=lambda row: row.batch_id):
            ordinals = [row.ordinal for row in group]
            batch = self.transaction.run(select(Batch).where(Batch.c.batch_id == batch_id)).one()
            detail = f"Another version of this {entity} with the same updated_at was stored first."
            if batch.is_replay:
                self._keep_rejected(batch_id, ordinals, detail)
                continue
            packed = self.transaction.run(
                select(BatchPayload.c.content).where(BatchPayload.c.batch_id == batch_id)
            ).scalar_one()
            rows = [
                {
                    "batch_id": batch_id,
                    "ordinal": ordinal,
                    "stream": batch.stream,
                    "partition_id": batch.partition_id,
                    "epoch": batch.epoch,
                    "position": message.position,
                    "enqueued_at": datetime.fromtimestamp(message.enqueued_ms / 1000, UTC),
                    "reason": str(Reason.CONFLICTING_DUPLICATE),
                    "detail": detail,
                    "raw": message.raw,
                    "created_at": self.now,
                    "updated_at": self.now,
                }
                for ordinal, message in zip(ordinals, unpack_messages(packed, ordinals), strict=True)
            ]
            self.transaction.run(insert(RejectedEvent), rows)

    def _keep_rejected(self, batch_id: int, ordinals: Sequence[int], detail: str) -> None:
        """Replayed events that clash keep the rows that they have."""
        answer = {"reason": str(Reason.CONFLICTING_DUPLICATE), "detail": detail, "updated_at": self.now}
        for some in in_slices(ordinals):
            self.transaction.run(
                update(RejectedEvent)
                .where(RejectedEvent.c.replay_batch_id == batch_id, RejectedEvent.c.replay_ordinal.in_(some))
                .values(replay_batch_id=None, replay_ordinal=None, **answer)
            )

    def _record_outcomes(self, written: int) -> None:
        """How the events of each batch ended; `written` is how many rows the server says were written.

        What nobody compared was written. If the rows of all batches don't come to what the server says, the last batch
        shows it: reconcile_spend then finds a merge whose events don't add up to what was accepted.
        """
        outcomes = []
        for batch in self.batches:
            stood = self.stood[batch.batch_id]
            others = {
                "duplicate_count": stood["equal"],
                "superseded_count": stood["late"] + stood["passed"],
                "conflict_count": stood["clash"],
            }
            accepted = batch.event_count - batch.rejected_count
            outcomes.append({"batch_id": batch.batch_id, "written_count": accepted - sum(others.values()), **others})
        outcomes[-1]["written_count"] += written - sum(one["written_count"] for one in outcomes)
        self._store_outcomes(outcomes)

    def _store_outcomes(self, outcomes: Sequence[dict[str, int]]) -> None:
        # A batch whose rejected events were accepted before it was merged itself has its row already.
        mine = BatchOutcome.c.batch_id.in_([one["batch_id"] for one in outcomes])
        known = set(self.transaction.run(select(BatchOutcome.c.batch_id).where(mine)).scalars())
        new = [one for one in outcomes if one["batch_id"] not in known]
        fresh = {"replayed_count": 0, "created_at": self.now, "updated_at": self.now}
        self.transaction.run(insert(BatchOutcome), [{**one, **fresh} for one in new])
        for one in outcomes:
            if one["batch_id"] in known:
                row = update(BatchOutcome).where(BatchOutcome.c.batch_id == one["batch_id"])
                self.transaction.run(row.values(**one, updated_at=self.now))

    def _release_replayed(self) -> None:
        """Replayed events that didn't clash are accepted: only now do their rows leave staging.RejectedEvent."""
        replays = [batch.batch_id for batch in self.batches if batch.is_replay]
        if not replays:
            return
        accepted = RejectedEvent.c.replay_batch_id.in_(replays)
        origin = RejectedEvent.c.batch_id
        left = self.transaction.run(select(origin, func.count()).where(accepted).group_by(origin)).all()
        for batch_id, rows in left:
            self._count_replayed(batch_id, rows)
        self.counts.replayed += self.transaction.run(delete(RejectedEvent).where(accepted)).rowcount

    def _count_replayed(self, batch_id: int, rows: int) -> None:
        """Of a batch, `rows` rejected events left by being accepted."""
        counted = update(BatchOutcome).where(BatchOutcome.c.batch_id == batch_id)
        values = {"replayed_count": BatchOutcome.c.replayed_count + rows, "updated_at": self.now}
        if self.transaction.run(counted.values(**values)).rowcount == 0:
            none = dict.fromkeys(("written_count", "duplicate_count", "superseded_count", "conflict_count"), 0)
            first = {"batch_id": batch_id, **none, "replayed_count": rows}
            self.transaction.run(insert(BatchOutcome), [{**first, "created_at": self.now, "updated_at": self.now}])

    def _infer_members(self) -> None:
        run = self.transaction
        run.execute("merge/update_inferred_ads", now=self.now)
        self.counts.inferred += run.execute("merge/insert_inferred_ads", now=self.now)
        self.counts.inferred += run.execute("merge/insert_inferred_advertisers", now=self.now)

    def _touched(self) -> int:
        return int(self.transaction.run(select(func.count()).select_from(TouchedDay)).scalar_one())


def _days_ahead(now: datetime) -> list[date]:
    return [(now + DAY * ahead).date() for ahead in range(DAYS_AHEAD + 1)]


def hours_of(day: date, now: datetime) -> list[dict[str, object]]:
    """The 24 TimeHierarchy rows of a day; `now` is when they are written."""
    start = day_start(day)
    week = day.isocalendar().week
    return [
        {
            "time_key": start + HOUR * hour,
            "date_key": day,
            "hour": hour,
            "day": day.day,
            "week": week,
            "week_start": day - timedelta(days=day.weekday()),
            "month": day.month,
            "quarter": (day.month + 2) // 3,
            "year": day.year,
            "weekday_name": _WEEKDAYS[day.weekday()],
            "is_active": 1,
            "created_at": now,
            "updated_at": now,
        }
        for hour in range(24)
    ]

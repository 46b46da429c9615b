"""Replay: rejected events are decoded again from their raw bytes, and leave their table only by being accepted.

Rows of staging.RejectedEvent are looked at in the order in which their messages arrived, a chunk at a time; ids are in
another one, for a conflict gets its row when it is merged. Those that decode to an event now are staged as batches of
their own (etl.Batch.is_replay), one for each stream, partition and epoch of the chunk, so that their coordinates stay
true. The order of effects for one batch, all of it under `_stage`:

1. A transaction T begins, holds the REPLAY lock and shares the STAGING lock, sees that no other replay took the rows,
   and takes a fresh batch id.
2. The batch's rows are bulk-copied to staging; they count for nothing yet, as in `spendgate.ingest`.
3. In T the batch's row is written and the rejected rows are marked with its id, on condition that none was marked
   or removed meanwhile. If one was, T is rolled back, the copied rows are removed and the chunk is looked at again.
4. T commits; the batch counts. The rejected rows stay, marked, so that no replay takes them twice.

The transaction that merges the batch (`spendgate.merge`) removes the rows whose events were accepted, and takes the
mark off those that clash with what is stored. Killed before 4, what was copied is an orphan and nothing is marked;
killed after it, the batch is merged by the next build: accepting an event and removing its row are one thing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, func, or_, select, update

from spendgate.clock import Clock, parse_instant, to_milliseconds
from spendgate.columns import DecodedBatch, decode_batch
from spendgate.errors import ConfigurationError, RunUnderWayError
from spendgate.events import Reason, Rejection
from spendgate.staging import MAX_DETAIL, Origin, OvertakenError, copy_rows, count_batch, forget_rows
from spendgate.streams.base import RecordBatch
from spendgate.warehouse.engine import LIST_LENGTH, Lock, Transaction, Warehouse, in_slices
from spendgate.warehouse.tables import MAX_ROW_ID, Batch, RejectedEvent

log = logging.getLogger(__name__)

Tick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RejectedFilter:
    """Which rejected events are meant; what isn't said is any. `since` to before `until` is when they were enqueued."""

    reason: Reason | None = None
    stream: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ids: Sequence[int] = ()

    @classmethod
    def typed(
        cls, reason: str | None, stream: str | None, since: str | None, until: str | None, ids: Sequence[int] = ()
    ) -> RejectedFilter:
        """A filter as a person types it; an empty text is none.

        Raises:
            ConfigurationError: no such reason, no time, times that hold nothing between them, or too many ids.
        """
        if reason and reason not in list(Reason):
            raise ConfigurationError(f"There is no reason {reason!r}; there are {', '.join(Reason)}.")
        if len(ids) > LIST_LENGTH:
            raise ConfigurationError(f"That are {len(ids)} ids; give at most {LIST_LENGTH}, or a reason and times.")
        begin, end = (parse_instant(text) if text else None for text in (since, until))
        if begin and end and begin >= end:
            raise ConfigurationError(f"Nothing lies between {since} and {until}; make since the earlier one.")
        return cls(Reason(reason) if reason else None, stream or None, begin, end, tuple(ids))

    def conditions(self) -> list[ColumnElement[bool]]:
        """What a row of staging.RejectedEvent has to meet.

        Whatever the filter, its batch has to count: rows of a batch that is being staged, or never will be, are
        read once more from their stream.
        """
        row = RejectedEvent.c
        conditions: list[ColumnElement[bool]] = [
            select(Batch.c.batch_id).where(Batch.c.batch_id == row.batch_id).exists()
        ]
        if self.reason is not None:
            conditions.append(row.reason == str(self.reason))
        if self.stream is not None:
            conditions.append(row.stream == self.stream)
        if self.since is not None:
            conditions.append(row.enqueued_at >= self.since)
        if self.until is not None:
            conditions.append(row.enqueued_at < self.until)
        if self.ids:
            conditions.append(row.id.in_([wanted for wanted in self.ids if 0 <= wanted <= MAX_ROW_ID]))
        return conditions


@dataclass(slots=True)
class ReplayCounts:
    """What a replay did, or in a dry run would have done, in events.

    `accepted` decode to an event now and are staged; whether one clashes with what is stored shows in the merge.
    """

    dry_run: bool
    accepted: int = 0
    batches: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def looked_at(self) -> int:
        """All of them."""
        return self.accepted + self.rejected.total()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for XCom and for people."""
        return {
            "dry_run": self.dry_run,
            "looked_at": self.looked_at,
            "accepted": self.accepted,
            "batches": self.batches,
            "rejected": dict(sorted(self.rejected.items())),
        }


@dataclass(frozen=True, slots=True)
class Replay:
    """Stages rejected events again; `lateness` gives the limit of a stream by its name."""

    warehouse: Warehouse
    clock: Clock
    batch_size: int
    lateness: Callable[[str], timedelta]

    def replay_rejected(
        self, which: RejectedFilter, *, dry_run: bool = False, progress: Tick = lambda done, total: None
    ) -> ReplayCounts:
        """Decode the rejected events that are meant and don't wait for a merge yet; stage those that are events now.

        "Too late" is judged by when an event was enqueued and its stream's limit of now, "in the future" by now:
        what was ahead of its enqueue time is an event once its time has come. Rows that are rejected again stay;
        where the answer changed it is written down.

        Raises:
            RunUnderWayError: another replay is in the way for too long.
            TransientError, PermanentError: as the warehouse says.
        """
        counts = ReplayCounts(dry_run)
        now = self.clock()
        total, last = self._extent(which)
        after, overtaken = (0, 0), [0]
        while chunk := self._next_chunk(which, after, last):
            try:
                self._replay_chunk(chunk, now, counts)
            except OvertakenError:
                ids = [row.id for row in chunk]
                if ids == overtaken:
                    raise RunUnderWayError("Another replay takes the same events; wait for it to end.") from None
                log.info("Another replay was faster; looking again.")
                overtaken = ids
                continue
            after = (chunk[-1].batch_id, chunk[-1].ordinal)
            progress(counts.looked_at, total)
        return counts

    def _extent(self, which: RejectedFilter) -> tuple[int, int]:
        """How many rows there are to look at, and the last id: what is rejected meanwhile isn't meant."""
        waiting = select(func.count(), func.coalesce(func.max(RejectedEvent.c.id), 0)).where(*_unmarked(which))
        with self.warehouse.transaction(read_only=True) as transaction:
            total, last = transaction.run(waiting).one()
        return int(total), int(last)

    def _next_chunk(self, which: RejectedFilter, after: tuple[int, int], last: int) -> Sequence[Row[Any]]:
        """The next rows after one of a batch and ordinal; none whose id is above `last`."""
        row = RejectedEvent.c
        batch_id, ordinal = after
        beyond = (row.id <= last, row.batch_id >= batch_id, or_(row.batch_id > batch_id, row.ordinal > ordinal))
        rows = select(RejectedEvent).where(*_unmarked(which), *beyond).order_by(row.batch_id, row.ordinal, row.id)
        with self.warehouse.transaction(read_only=True) as transaction:
            chunk: Sequence[Row[Any]] = transaction.run(rows.limit(self.batch_size)).all()
        return chunk

    def _replay_chunk(self, chunk: Sequence[Row[Any]], now: datetime, counts: ReplayCounts) -> None:
        groups: dict[Origin, list[Row[Any]]] = {}
        for row in chunk:
            groups.setdefault(Origin(row.stream, row.partition_id, row.epoch), []).append(row)
        answers: list[tuple[Row[Any], Rejection]] = []
        for origin, rows in groups.items():
            again = dict(self._decode(origin, _records(rows), 0, now).rejections)
            answers += [(rows[place], answer) for place, answer in again.items()]
            if events := [row for place, row in enumerate(rows) if place not in again]:
                if not counts.dry_run:
                    self._stage(origin, events, now)
                    counts.batches += 1
                counts.accepted += len(events)
        if not counts.dry_run:
            self._write_answers(answers, now)
        counts.rejected.update(str(answer.reason) for _, answer in answers)

    def _decode(self, origin: Origin, batch: RecordBatch, batch_id: int, now: datetime) -> DecodedBatch:
        lateness = self.lateness(origin.stream)
        return decode_batch(batch.values, batch.enqueued_ms, batch_id=batch_id, lateness=lateness, replayed_at=now)

    def _stage(self, origin: Origin, rows: Sequence[Row[Any]], now: datetime) -> None:
        batch_id = None
        batch = _records(rows)
        ids = [row.id for row in rows]
        try:
            with self.warehouse.transaction() as transaction:
                transaction.hold(Lock.REPLAY)
                transaction.hold(Lock.STAGING, shared=True)
                _require_unmarked(transaction, ids)
                batch_id = transaction.next_batch_id()
                decoded = self._decode(origin, batch, batch_id, now)
                copy_rows(self.warehouse, origin, batch_id, batch, decoded, now)
                positions = (batch.positions[0], batch.positions[-1])
                count_batch(transaction, origin, batch_id, positions, decoded, batch.enqueued_ms, now, is_replay=True)
                _mark(transaction, ids, batch_id, now)
        except OvertakenError:
            if batch_id is not None:
                forget_rows(self.warehouse, batch_id)
            raise

    def _write_answers(self, answers: Sequence[tuple[Row[Any], Rejection]], now: datetime) -> None:
        changed: dict[tuple[str, str], list[int]] = {}
        for row, rejection in answers:
            answer = (str(rejection.reason), rejection.detail[:MAX_DETAIL])
            if answer != (row.reason, row.detail):
                changed.setdefault(answer, []).append(row.id)
        if not changed:
            return
        with self.warehouse.transaction() as transaction:
            for (reason, detail), ids in changed.items():
                for some in in_slices(ids):
                    transaction.run(
                        update(RejectedEvent)
                        .where(RejectedEvent.c.id.in_(some), RejectedEvent.c.replay_batch_id.is_(None))
                        .values(reason=reason, detail=detail, updated_at=now)
                    )


def _unmarked(which: RejectedFilter) -> list[ColumnElement[bool]]:
    """None of a batch that is held: whether anything of it counts is for a person to decide first."""
    kept = select(Batch.c.batch_id).where(Batch.c.batch_id == RejectedEvent.c.batch_id, Batch.c.state == "held")
    return [*which.conditions(), RejectedEvent.c.replay_batch_id.is_(None), ~kept.exists()]


def _records(rows: Sequence[Row[Any]]) -> RecordBatch:
    """The messages of the rows as they were read."""
    return RecordBatch(
        values=[None if row.raw is None else bytes(row.raw) for row in rows],
        positions=[row.position for row in rows],
        enqueued_ms=[to_milliseconds(row.enqueued_at) for row in rows],
        next_position=rows[-1].position,
    )


def _require_unmarked(transaction: Transaction, ids: Sequence[int]) -> None:
    """Don't copy 50,000 rows only to find out that another replay was faster: it took the first ones, too."""
    first = ids[:LIST_LENGTH]
    waiting = (RejectedEvent.c.id.in_(first), RejectedEvent.c.replay_batch_id.is_(None))
    if transaction.run(select(func.count()).select_from(RejectedEvent).where(*waiting)).scalar_one() != len(first):
        raise OvertakenError


def _mark(transaction: Transaction, ids: Sequence[int], batch_id: int, now: datetime) -> None:
    """Note for each rejected row which event of the batch it is; the batch's are in the order of arrival too."""
    row = RejectedEvent.c
    mark = update(RejectedEvent).values(replay_batch_id=batch_id, updated_at=now)
    unmarked = mark.where(row.replay_batch_id.is_(None))
    if sum(transaction.run(unmarked.where(row.id.in_(some))).rowcount for some in in_slices(ids)) != len(ids):
        raise OvertakenError
    place = func.row_number().over(order_by=(row.batch_id, row.ordinal, row.id)) - 1
    numbered = select(row.id, place.label("place")).where(row.replay_batch_id == batch_id).subquery("numbered")
    transaction.run(update(RejectedEvent).where(row.id == numbered.c.id).values(replay_ordinal=numbered.c.place))

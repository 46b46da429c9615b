"""Reconciliation: is what came in what is in the tables? Looks only; `spendgate.repair` mends.

What is compared with what is in the headers of sql/reconcile/. Each look is one statement on what is committed, over
a day or some batches, and holds no lock. What it finds may be the middle of a run: it counts only if it is found again
while BUILD and STAGING are held, so that nobody is merging, rebuilding, deciding or staging.

A difference that follows from another isn't told: a click that is gone makes its windows wrong, and they are right
again when it is back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, select

from spendgate.clock import DAY, Clock, day_start, format_instant
from spendgate.differences import Difference, Kind
from spendgate.warehouse.engine import Lock, Transaction, Warehouse, as_utc
from spendgate.warehouse.tables import Batch, BatchPayload, ClosedHistory, ServingFlag, TouchedDay

log = logging.getLogger(__name__)

# Most differences of one look: what is all wrong needs no row for each of a million.
MOST_FOUND = 1_000
# Staged events looked at in one statement.
CHUNK_EVENTS = 1_000_000
# How long to wait for the end of a build that is under way before flags are compared, and how long between two looks.
SETTLE_SECONDS = 60.0
LOOK_SECONDS = 0.5

_CLICK_FIELDS = ("advertiser_id", "ad_id", "event_time", "time_key", "amount", "is_valid", "updated_at")
_BUDGET_FIELDS = ("advertiser_id", "event_time", "time_key", "new_budget_value", "source", "updated_at")
_WINDOW_FIELDS = ("click_count", "gross_spend", "invalid_spend", "net_spend", "budget_at_time", "can_serve")
_FLAG_FIELDS = ("can_serve", "reason", "budget", "spent_today")

Look = Callable[[Transaction], list[Difference]]


@dataclass(frozen=True, slots=True)
class Days:
    """Whole days (UTC), both included."""

    first: date
    last: date

    @property
    def begin(self) -> datetime:
        """The first instant."""
        return day_start(self.first)

    @property
    def end(self) -> datetime:
        """The first instant that is no longer meant."""
        return day_start(self.last) + DAY


@dataclass(slots=True)
class Found:
    """What a reconciliation found.

    Attributes:
        books: of each stream, its events by how they ended or where they wait.
        settled: False: a build was under way for so long that flags couldn't be compared.
        following: differences left out because they follow from another.
    """

    differences: list[Difference] = field(default_factory=list)
    books: dict[str, dict[str, int]] = field(default_factory=dict)
    settled: bool = True
    following: int = 0


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Compares the warehouse with itself: staging, events, windows, flags and the books."""

    warehouse: Warehouse
    clock: Clock
    settle_seconds: float = SETTLE_SECONDS

    def find_differences(self, days: Days) -> Found:
        """Everything that differs over some days; flags and positions whatever the days.

        Raises:
            TransientError, PermanentError: as the warehouse says.
        """
        found = Found()
        differences: list[Difference] = []
        with self.warehouse.transaction(read_only=True) as transaction:
            closed = transaction.run(select(func.max(ClosedHistory.c.closed_before))).scalar_one_or_none()
            chunks = _staged_chunks(transaction, days)
            purged_through = _purged_through(transaction)
            found.books = _books(transaction, days)
        if closed is None or closed <= days.last:
            seen = Days(max(days.first, closed or days.first), days.last)
            differences += self._find_by_batch(seen, chunks)
            for one in _each_day(seen):
                differences += self._find_by_day(one, purged_through)
        differences += self._confirmed(lambda run: _merges(run, days) + _chains(run, days) + _positions(run))
        flags = self._find_flags()
        found.settled = flags is not None
        found.differences = _causes([*differences, *(flags or [])])
        found.following = len(differences) + len(flags or []) - len(found.differences)
        return found

    def _find_by_batch(self, days: Days, chunks: Sequence[tuple[int, int]]) -> list[Difference]:
        found = []
        for first, last in chunks:
            batches = {"first_batch": first, "last_batch": last, "limit": MOST_FOUND}
            hours = {"from": days.begin, "to": days.end}

            def look(
                run: Transaction, batches: dict[str, int] = batches, hours: dict[str, datetime] = hours
            ) -> list[Difference]:
                clicks = run.rows("reconcile/find_lost_clicks", **batches, **hours)
                budgets = run.rows("reconcile/find_lost_budgets", **batches, **hours)
                torn = run.rows("reconcile/find_torn_batches", **batches)
                rejected = run.rows("reconcile/find_lost_rejections", **batches)
                return [
                    *(_lost(Kind.CLICK, row, _CLICK_FIELDS) for row in clicks),
                    *(_lost(Kind.BUDGET, row, _BUDGET_FIELDS) for row in budgets),
                    *map(_torn, torn),
                    *map(_rejections, rejected),
                ]

            found += self._confirmed(look)
        return found

    def _find_by_day(self, day: Days, purged_through: datetime | None) -> list[Difference]:
        hours: dict[str, Any] = {"from": day.begin, "to": day.end, "limit": MOST_FOUND}
        after = purged_through or datetime(1970, 1, 1, tzinfo=UTC)
        witnessed = day.begin > after

        def look(run: Transaction) -> list[Difference]:
            return [
                *(_strange(Kind.CLICK, row) for row in _rows(run, "find_strange_clicks", hours, stored_after=after)),
                *(_strange(Kind.BUDGET, row) for row in _rows(run, "find_strange_budgets", hours, stored_after=after)),
                *(_window("hour", row, witnessed) for row in _rows(run, "find_wrong_hours", hours)),
                *(_window("day", row, witnessed) for row in _rows(run, "find_wrong_days", hours)),
            ]

        return _only_whole_days(self._confirmed(look))

    def _confirmed(self, look: Look) -> list[Difference]:
        """What `look` finds, and finds again while nobody is at work."""
        with self.warehouse.transaction(read_only=True) as transaction:
            first = {one.identity for one in look(transaction)}
        if not first:
            return []
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.STAGING)
            transaction.hold(Lock.BUILD)
            return [one for one in _once(look(transaction)) if one.identity in first]

    def _find_flags(self) -> list[Difference] | None:
        """None: no moment was found at which flags were decided on all that is merged."""
        deadline = time.monotonic() + self.settle_seconds
        while True:
            with self.warehouse.transaction() as transaction:
                transaction.hold(Lock.BUILD)
                if _is_settled(transaction):
                    rows = transaction.rows("reconcile/find_wrong_flags", limit=MOST_FOUND)
                    return [_flag(row) for row in rows]
            if time.monotonic() >= deadline:
                return None
            time.sleep(LOOK_SECONDS)


def _is_settled(transaction: Transaction) -> bool:
    """Whether flags were decided since the last merge, and no day waits to be rebuilt."""
    decided = transaction.run(select(func.max(ServingFlag.c.updated_at))).scalar_one_or_none()
    merged = transaction.run(select(func.max(Batch.c.merged_at))).scalar_one_or_none()
    waiting = transaction.run(select(func.count()).select_from(TouchedDay)).scalar_one()
    return waiting == 0 and (merged is None or (decided is not None and decided >= merged))


def _rows(run: Transaction, name: str, hours: Mapping[str, Any], **more: object) -> Sequence[Row[Any]]:
    return run.rows(f"reconcile/{name}", **hours, **more)


def _staged_chunks(transaction: Transaction, days: Days) -> list[tuple[int, int]]:
    """First and last batch of each chunk of batches that are in staging and can hold events of these days."""
    # A click is at most minutes ahead of its batch; the day makes up for clocks that differ.
    asked = (
        select(Batch.c.batch_id, Batch.c.event_count)
        .where(Batch.c.created_at >= days.begin - DAY)
        .where(select(BatchPayload.c.batch_id).where(BatchPayload.c.batch_id == Batch.c.batch_id).exists())
        .order_by(Batch.c.batch_id)
    )
    chunks: list[tuple[int, int]] = []
    taken = CHUNK_EVENTS
    for batch_id, events in transaction.run(asked):
        if taken + events > CHUNK_EVENTS:
            chunks.append((batch_id, batch_id))
            taken = 0
        chunks[-1] = (chunks[-1][0], batch_id)
        taken += events
    return chunks


def _purged_through(transaction: Transaction) -> datetime | None:
    """Every batch that was merged after this instant is in staging still; None: every one."""
    payload = select(BatchPayload.c.batch_id).where(BatchPayload.c.batch_id == Batch.c.batch_id)
    asked = select(func.max(Batch.c.merged_at)).where(Batch.c.state == "merged", ~payload.exists())
    purged: datetime | None = transaction.run(asked).scalar_one_or_none()
    return purged


def _books(transaction: Transaction, days: Days) -> dict[str, dict[str, int]]:
    books: dict[str, dict[str, int]] = {}
    for row in transaction.rows("reconcile/count_event_outcomes", **{"from": days.begin, "to": days.end}):
        line = books.setdefault(row.stream, {})
        ended = {"read": row.events, "rejected": row.rejected}
        if row.state == "merged":
            ended |= {"merged": row.written, "duplicate": row.duplicates, "superseded": row.superseded}
        else:
            ended[row.state] = row.events - row.rejected
        for name, events in ended.items():
            line[name] = line.get(name, 0) + int(events)
    return books


def _each_day(days: Days) -> Iterator[Days]:
    day = days.first
    while day <= days.last:
        yield Days(day, day)
        day += timedelta(days=1)


def _once(found: Iterable[Difference]) -> list[Difference]:
    return list({one.identity: one for one in found}.values())


def _only_whole_days(found: Sequence[Difference]) -> list[Difference]:
    """`found`, in which no window of a day is repairable where one isn't: a day is rebuilt as a whole."""
    lost = {pair for one in found if one.kind is Kind.WINDOW and not one.repairable for pair in one.touches}
    why = " Clicks are missing, and staging no longer has them: bring them back before the day is rebuilt."
    return [
        replace(one, repairable=False, detail=one.detail + why)
        if one.kind is Kind.WINDOW and lost.intersection(one.touches)
        else one
        for one in found
    ]


def _causes(found: Sequence[Difference]) -> list[Difference]:
    """`found` without what follows from another: windows of lost events, flags of wrong windows."""
    kinds = (Kind.CLICK, Kind.BUDGET)
    events = [one for one in found if one.kind in kinds]
    touched = {pair for one in events for pair in one.touches}
    # A budget holds for all days after it, up to the next.
    since: dict[int, date] = {}
    for one in events:
        if one.kind is Kind.BUDGET:
            for advertiser_id, day in one.touches:
                since[advertiser_id] = min(day, since.get(advertiser_id, day))

    def follows(one: Difference) -> bool:
        return any(pair in touched or since.get(pair[0], date.max) <= pair[1] for pair in one.touches)

    windows = [one for one in found if one.kind is Kind.WINDOW and not follows(one)]
    blamed = set().union(*(one.advertisers for one in [*events, *windows]))
    flags = [one for one in found if one.kind is Kind.FLAG and not one.advertisers & blamed]
    rest = [one for one in found if one.kind not in (*kinds, Kind.WINDOW, Kind.FLAG)]
    return _once([*events, *windows, *flags, *rest])


# --- rows as sentences --------------------------------------------------------------------------------------------


def _say(value: object) -> str:
    if isinstance(value, datetime):
        return format_instant(as_utc(value))
    return "none" if value is None else str(value)


def _differing(row: Row[Any], fields: Sequence[str]) -> tuple[str, str]:
    """What should be and what is, by the names of the fields that differ."""
    names = [name for name in fields if getattr(row, name) != getattr(row, f"found_{name}")]
    expected = ", ".join(f"{name} {_say(getattr(row, name))}" for name in names)
    return expected, ", ".join(f"{name} {_say(getattr(row, f'found_{name}'))}" for name in names)


def _lost(kind: Kind, row: Row[Any], fields: Sequence[str]) -> Difference:
    day = row.time_key.date()
    touches = [(row.advertiser_id, day)]
    name = "Click" if kind is Kind.CLICK else "Budget event"
    of = f"{name} {row.event_key} of advertiser {row.advertiser_id} on {day}"
    if row.found_updated_at is None:
        value = row.amount if kind is Kind.CLICK else row.new_budget_value
        expected, found = f"{_say(value)} at {_say(row.event_time)}", "no row"
        detail = f"{of} ({expected}) was merged and isn't in the table."
    else:
        touches.append((row.found_advertiser_id, row.found_time_key.date()))
        expected, found = _differing(row, fields)
        detail = f"{of} was merged with {expected}, and the table has {found}."
    subject = f"{kind} {row.event_key}"
    return Difference(
        kind, subject, expected, found, detail, day, tuple(dict.fromkeys(touches)), row.event_key, repairable=True
    )


def _strange(kind: Kind, row: Row[Any]) -> Difference:
    day = row.time_key.date()
    value = row.amount if kind is Kind.CLICK else row.new_budget_value
    found = f"{_say(value)}, updated_at {_say(row.updated_at)}"
    name = "Click" if kind is Kind.CLICK else "Budget event"
    detail = (
        f"{name} {row.event_key} of advertiser {row.advertiser_id} on {day} ({found}) is in the table, and no message "
        "brought this version; find out who wrote it, then remove it or accept it."
    )
    # What it is isn't known, so its windows are right as long as they count it.
    return Difference(kind, f"{kind} {row.event_key}", "no such version", found, detail, day)


def _window(grain: str, row: Row[Any], witnessed: bool) -> Difference:
    start = as_utc(row.window_start)
    day = start.date()
    subject = f"{grain} window of advertiser {row.advertiser_id} at {format_instant(start)}"
    if row.found_rows == 0:
        expected, found = f"click_count {row.click_count}, gross_spend {row.gross_spend}", "no row"
    elif row.expected_rows == 0:
        expected, found = "no row", f"click_count {row.found_click_count}, gross_spend {row.found_gross_spend}"
    else:
        expected, found = _differing(row, _WINDOW_FIELDS)
        expected, found = expected or "its whole length", found or "another window_end"
    detail = f"The {subject} has {found}, and clicks and budgets give {expected}."
    # Windows count clicks that are nowhere else: to rebuild them would be to forget the clicks for good.
    repairable = witnessed or (row.found_click_count or 0) <= (row.click_count or 0)
    return Difference(
        Kind.WINDOW, subject, expected, found, detail, day, ((row.advertiser_id, day),), repairable=repairable
    )


def _flag(row: Row[Any]) -> Difference:
    subject = f"flag of advertiser {row.advertiser_id}"
    if row.flag_advertiser_id is None:
        expected, found = f"reason {row.reason}", "no row"
    else:
        expected, found = _differing(row, _FLAG_FIELDS)
        expected, found = (
            expected or "remaining as budget and spent_today give",
            found or f"remaining {_say(row.found_remaining)}",
        )
    detail = f"The {subject} has {found}, and budgets and windows give {expected}."
    touches = ((row.advertiser_id, date.min),)
    return Difference(Kind.FLAG, subject, expected, found, detail, None, touches, repairable=True)


def _torn(row: Row[Any]) -> Difference:
    subject = f"batch {row.batch_id}"
    expected, found = f"{row.accepted} staged rows", f"{row.staged_rows} staged rows"
    detail = (
        f"Batch {row.batch_id} of {row.stream}/{row.partition_id} accepted {row.accepted} events and has {found}; "
        "its messages are in staging.BatchPayload and, if retention allows, in the stream."
    )
    return Difference(Kind.BATCH, subject, expected, found, detail)


def _rejections(row: Row[Any]) -> Difference:
    subject = f"rejected events of batch {row.batch_id}"
    expected, found = f"{row.rejected} rows", f"{row.kept_rows} rows"
    detail = (
        f"Of batch {row.batch_id} of {row.stream}/{row.partition_id} {row.rejected} events are rejected and "
        f"staging.RejectedEvent has {found}; its messages are in staging.BatchPayload."
    )
    return Difference(Kind.REJECTED, subject, expected, found, detail)


def _merges(run: Transaction, days: Days) -> list[Difference]:
    rows = run.rows("reconcile/find_unbalanced_merges", **{"from": days.begin, "to": days.end}, limit=MOST_FOUND)
    return [
        Difference(
            Kind.MERGE,
            f"merge {row.merge_id}",
            f"{row.accepted} events",
            f"{row.accounted} events",
            f"Merge {row.merge_id} took {row.accepted} events and accounts for {row.accounted}: written, duplicate, "
            "superseded and conflicting ones in etl.BatchOutcome; see which of its batches is wrong.",
        )
        for row in rows
    ]


def _chains(run: Transaction, days: Days) -> list[Difference]:
    rows = run.rows("reconcile/find_broken_chains", **{"from": days.begin, "to": days.end}, limit=MOST_FOUND)
    return [
        Difference(
            Kind.POSITION,
            f"batch {row.batch_id} of {row.stream}/{row.partition_id}, epoch {row.epoch}",
            f"from {row.position_before}",
            f"from {row.from_position}",
            f"Batch {row.batch_id} of {row.stream}/{row.partition_id} was read from {row.from_position}, and batch "
            f"{row.batch_before} before it ends at {row.position_before}: the position was moved by hand; what lies "
            "between the two was skipped or read twice.",
        )
        for row in rows
    ]


def _positions(run: Transaction) -> list[Difference]:
    return [
        Difference(
            Kind.POSITION,
            f"position of {row.stream}/{row.partition_id}, epoch {row.epoch}",
            row.to_position,
            _say(row.position),
            f"The next read of {row.stream}/{row.partition_id} would begin at {_say(row.position)}, and batch "
            f"{row.batch_id}, its last, ends at {row.to_position}: the position was moved by hand; stop the reading "
            "DAGs and set it back, unless whoever moved it knows why.",
        )
        for row in run.rows("reconcile/find_moved_positions", limit=MOST_FOUND)
    ]

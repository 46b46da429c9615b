"""Differences between what came in and what is in the tables, as rows of etl.Discrepancy.

A difference is known by its kind and subject. Found again, its open row is brought up to date; not found again, it is
closed as gone. What a person has accepted stays accepted as long as it looks the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, false, insert, select, update

from spendgate.errors import ConfigurationError
from spendgate.people import checked_name
from spendgate.warehouse.engine import Transaction, Warehouse
from spendgate.warehouse.tables import MAX_ROW_ID, Discrepancy

MAX_TEXT = 300
MAX_DETAIL = 1000


class Kind(StrEnum):
    """What differs; docs/runbook.md says of each what to do."""

    CLICK = "click"
    BUDGET = "budget"
    WINDOW = "window"
    FLAG = "flag"
    MESSAGE = "message"
    POSITION = "position"
    BATCH = "batch"
    MERGE = "merge"
    REJECTED = "rejected"


class Outcome(StrEnum):
    """How a difference was closed."""

    REPAIRED = "repaired"
    GONE = "gone"
    ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    Attributes:
        subject: which thing, so that it is the same text every time.
        detail: the whole of it in a sentence, with what a person should do where nothing repairs it.
        day: the day (UTC) that it is about; None: of no day.
        touches: the (advertiser, day) pairs whose windows it makes wrong.
        event_key: of a click or budget event its id.
        repairable: whether --repair may mend it.
    """

    kind: Kind
    subject: str
    expected: str
    found: str
    detail: str
    day: date | None = None
    touches: tuple[tuple[int, date], ...] = ()
    event_key: str | None = None
    repairable: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        """What is the same when it is found again."""
        return str(self.kind), self.subject[:MAX_TEXT]

    @property
    def advertisers(self) -> set[int]:
        """Whose it is."""
        return {advertiser_id for advertiser_id, _ in self.touches}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of the differences that were found: `open` are those that a person has to look at."""

    open: list[Difference]
    accepted: int
    closed: int


def record_differences(
    warehouse: Warehouse,
    found: Sequence[Difference],
    repaired: Collection[Difference],
    days: tuple[date, date],
    now: datetime,
    by: str,
) -> Recorded:
    """Write what was found and is still there, and what was `repaired`; close what isn't there any more.

    Args:
        days: first and last day that were looked at; a row about another day is left alone.
        by: who repaired.
    """
    with warehouse.transaction() as transaction:
        known = {(row.kind, row.subject): row for row in _open_rows(transaction)}
        accepted = _accepted_rows(transaction)
        rest = []
        for one in [*found, *repaired]:
            row = known.pop(one.identity, None)
            closing = (Outcome.REPAIRED, by) if one in repaired else None
            if closing is None and (*one.identity, *_values(one)) in accepted:
                continue
            _write(transaction, one, row, now, closing)
            if closing is None:
                rest.append(one)
        gone = [row.id for row in known.values() if row.date_key is None or days[0] <= row.date_key <= days[1]]
        for row_id in gone:
            closed = {"closed_at": now, "closed_by": by, "outcome": str(Outcome.GONE), "updated_at": now}
            transaction.run(update(Discrepancy).where(Discrepancy.c.id == row_id).values(**closed))
    return Recorded(rest, len(found) - len(rest), len(gone) + len(repaired))


def stored_differences(warehouse: Warehouse, *, closed: bool) -> tuple[list[str], Sequence[Row[Any]]]:
    """Column names and rows of the open differences, or of all, oldest first."""
    columns = Discrepancy.c
    shown = (columns.id, columns.kind, columns.detail, columns.found_at, columns.seen_at)
    asked = select(*shown, columns.outcome, columns.closed_by, columns.closed_at).order_by(columns.id)
    with warehouse.transaction(read_only=True) as transaction:
        result = transaction.run(asked if closed else asked.where(columns.closed_at.is_(None)))
        return list(result.keys()), result.all()


def accept_difference(warehouse: Warehouse, number: int, by: str, now: datetime) -> None:
    """Record that a person has looked at a difference and accepts it as it is.

    Raises:
        ConfigurationError: no open difference has that number, or `by` is no name.
    """
    by = checked_name(by, "accepts the difference")
    the_one = Discrepancy.c.id == number if 0 <= number <= MAX_ROW_ID else false()
    values = {"closed_at": now, "closed_by": by, "outcome": str(Outcome.ACCEPTED), "updated_at": now}
    with warehouse.transaction() as transaction:
        accepted = transaction.run(
            update(Discrepancy).where(the_one, Discrepancy.c.closed_at.is_(None)).values(**values)
        )
        if accepted.rowcount != 1:
            raise ConfigurationError(f"No open difference has the number {number}; see ./spendgate discrepancies list.")


def _open_rows(transaction: Transaction) -> Sequence[Row[Any]]:
    rows: Sequence[Row[Any]] = transaction.run(select(Discrepancy).where(Discrepancy.c.closed_at.is_(None))).all()
    return rows


def _accepted_rows(transaction: Transaction) -> set[tuple[str, str, str, str]]:
    columns = Discrepancy.c
    asked = select(columns.kind, columns.subject, columns.expected, columns.found)
    return {tuple(row) for row in transaction.run(asked.where(columns.outcome == str(Outcome.ACCEPTED))).all()}


def _values(one: Difference) -> tuple[str, str]:
    return one.expected[:MAX_TEXT], one.found[:MAX_TEXT]


def _write(
    transaction: Transaction, one: Difference, row: Row[Any] | None, now: datetime, closing: tuple[Outcome, str] | None
) -> None:
    expected, found = _values(one)
    values: dict[str, object] = {"expected": expected, "found": found, "detail": one.detail[:MAX_DETAIL]}
    values |= {"seen_at": now, "updated_at": now}
    outcome, by = closing or (None, None)
    values |= {"outcome": outcome and str(outcome), "closed_by": by, "closed_at": now if closing else None}
    if row is not None:
        transaction.run(update(Discrepancy).where(Discrepancy.c.id == row.id).values(**values))
        return
    kind, subject = one.identity
    first = {"kind": kind, "subject": subject, "date_key": one.day, "found_at": now, "created_at": now}
    transaction.run(insert(Discrepancy), [{**first, **values}])

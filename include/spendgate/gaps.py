"""Gaps: events that retention removed before they were read, and the person who accepts their loss."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, false, select, update

from spendgate.errors import ConfigurationError
from spendgate.people import checked_name
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import MAX_ROW_ID, StreamGap


def stored_gaps(warehouse: Warehouse) -> tuple[list[str], Sequence[Row[Any]]]:
    """Column names and rows of all gaps, oldest first."""
    with warehouse.transaction(read_only=True) as transaction:
        result = transaction.run(select(StreamGap).order_by(StreamGap.c.id))
        return list(result.keys()), result.all()


def accept_gap(warehouse: Warehouse, gap_id: int, by: str, now: datetime) -> None:
    """Record that a person accepts the loss.

    Raises:
        ConfigurationError: no open gap has that id, or `by` is no name.
    """
    by = checked_name(by, "accepts the loss")
    the_gap = StreamGap.c.id == gap_id if 0 <= gap_id <= MAX_ROW_ID else false()
    with warehouse.transaction() as transaction:
        accepted = transaction.run(
            update(StreamGap)
            .where(the_gap, StreamGap.c.accepted_at.is_(None))
            .values(accepted_at=now, accepted_by=by, updated_at=now)
        )
        if accepted.rowcount != 1:
            raise ConfigurationError(f"No open gap has the id {gap_id}; see ./spendgate gaps list.")

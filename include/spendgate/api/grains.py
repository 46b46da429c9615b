"""Spend windows of each grain: their ends, and the first one that begins at an instant or later. All UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row

from spendgate.clock import DAY, HOUR, day_start, floor_hour
from spendgate.warehouse.engine import as_utc

WEEK = timedelta(days=7)


def floor(grain: str, instant: datetime) -> datetime:
    """The start of the window that holds `instant`."""
    if grain == "hour":
        return floor_hour(instant)
    day = day_start(instant.date())
    if grain == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if grain == "month" else day


def end(grain: str, start: datetime) -> datetime:
    """The end of the window that begins at `start`."""
    if grain == "month":
        return (start.replace(day=28) + 4 * DAY).replace(day=1)
    return start + {"hour": HOUR, "day": DAY, "week": WEEK}[grain]


def ceiling(grain: str, instant: datetime) -> datetime:
    """The start of the first window that begins at `instant` or later."""
    start = floor(grain, instant)
    return start if start == instant else end(grain, start)


def as_window(grain: str, row: Row[Any]) -> Mapping[str, Any]:
    """A row of sql/api/list_spend_by_* as one shape."""
    told = dict(row._mapping)
    if grain == "week":
        told["window_start"] = day_start(told["first_day"])
    elif grain == "month":
        told["window_start"] = datetime(told["year"], told["month"], 1, tzinfo=UTC)
    else:
        told["window_start"] = as_utc(told["window_start"])
    told["window_end"] = end(grain, told["window_start"])
    nothing = {"budget_at_time": None, "can_serve": None}
    return {**nothing, **told, "grain": grain}

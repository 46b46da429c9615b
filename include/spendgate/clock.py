"""Time: always aware, always UTC, in whole milliseconds.

A step gets its clock as an argument, so that a test or a backfill decides what "now" is.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from spendgate.errors import ConfigurationError

Clock = Callable[[], datetime]

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    """The current instant, aware, UTC, floored to the millisecond."""
    return floor_millisecond(datetime.now(UTC))


def floor_millisecond(instant: datetime) -> datetime:
    """`instant` in UTC without its fraction of a millisecond.

    Floored, not rounded: a click at 10:59:59.9996 stays in its own hour.
    """
    instant = instant.astimezone(UTC)
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def to_milliseconds(instant: datetime) -> int:
    """Whole milliseconds since 1970 UTC."""
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def floor_hour(instant: datetime) -> datetime:
    """The start of the UTC hour that holds `instant`."""
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_start(day: date) -> datetime:
    """Midnight UTC at which `day` begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def parse_instant(text: str) -> datetime:
    """Read an RFC 3339 time with an offset, as a person types it (`2026-11-21T18:00:00Z`).

    Raises:
        ConfigurationError: not a time, or a time without an offset.
    """
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            return floor_millisecond(instant)
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"{text!r} is not a time; write it like 2026-11-21T18:00:00Z.") from error
    raise ConfigurationError(f"{text!r} has no offset; write it like 2026-11-21T18:00:00Z.")


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, `2026-11-21T18:00:00.000Z`."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

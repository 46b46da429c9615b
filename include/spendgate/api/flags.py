"""One advertiser's flag as the API answers it.

Unknown means no, and stale means no: a flag that wasn't decided again for `max_age` answers false, whatever it says.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Row

from spendgate.clock import format_instant
from spendgate.warehouse.engine import as_utc

UNKNOWN, STALE = "unknown", "stale"


class Flag(msgspec.Struct, frozen=True):
    """One advertiser's flag; money as decimal strings, times in RFC 3339."""

    advertiser_id: int
    can_serve: bool
    reason: str
    budget: str | None
    spent_today: str | None
    remaining: str | None
    day: str | None
    as_of: str | None
    version: int
    stale: bool
    has_held_events: bool


class FlagList(msgspec.Struct, frozen=True):
    """Flags as of one instant of the table; `version` is the change that they include, to ask for later ones."""

    version: int
    complete: bool
    flags: list[Flag]


def money(value: Decimal | None) -> str | None:
    """A decimal string with 4 places; None stays."""
    return None if value is None else f"{value:.4f}"


def unknown_flag(advertiser_id: int) -> Flag:
    """What is said of an advertiser that has no flag: no."""
    return Flag(advertiser_id, False, UNKNOWN, None, None, None, None, None, 0, False, False)


def as_stale(flag: Flag) -> Flag:
    """The same flag when it is too old to go by: no."""
    return msgspec.structs.replace(flag, can_serve=False, reason=STALE, stale=True)


def read_flag(row: Row[Any]) -> Flag:
    """A row of sql/api/list_flags."""
    advertiser_id, can_serve, reason, budget, spent_today, remaining, day, as_of, version, held, _ = tuple(row)
    return Flag(
        advertiser_id,
        can_serve != 0,
        reason,
        money(budget),
        money(spent_today),
        money(remaining),
        _day(day),
        _instant(as_of),
        version,
        False,
        held != 0,
    )


# A build decides all flags at one instant.
@lru_cache(maxsize=64)
def _instant(stored: datetime) -> str:
    return format_instant(as_utc(stored))


@lru_cache(maxsize=64)
def _day(day: date) -> str:
    return day.isoformat()

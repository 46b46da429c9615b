"""Flags as the API answers them: a snapshot of ads.ServingFlag, at most a second older than the table.

Flags change when a build commits, and each build writes all of them; in between one look at the table's state is
enough. Unknown means no, and stale means no: a flag that wasn't decided again for `max_age` answers false, whatever it
says.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Row

from spendgate.clock import Clock, format_instant
from spendgate.warehouse.engine import Warehouse, as_utc

# Looked at again after this long, beside the requests; waited for after that long.
LOOK_AGAIN_SECONDS = 0.3
OLDEST_SECONDS = 0.9
# Of a 20 MB list: 5 makes it 2% smaller than 1, and takes three times as long.
GZIP_LEVEL = 1
# How many flags become bytes at a time: so little is there twice.
RENDERED_AT_A_TIME = 2_000
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
    return Flag(advertiser_id, False, UNKNOWN, None, None, None, None, None, 0, False)


def as_stale(flag: Flag) -> Flag:
    """The same flag when it is too old to go by: no."""
    return msgspec.structs.replace(flag, can_serve=False, reason=STALE, stale=True)


def read_flag(row: Row[Any]) -> Flag:
    """A row of sql/api/list_flags."""
    advertiser_id, can_serve, reason, budget, spent_today, remaining, day, as_of, version, _ = tuple(row)
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
    )


# A build decides all flags at one instant.
@lru_cache(maxsize=64)
def _instant(stored: datetime) -> str:
    return format_instant(as_utc(stored))


@lru_cache(maxsize=64)
def _day(day: date) -> str:
    return day.isoformat()


@dataclass(frozen=True, slots=True)
class Rendered:
    """The whole list as bytes; right until `until`, when the next flag becomes stale."""

    etag: str
    body: bytes
    zipped: bytes
    until: datetime | None


@dataclass(slots=True)
class Snapshot:
    """All flags as one statement saw them: its rows by advertiser, in the order of their ids."""

    state: tuple[Any, ...]
    version: int
    rows: Mapping[int, Row[Any]]
    max_age: timedelta
    oldest: datetime | None
    _rendered: Rendered | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def flag(self, advertiser_id: int, now: datetime) -> Flag:
        """The flag to go by."""
        row = self.rows.get(advertiser_id)
        if row is None:
            return unknown_flag(advertiser_id)
        flag = read_flag(row)
        return as_stale(flag) if now - as_utc(row.as_of) > self.max_age else flag

    def has_stale(self, now: datetime) -> bool:
        """Whether any flag is too old to go by."""
        return self.oldest is not None and now - self.oldest > self.max_age

    def of(self, advertisers: Iterable[int], now: datetime, *, complete: bool) -> FlagList:
        """The flags of these advertisers that have one, in the order of their ids."""
        known = (advertiser for advertiser in sorted(advertisers) if advertiser in self.rows)
        return FlagList(self.version, complete, [self.flag(advertiser, now) for advertiser in known])

    def rendered_at_hand(self, now: datetime) -> Rendered | None:
        """The whole list if it was made into bytes already, and is still right."""
        made = self._rendered
        return made if made is not None and (made.until is None or now <= made.until) else None

    def rendered(self, now: datetime) -> Rendered:
        """The whole list as bytes, made once."""
        with self._lock:
            made = self.rendered_at_hand(now)
            if made is None:
                made = self._rendered = self._render(now)
            return made

    def _render(self, now: datetime) -> Rendered:
        parts: list[bytes] = []
        stale, until = 0, None
        rows = list(self.rows.values())
        for start in range(0, len(rows), RENDERED_AT_A_TIME):
            flags: list[Flag] = []
            for row in rows[start : start + RENDERED_AT_A_TIME]:
                flag, ends = read_flag(row), as_utc(row.as_of) + self.max_age
                if now > ends:
                    stale += 1
                    flag = as_stale(flag)
                elif until is None or ends < until:
                    until = ends
                flags.append(flag)
            parts.append(msgspec.json.encode(flags)[1:-1])
        told = msgspec.json.encode(FlagList(self.version, True, []))
        body = told[:-2] + b",".join(parts) + told[-2:]
        etag = '"' + "-".join(str(part) for part in (*self.state, self.version, stale)) + '"'
        return Rendered(etag, body, gzip.compress(body, GZIP_LEVEL, mtime=0), until)


@dataclass(slots=True)
class FlagStore:
    """Keeps the newest snapshot; any thread may ask."""

    warehouse: Warehouse
    clock: Clock
    max_age: timedelta
    _snapshot: Snapshot | None = None
    _looked: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def at_hand(self, seconds: float = OLDEST_SECONDS) -> Snapshot | None:
        """The snapshot if the table was looked at so recently, without looking."""
        return self._snapshot if time.monotonic() - self._looked <= seconds else None

    def current(self, seconds: float = OLDEST_SECONDS) -> Snapshot:
        """A snapshot that was the table's state at most so many seconds ago.

        Raises:
            SpendGateError: the warehouse can't be read.
        """
        known = self.at_hand(seconds)
        if known is not None:
            return known
        with self._lock:
            known = self.at_hand(seconds)
            return known if known is not None else self._look()

    def _look(self) -> Snapshot:
        began = time.monotonic()
        with self.warehouse.reading() as transaction:
            state = self._state(transaction.rows("api/find_flag_state")[0])
        known = self._snapshot
        if known is None or known.state != state:
            known = self._snapshot = self._load(state)
        self._looked = began
        return known

    def _load(self, state: tuple[Any, ...]) -> Snapshot:
        # One statement: the flags and the last change that they include are of one instant. When a build commits
        # between the two looks, the state is the older one, and the next look loads again.
        with self.warehouse.reading() as transaction:
            rows = transaction.rows("api/list_flags")
        version = int(rows[0].last_change) if rows else 0
        oldest = as_utc(min(row.as_of for row in rows)) if rows else None
        return Snapshot(state, version, {row.advertiser_id: row for row in rows}, self.max_age, oldest)

    @staticmethod
    def _state(row: Row[Any]) -> tuple[Any, ...]:
        decided = "none" if row.decided_at is None else format_instant(as_utc(row.decided_at))
        return (row.flag_count, decided, int(row.version_sum))

    def changed_since(self, change: int) -> tuple[Snapshot, set[int] | None]:
        """The snapshot, and who changed in it after this change; None: that far back nobody remembers.

        Raises:
            SpendGateError: the warehouse can't be read.
        """
        snapshot = self.current()
        if change >= snapshot.version:
            return snapshot, set() if change == snapshot.version else None
        with self.warehouse.reading() as transaction:
            oldest = transaction.rows("api/find_oldest_change")[0].oldest_change
            if oldest is None or oldest > change + 1:
                return snapshot, None
            return snapshot, advertisers(transaction.rows("api/list_changed_flags", after=change))

    def changed_from(self, instant: datetime) -> tuple[Snapshot, set[int]]:
        """The snapshot, and who changed at this instant or later."""
        with self.warehouse.reading() as transaction:
            found = advertisers(transaction.rows("api/list_changed_flags_from", since=instant))
        return self.current(), found


def advertisers(rows: Sequence[Row[Any]]) -> set[int]:
    """The advertisers that rows name."""
    return {row.advertiser_id for row in rows}

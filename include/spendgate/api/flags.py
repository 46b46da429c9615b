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
from datetime import datetime, timedelta
from decimal import Decimal
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
    """A row of sql/api/list_flags or find_flag."""
    return Flag(
        row.advertiser_id,
        bool(row.can_serve),
        row.reason,
        money(row.budget),
        money(row.spent_today),
        money(row.remaining),
        row.day.isoformat(),
        format_instant(as_utc(row.as_of)),
        row.version,
        False,
    )


@dataclass(frozen=True, slots=True)
class Rendered:
    """The whole list as bytes; right until `until`, when the next flag becomes stale."""

    etag: str
    body: bytes
    zipped: bytes
    until: datetime | None


@dataclass(slots=True)
class Snapshot:
    """All flags as one statement saw them."""

    state: tuple[Any, ...]
    version: int
    decided: Mapping[int, tuple[datetime, Flag]]
    max_age: timedelta
    oldest: datetime | None
    _rendered: Rendered | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def flag(self, advertiser_id: int, now: datetime) -> Flag:
        """The flag to go by."""
        known = self.decided.get(advertiser_id)
        if known is None:
            return unknown_flag(advertiser_id)
        return as_stale(known[1]) if now - known[0] > self.max_age else known[1]

    def has_stale(self, now: datetime) -> bool:
        """Whether any flag is too old to go by."""
        return self.oldest is not None and now - self.oldest > self.max_age

    def of(self, advertisers: Iterable[int], now: datetime, *, complete: bool) -> FlagList:
        """The flags of these advertisers that have one, in the order of their ids."""
        known = (advertiser for advertiser in sorted(advertisers) if advertiser in self.decided)
        return FlagList(self.version, complete, [self.flag(advertiser, now) for advertiser in known])

    def is_rendered(self, now: datetime) -> bool:
        """Whether `rendered` has nothing to do."""
        made = self._rendered
        return made is not None and (made.until is None or now <= made.until)

    def rendered(self, now: datetime) -> Rendered:
        """The whole list as bytes, made once."""
        with self._lock:
            made = self._rendered
            if made is None or (made.until is not None and now > made.until):
                made = self._rendered = self._render(now)
            return made

    def _render(self, now: datetime) -> Rendered:
        flags: list[Flag] = []
        stale, until = 0, None
        for at, flag in self.decided.values():
            if now - at > self.max_age:
                stale += 1
                flags.append(as_stale(flag))
            else:
                until = at + self.max_age if until is None else min(until, at + self.max_age)
                flags.append(flag)
        body = msgspec.json.encode(FlagList(self.version, True, flags))
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
        with self.warehouse.transaction(read_only=True) as transaction:
            state = self._state(transaction.rows("api/find_flag_state")[0])
        known = self._snapshot
        if known is None or known.state != state:
            known = self._snapshot = self._load(state)
        self._looked = began
        return known

    def _load(self, state: tuple[Any, ...]) -> Snapshot:
        # One statement: the flags and the last change that they include are of one instant. When a build commits
        # between the two looks, the state is the older one, and the next look loads again.
        with self.warehouse.transaction(read_only=True) as transaction:
            rows = transaction.rows("api/list_flags")
        version = int(rows[0].last_change) if rows else 0
        decided = {row.advertiser_id: (as_utc(row.as_of), read_flag(row)) for row in rows}
        oldest = min((at for at, _ in decided.values()), default=None)
        return Snapshot(state, version, decided, self.max_age, oldest)

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
        with self.warehouse.transaction(read_only=True) as transaction:
            oldest = transaction.rows("api/find_oldest_change")[0].oldest_change
            if oldest is None or oldest > change + 1:
                return snapshot, None
            return snapshot, advertisers(transaction.rows("api/list_changed_flags", after=change))

    def changed_from(self, instant: datetime) -> tuple[Snapshot, set[int]]:
        """The snapshot, and who changed at this instant or later."""
        with self.warehouse.transaction(read_only=True) as transaction:
            found = advertisers(transaction.rows("api/list_changed_flags_from", since=instant))
        return self.current(), found


def advertisers(rows: Sequence[Row[Any]]) -> set[int]:
    """The advertisers that rows name."""
    return {row.advertiser_id for row in rows}

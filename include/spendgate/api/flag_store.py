"""The newest snapshot of ads.ServingFlag, at most a second older than the table.

Flags change when a build commits, and each build writes all of them; in between one look at the table's state is
enough.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from spendgate.api.memory import give_back
from spendgate.api.snapshot import FLAGS_A_PIECE, Snapshot
from spendgate.clock import Clock, format_instant
from spendgate.warehouse.engine import Warehouse, as_utc

# Looked at again after this long, beside the requests; waited for after that long.
LOOK_AGAIN_SECONDS = 0.3
OLDEST_SECONDS = 0.9


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
            give_back()  # what was read, and what is replaced
        self._looked = began
        return known

    def _load(self, state: tuple[Any, ...]) -> Snapshot:
        # One statement: the flags and the last change that they include are of one instant. When a build commits
        # between the two looks, the state is the older one, and the next look loads again.
        with self.warehouse.transaction(read_only=True) as transaction:
            return Snapshot.pack(state, transaction.pages("api/list_flags", FLAGS_A_PIECE), self.max_age)

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

"""Serving flags: decide for every advertiser, and queue each change in the transaction that makes it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

from spendgate.clock import Clock, day_start, format_instant
from spendgate.warehouse.engine import Lock, Warehouse
from spendgate.warehouse.tables import DecidedFlag

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FlagCounts:
    """What a decision did: advertisers decided, flags whose can_serve or reason changed."""

    as_of: str
    decided: int
    flipped: int

    def as_dict(self) -> dict[str, object]:
        """Plain values, for XCom and for people."""
        return {"as_of": self.as_of, "decided": self.decided, "flipped": self.flipped}


@dataclass(frozen=True, slots=True)
class Flags:
    """Decides serving flags."""

    warehouse: Warehouse
    clock: Clock

    def decide(self, as_of: datetime | None = None) -> FlagCounts:
        """Decide every advertiser's flag at `as_of` (now, unless told), in one transaction."""
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.BUILD)
            now = self.clock()
            instant = as_of or now
            day = instant.date()
            transaction.empty(DecidedFlag)
            decided = transaction.execute("flags/decide_flags", as_of=instant, day_start=day_start(day))
            transaction.refresh_statistics(DecidedFlag)
            flipped = transaction.execute("flags/enqueue_flag_changes", as_of=instant, now=now)
            transaction.execute("flags/update_flags", as_of=instant, now=now, day=day)
            transaction.execute("flags/insert_flags", as_of=instant, now=now, day=day)
        return FlagCounts(format_instant(instant), decided, flipped)

"""Spend windows: rebuild the touched (advertiser, day) pairs, and check what was rebuilt."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from spendgate.clock import Clock
from spendgate.errors import CheckFailedError
from spendgate.warehouse.engine import Lock, Transaction, Warehouse
from spendgate.warehouse.statements import statement_files
from spendgate.warehouse.tables import BuiltWindow, CheckedDay, RebuiltDay

log = logging.getLogger(__name__)

# Days rebuilt in one transaction: a day of 100,000 advertisers.
CHUNK_DAYS = 100_000


@dataclass(slots=True)
class SpendCounts:
    """What a rebuild did."""

    days: int = 0
    windows_built: int = 0
    windows_inserted: int = 0
    windows_updated: int = 0
    windows_deleted: int = 0

    def as_dict(self) -> dict[str, int]:
        """Plain values, for XCom and for people."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Spend:
    """Rebuilds and checks spend windows."""

    warehouse: Warehouse
    clock: Clock
    chunk_days: int = CHUNK_DAYS

    def rebuild_touched(self) -> SpendCounts:
        """Rebuild the windows of every touched day and forget that it was touched.

        One transaction a chunk of days: killed anywhere, the chunk's days are still touched.
        """
        counts = SpendCounts()
        while self._rebuild_chunk(counts):
            pass
        return counts

    def _rebuild_chunk(self, counts: SpendCounts) -> bool:
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.BUILD)
            transaction.empty(RebuiltDay, BuiltWindow)
            transaction.execute("spend/forget_closed_days")
            days = transaction.execute("spend/take_touched_days", limit=self.chunk_days)
            if not days:
                return False
            now = self.clock()
            transaction.refresh_statistics(RebuiltDay)
            counts.days += days
            counts.windows_built += transaction.execute("spend/build_hour_windows")
            counts.windows_built += transaction.execute("spend/build_day_windows")
            transaction.refresh_statistics(BuiltWindow)
            counts.windows_deleted += transaction.execute("spend/delete_stale_windows")
            counts.windows_updated += transaction.execute("spend/update_changed_windows", now=now)
            counts.windows_inserted += transaction.execute("spend/insert_new_windows", now=now)
            transaction.execute("spend/remember_days_to_check")
            transaction.execute("spend/forget_touched_days")
        return True

    def check_rebuilt(self) -> int:
        """Run every data check over the days that were rebuilt since the last check; returns how many days.

        Raises:
            CheckFailedError: a check returned rows; the sentence names it and its first row. The days stay
                on the list, so the next build checks them again.
        """
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.BUILD)
            transaction.refresh_statistics(CheckedDay)
            failures = failed_checks(transaction)
            if failures:
                raise CheckFailedError(_sentence(failures))
            days = int(transaction.run(select(func.count()).select_from(CheckedDay)).scalar_one())
            transaction.empty(CheckedDay)
        return days

    def check_recent(self, since: datetime) -> dict[str, str] | None:
        """Names of failing checks and their first rows over all days from `since` on; None: a build is under way."""
        with self.warehouse.transaction() as transaction:
            if not transaction.try_hold(Lock.BUILD):
                return None
            transaction.execute("checks/list_recent_days", **{"from": since})
            failures = failed_checks(transaction)
            transaction.connection.rollback()
        return failures


def failed_checks(transaction: Transaction) -> dict[str, str]:
    """Every check in sql/checks/ that returns rows, with how many and the first one."""
    failures: dict[str, str] = {}
    for name in statement_files("checks"):
        if "/assert_" in name:
            rows = transaction.rows(name)
            if rows:
                failures[name.removeprefix("checks/")] = f"{len(rows)} rows, first {dict(rows[0]._mapping)}"
    return failures


def _sentence(failures: dict[str, str]) -> str:
    found = "; ".join(f"{name}: {what}" for name, what in failures.items())
    return f"Data checks failed, see docs/runbook.md, data check: {found}"

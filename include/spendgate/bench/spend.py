"""bench spend: rebuilding windows, beside one plain GROUP BY scan; and a small run with little and much history."""

from __future__ import annotations

import time
from datetime import date, timedelta

from sqlalchemy import insert, text

from spendgate.bench.ingest import ADVERTISERS, Figures, Rows, fresh_warehouse
from spendgate.clock import utc_now
from spendgate.flags import Flags
from spendgate.merge import Merge, hours_of
from spendgate.settings import Settings
from spendgate.show import tell
from spendgate.spend import Spend
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import TimeHierarchy, TouchedDay

TOUCHED_SHARE = 100  # one advertiser in a hundred
TRIES = 5

_DAY = """
INSERT INTO ads.ClickEvent
SELECT gen_random_uuid(), 1 + n % :advertisers, 5 * (1 + n % :advertisers) + n % 5,
    at, date_trunc('hour', at), (n * 7919 % 40000) / 10000.0, CASE WHEN n % 50 = 0 THEN 0 ELSE 1 END, at, at
FROM (
    SELECT n, CAST(:day AS timestamp) + (n * 104729 % 86400000) * INTERVAL '1 millisecond' AS at
    FROM generate_series(CAST(1 AS bigint), :clicks) AS n
) AS c
"""
_BUDGETS = """
INSERT INTO ads.BudgetEvent
SELECT gen_random_uuid(), a, 50 + a % 300, CAST(:day AS timestamp) + h * INTERVAL '1 hour',
    CAST(:day AS timestamp) + h * INTERVAL '1 hour', 'bench', now(), now()
FROM generate_series(1, :advertisers) AS a, unnest(ARRAY[0, 9, 17]) AS h
"""
_MEMBERS = """
INSERT INTO ads.Advertiser SELECT a, 'bench', NULL, NULL, 1, 0, now(), now() FROM generate_series(1, :advertisers) AS a
"""
_ADS = """
INSERT INTO ads.Ad SELECT 5 * a + n, a, 'bench', NULL, NULL, 1, 0, now(), now()
FROM generate_series(1, :advertisers) AS a, generate_series(0, 4) AS n
"""
_SCAN = """
SELECT advertiser_id, time_key, COUNT(*) AS click_count,
    SUM(CASE WHEN is_valid = 1 THEN amount ELSE 0 END) AS gross_spend,
    SUM(CASE WHEN is_valid = 1 THEN 0 ELSE amount END) AS invalid_spend
FROM ads.ClickEvent
GROUP BY advertiser_id, time_key
"""


def measure_spend(settings: Settings, clicks: int, days: int) -> tuple[Figures, Rows]:
    """Figures (JSON keys) and table rows; `clicks` a day, `days` days of history."""
    warehouse = fresh_warehouse(settings)
    today = (utc_now() - timedelta(days=1)).date()
    tell(f"making a day of {clicks:,} clicks of {ADVERTISERS:,} advertisers")
    _run(warehouse, _MEMBERS, advertisers=ADVERTISERS)
    _run(warehouse, _ADS, advertisers=ADVERTISERS)
    _make_day(warehouse, today, clicks)
    scan = min(_scan(warehouse) for _ in range(3))
    full = _rebuild_everything(warehouse, today)
    short = _increment(warehouse, today)
    for back in range(1, days):
        tell(f"making day {back + 1} of {days}")
        _make_day(warehouse, today - timedelta(days=back), clicks)
        _rebuild_everything(warehouse, today - timedelta(days=back))
    long = _increment(warehouse, today)
    warehouse.close()
    figures = {
        "scan_s": scan,
        "full_rebuild_s": full,
        "ratio_to_scan": full / scan,
        "incremental_1_day_s": short,
        f"incremental_{days}_days_s": long,
        "ratio_of_history": long / short,
    }
    rows: Rows = [
        ["one GROUP BY scan", f"{scan:.2f}", f"{clicks / scan:,.0f} clicks/s", ""],
        ["full rebuild, writing included", f"{full:.2f}", "", f"{full / scan:.2f} of the scan's time"],
        ["run touching 1% of advertisers, 1 day of history", f"{short:.3f}", "", ""],
        [f"the same, {days} days of history", f"{long:.3f}", "", f"{long / short:.2f} of that at 1 day"],
    ]
    return figures, rows


def _run(warehouse: Warehouse, statement: str, **parameters: object) -> None:
    with warehouse.transaction() as transaction:
        transaction.connection.execute(text(statement), parameters)


def _make_day(warehouse: Warehouse, day: date, clicks: int) -> None:
    _run(warehouse, _DAY, day=day, clicks=clicks, advertisers=ADVERTISERS)
    _run(warehouse, _BUDGETS, day=day, advertisers=ADVERTISERS)
    with warehouse.transaction() as transaction:
        transaction.run(insert(TimeHierarchy), hours_of(day, utc_now()))
    with warehouse.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE ads.ClickEvent, ads.BudgetEvent, ads.Advertiser, ads.SpendSummary"))


def _scan(warehouse: Warehouse) -> float:
    with warehouse.transaction() as transaction:
        began = time.perf_counter()
        # The rows stay in the server: what is measured is the scan, not their way to us.
        transaction.connection.execute(text(f"CREATE TEMPORARY TABLE scanned ON COMMIT DROP AS {_SCAN}"))
        return time.perf_counter() - began


def _touch(warehouse: Warehouse, day: date, share: int) -> None:
    touched = [
        {"advertiser_id": advertiser, "date_key": day, "created_at": utc_now()}
        for advertiser in range(1, ADVERTISERS + 1, share)
    ]
    with warehouse.transaction() as transaction:
        transaction.run(insert(TouchedDay), touched)


def _rebuild_everything(warehouse: Warehouse, day: date) -> float:
    _touch(warehouse, day, 1)
    began = time.perf_counter()
    Spend(warehouse, utc_now).rebuild_touched()
    return time.perf_counter() - began


def _increment(warehouse: Warehouse, day: date) -> float:
    """Seconds of a build that touches one advertiser in a hundred: merge, rebuild, decide, check; the best of a few."""
    Spend(warehouse, utc_now).check_rebuilt()
    best = float("inf")
    for _ in range(TRIES):
        _touch(warehouse, day, TOUCHED_SHARE)
        began = time.perf_counter()
        Merge(warehouse, utc_now).merge_staged()
        spend = Spend(warehouse, utc_now)
        spend.rebuild_touched()
        Flags(warehouse, utc_now).decide()
        spend.check_rebuilt()
        best = min(best, time.perf_counter() - began)
    return best

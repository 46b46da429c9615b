"""bench gate: what judging adds to a build of many and of few staged clicks, with a week of history behind them.

The gate has no process of its own: it is part of the task that merges. So what it adds is what it loads beside that
task's modules and what it does; each round is measured in a fresh process that has loaded those and is connected. How
long such a process takes from its start to its end is told beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import delete, text, update

from spendgate.bench.ingest import ADVERTISERS, BATCH, Figures, Rows, fresh_warehouse
from spendgate.clock import day_start, utc_now
from spendgate.errors import ServiceError
from spendgate.settings import Settings
from spendgate.show import tell
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import Batch, BatchFinding, BatchHour, BatchProfile

FEW = 1_000
ROUNDS = 3
DAYS = 7
_CHILD_SECONDS = 300

_CHILD = """
import json, sys, time
import spendgate.flags, spendgate.merge, spendgate.publish, spendgate.spend, spendgate.streams.endpoints
from spendgate.clock import utc_now
from spendgate.settings import ROOT
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.schema import require_current
warehouse = Warehouse(sys.stdin.read())
require_current(warehouse)
began = time.perf_counter()
from spendgate.quality.expectations import load_thresholds
from spendgate.quality.gate import Gate
counts = Gate(warehouse, utc_now, load_thresholds(ROOT / "quality.yaml")).judge_staged()
print(json.dumps({"seconds": time.perf_counter() - began, "judged": counts.judged, "held": counts.held}))
"""
_MEMBERS = """
INSERT INTO ads.Advertiser SELECT a, 'bench', NULL, NULL, 1, 0, now(), now() FROM generate_series(1, :advertisers) AS a
"""
_WINDOWS = """
INSERT INTO ads.SpendSummary (advertiser_id, grain, window_start, window_end, click_count, gross_spend, invalid_spend,
    net_spend, budget_at_time, can_serve, created_at, updated_at)
SELECT a, CASE WHEN h < 0 THEN 'day' ELSE 'hour' END, d + GREATEST(h, 0) * INTERVAL '1 hour',
    d + GREATEST(h, 0) * INTERVAL '1 hour' + INTERVAL '1 hour', CASE WHEN h < 0 THEN 120 ELSE 5 END,
    CASE WHEN h < 0 THEN 240 ELSE 10 END, 0, 0, NULL, 0, now(), now()
FROM generate_series(1, :advertisers) AS a,
    generate_series(CAST(:day AS timestamp) - INTERVAL '7 days', CAST(:day AS timestamp) - INTERVAL '1 day',
        INTERVAL '1 day') AS d,
    generate_series(-1, 23) AS h
"""
# One merged batch an hour and partition, as hourly runs leave them.
_BATCHES = """
INSERT INTO etl.Batch (batch_id, stream, partition_id, epoch, from_position, to_position, event_count, click_count,
    rejected_count, is_replay, state, created_at, updated_at)
SELECT nextval('etl.BatchNumber'), 'bench', CAST(p AS text), 1, '0', '1', 10000, 10000, 0, 0, 'merged', t, t
FROM generate_series(CAST(:day AS timestamp) - INTERVAL '7 days', CAST(:day AS timestamp) - INTERVAL '1 hour',
        INTERVAL '1 hour') AS t,
    generate_series(0, 5) AS p
"""
_HOURS = """
INSERT INTO etl.BatchHour (time_key, batch_id, click_count, created_at)
SELECT b.created_at, b.batch_id, 10000, b.created_at FROM etl.Batch AS b WHERE b.state = 'merged'
"""
_STORED = """
INSERT INTO ads.ClickEvent (click_id, advertiser_id, ad_id, click_time, time_key, amount, is_valid, created_at,
    updated_at)
SELECT gen_random_uuid(), 1 + n % :advertisers, 1, t, date_trunc('hour', t), 2, 1, t, t
FROM (
    SELECT n, CAST(:day AS timestamp) - (n * 104729 % 86400000) * INTERVAL '1 millisecond' AS t
    FROM generate_series(CAST(1 AS bigint), :clicks) AS n
) AS c
"""
_STAGE_BATCHES = """
INSERT INTO etl.Batch (batch_id, stream, partition_id, epoch, from_position, to_position, event_count, click_count,
    rejected_count, is_replay, state, created_at, updated_at)
SELECT nextval('etl.BatchNumber'), 'bench', CAST(b % 6 AS text), 1, '0', '1', LEAST(:batch, :clicks - b * :batch),
    LEAST(:batch, :clicks - b * :batch), 0, 0, 'staged', :now, :now
FROM generate_series(CAST(0 AS bigint), CAST((:clicks - 1) / :batch AS bigint)) AS b
"""
_STAGE_CLICKS = """
INSERT INTO staging.StagedClick (batch_id, ordinal, click_id, advertiser_id, ad_id, click_time, time_key, amount,
    is_valid, updated_at)
SELECT b.batch_id, CAST(n AS int), gen_random_uuid(),
    CAST(1 + (b.batch_id * 7919 + n * 104729) % :advertisers AS int), 1, t,
    date_trunc('hour', t), (n * 7919 % 40000) / 10000.0, CASE WHEN n % 50 = 0 THEN 0 ELSE 1 END, t
FROM etl.Batch AS b
CROSS JOIN LATERAL (
    SELECT n, CAST(:day AS timestamp) + (n * 104729 % 86400000) * INTERVAL '1 millisecond' AS t
    FROM generate_series(CAST(0 AS bigint), CAST(b.click_count - 1 AS bigint)) AS n
) AS c
WHERE b.state = 'staged'
"""


def measure_gate(settings: Settings, clicks: int) -> tuple[Figures, Rows]:
    """Figures (JSON keys) and table rows of judging `clicks` staged clicks, and a thousand."""
    warehouse = fresh_warehouse(settings)
    now = utc_now()
    day = (day_start(now.date()) - timedelta(days=1)).replace(tzinfo=None)
    tell(f"making a week of history of {ADVERTISERS:,} advertisers")
    _run(warehouse, _MEMBERS, advertisers=ADVERTISERS)
    _run(warehouse, _WINDOWS, advertisers=ADVERTISERS, day=day)
    _run(warehouse, _BATCHES, day=day)
    _run(warehouse, _HOURS)
    _run(warehouse, _STORED, advertisers=ADVERTISERS, day=day, clicks=clicks)
    figures: Figures = {}
    rows: Rows = []
    for number in sorted({clicks, FEW}, reverse=True):
        tell(f"judging {number:,} staged clicks, {ROUNDS} times")
        judged, whole = _judge(warehouse, number, day, now)
        figures[f"seconds_{number}"] = judged
        figures[f"process_seconds_{number}"] = whole
        rows.append([f"the gate on {number:,} staged clicks", f"{judged:.2f}", f"{number / judged:,.0f} clicks/s", ""])
        rows.append(["a process that does nothing else, start to end", f"{whole:.2f}", "", ""])
    warehouse.close()
    return figures, rows


def _judge(warehouse: Warehouse, clicks: int, day: datetime, now: datetime) -> tuple[float, float]:
    """Seconds that the gate takes, and that a process with nothing but it takes: medians."""
    _forget_staged(warehouse)
    stamp = now.replace(tzinfo=None)
    _run(warehouse, _STAGE_BATCHES, clicks=clicks, batch=BATCH, now=stamp)
    _run(warehouse, _STAGE_CLICKS, advertisers=ADVERTISERS, day=day)
    with warehouse.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    rounds: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        rounds.append(_one_round(warehouse))
        with warehouse.transaction() as transaction:
            for table in (BatchProfile, BatchFinding):
                transaction.run(delete(table))
            transaction.run(delete(BatchHour).where(BatchHour.c.created_at >= now))
            transaction.run(update(Batch).where(Batch.c.state != "merged").values(state="staged"))
    return median(one for one, _ in rounds), median(whole for _, whole in rounds)


def _one_round(warehouse: Warehouse) -> tuple[float, float]:
    began = time.perf_counter()
    url = warehouse.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", _CHILD]
    done = subprocess.run(command, input=url, capture_output=True, text=True, timeout=_CHILD_SECONDS, check=False)
    whole = time.perf_counter() - began
    if done.returncode:
        raise ServiceError(f"Judging failed: {(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}.")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["held"] or not found["judged"]:
        raise ServiceError(f"The gate judged {found['judged']} batches and held {found['held']}; none should be held.")
    return float(found["seconds"]), whole


def _forget_staged(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        transaction.run(delete(Batch).where(Batch.c.state != "merged"))
        transaction.connection.execute(text("TRUNCATE TABLE staging.StagedClick"))


def _run(warehouse: Warehouse, statement: str, **parameters: object) -> None:
    with warehouse.transaction() as transaction:
        transaction.connection.execute(text(statement), parameters)

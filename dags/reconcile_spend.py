"""### Prove that what came in is what is in the tables

**Purpose.** Compares the streams' positions with the batches, batches with staging, staged events with `ads`, windows
with clicks and budgets (by statements of their own), flags with windows, and the flag topic with the flags. Every event
that was read is accounted for: merged, duplicate, superseded, rejected, or waiting.

**Reads.** All of it; the flag topic from its beginning.
**Writes.** `etl.Discrepancy`. With `repair`: what the steps write that made what is wrong.
**Schedule.** Daily at 03:20 UTC, over today and the two days before. By hand: *Trigger* with `from`, `to` and `repair`.
It holds no lock while it looks, and runs beside everything else.

**If it fails.**
- *Reconciliation found ...*: read *reconciliation* in docs/runbook.md; `./spendgate discrepancies list` shows all.
- *Flags couldn't be compared*: `build_spend` is failing or never done; mend that first.
- Else the sentence names the stream, the topic or the warehouse; what differs is written down all the same.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, dag, task

from spendgate.airflow_adapter import (
    EVENTS_MERGED,
    EVENTS_STAGED,
    FLAGS,
    FLAGS_PUBLISHED,
    RECONCILE,
    RETRIES,
    WINDOWS,
    bookkeeping,
    open_pipeline,
    report,
    requested_days,
)

START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


@dag(
    dag_id="reconcile_spend",
    schedule=CronTriggerTimetable("20 3 * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    dagrun_timeout=timedelta(hours=6),
    params=RECONCILE,
    doc_md=__doc__,
    tags=["spendgate"],
)
def reconcile_spend() -> None:
    @task(inlets=[EVENTS_STAGED, EVENTS_MERGED, WINDOWS, FLAGS, FLAGS_PUBLISHED])
    def compare_books() -> dict[str, Any]:
        """Find what differs; mend it if that was asked for."""
        days, repair = requested_days()
        with open_pipeline() as pipeline:
            return report("reconcile_spend", bookkeeping(pipeline).reconcile(days, repair=repair))

    compare_books()


reconcile_spend()

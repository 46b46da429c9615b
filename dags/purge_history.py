"""### Purge what has been kept for long enough

**Purpose.** Removes staged rows and raw messages of merged and discarded batches, rejected events, published messages,
entries of `etl.RunLog` and closed differences after the days that the settings `SPENDGATE_*_KEEP_DAYS` say; clicks only
if `SPENDGATE_CLICKS_KEEP_DAYS` is set. Positions and batches stay: they keep events from being read twice.

**Reads.** `etl.Batch`.
**Writes.** Deletes from `staging.*`, `etl.Outbox`, `etl.RunLog`, `etl.Discrepancy`, `ads.ClickEvent`; closes days in
`etl.ClosedHistory`.
**Schedule.** Daily at 04:40 UTC; by hand at any time. Pieces of 10,000 rows, each a transaction: others wait for
one piece at most.

**If it fails.** What was removed stays removed, and the next run goes on: clear the task, or wait for tomorrow. The
sentence says what the warehouse lacks; on SQL Server, purging clicks needs the grants that `./spendgate migrate` makes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, dag, task

from spendgate.airflow_adapter import RETRIES, open_pipeline, report

START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


@dag(
    dag_id="purge_history",
    schedule=CronTriggerTimetable("40 4 * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    dagrun_timeout=timedelta(hours=6),
    doc_md=__doc__,
    tags=["spendgate"],
)
def purge_history() -> None:
    @task
    def purge() -> dict[str, Any]:
        """Remove it, and say how much."""
        with open_pipeline() as pipeline:
            return report("purge_history", pipeline.purge_history())

    purge()


purge_history()

"""### Build spend windows and serving flags

**Purpose.** Merges staged batches into `ads`, rebuilds the spend windows of the days that they touched, decides
`can_serve` for every advertiser, publishes what changed, and checks the result.

**Reads.** `staging.*`, `etl.Batch`, `ads.*`.
**Writes.** `ads.*`, `etl.TouchedDay`, `etl.Outbox`, the topic `SPENDGATE_FLAG_TOPIC`.
**Schedule.** When events were staged, and hourly, so that a new day opens the gate without an event; one run at a
time. By hand: *Trigger* with `as_of` decides flags at another instant.

**If it fails.** Every task is one or more whole transactions: clear it and it goes on where it stopped.
- `merge_events`, `rebuild_windows`, `decide_flags`: the sentence says what the warehouse lacks (space, a migration,
  a permission). Flags stay as they were until the next success.
- `publish_flags`: the table is right, the topic is behind; messages wait in `etl.Outbox`.
- `check_spend`: numbers contradict each other; read *data check* in docs/runbook.md.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, dag, task

from spendgate.airflow_adapter import (
    AS_OF,
    EVENTS_MERGED,
    EVENTS_STAGED,
    FLAGS,
    FLAGS_PUBLISHED,
    RETRIES,
    STAGED_EVENTS,
    WINDOWS,
    deadline,
    open_pipeline,
    report,
    requested_instant,
)

START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


@dag(
    dag_id="build_spend",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("@hourly", timezone="UTC"), assets=[STAGED_EVENTS]),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    dagrun_timeout=timedelta(hours=6),
    params={"as_of": AS_OF},
    deadline=deadline("build_spend", minutes=50),
    doc_md=__doc__,
    tags=["spendgate"],
)
def build_spend() -> None:
    @task(inlets=[EVENTS_STAGED], outlets=[EVENTS_MERGED])
    def merge_events() -> dict[str, Any]:
        """Staged batches become rows of `ads`."""
        with open_pipeline() as pipeline:
            return report("merge_events", pipeline.merge_events())

    @task(inlets=[EVENTS_MERGED], outlets=[WINDOWS])
    def rebuild_windows() -> dict[str, Any]:
        """Hour and day windows of the touched days."""
        with open_pipeline() as pipeline:
            return report("rebuild_windows", pipeline.rebuild_windows())

    @task(inlets=[WINDOWS], outlets=[FLAGS])
    def decide_flags() -> dict[str, Any]:
        """Who may serve at `as_of`."""
        with open_pipeline() as pipeline:
            return report("decide_flags", pipeline.decide_flags(requested_instant()))

    @task(inlets=[FLAGS], outlets=[FLAGS_PUBLISHED])
    def publish_flags() -> dict[str, Any]:
        """What changed leaves for the flag topic."""
        with open_pipeline() as pipeline:
            return report("publish_flags", pipeline.publish_flags())

    @task
    def check_spend() -> dict[str, Any]:
        """Do the numbers agree with each other?"""
        with open_pipeline() as pipeline:
            return report("check_spend", pipeline.check_spend())

    decided = decide_flags()
    merge_events() >> rebuild_windows() >> decided >> [publish_flags(), check_spend()]


build_spend()

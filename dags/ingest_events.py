"""### Stage new events

**Purpose.** Reads every partition of every stream from its stored position to the end it has now, decodes the
events and stages them, exactly once. Bad events become rows of `staging.RejectedEvent`.

**Reads.** The streams in `SPENDGATE_STREAMS`; `etl.StreamPosition`.
**Writes.** `staging.*`, `etl.Batch`, `etl.StreamPosition`, `etl.StreamGap`; consumer group offsets for lag monitors.
**Schedule.** Hourly; one run at a time; by hand at any time, it reads only what is new.

**If it fails.**
- `list_slices`: the sentence names the broker or the topic; check `./spendgate status`, then clear the task.
- `read_slice` with *lost the events from … to …*: retention removed events before they were read. Read
  *stream gap* in docs/runbook.md before you accept the loss.
- `read_slice`, anything else: what was staged counts and is merged; clear the task and it goes on from there.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from spendgate.airflow_adapter import (
    EVENTS_READ,
    EVENTS_REJECTED,
    EVENTS_STAGED,
    RETRIES,
    STAGED_EVENTS,
    deadline,
    open_pipeline,
    report,
)

START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


@dag(
    dag_id="ingest_events",
    schedule=CronDataIntervalTimetable("@hourly", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    dagrun_timeout=timedelta(hours=6),
    deadline=deadline("ingest_events", minutes=50),
    doc_md=__doc__,
    tags=["spendgate"],
)
def ingest_events() -> None:
    @task
    def list_slices() -> list[dict[str, Any]]:
        """Remove orphaned rows, then list what there is to read."""
        from msgspec import to_builtins

        with open_pipeline() as pipeline:
            slices = pipeline.list_slices()
        report("list_slices", {"slices": len(slices)})
        return [{"label": part.label, "part": to_builtins(part)} for part in slices]

    @task(map_index_template="{{ found['label'] }}", inlets=[EVENTS_READ], outlets=[EVENTS_STAGED, EVENTS_REJECTED])
    def read_slice(found: dict[str, Any]) -> dict[str, Any]:
        """Stage one partition, or all files of a stream."""
        from msgspec import convert

        from spendgate.pipeline import Slice

        with open_pipeline() as pipeline:
            return report("read_slice", pipeline.read_slice(convert(found["part"], Slice)))

    @task(trigger_rule="all_done", outlets=[STAGED_EVENTS])
    def announce_staged() -> int:
        """Wake build_spend if anything is staged, also by a task that failed later on."""
        with open_pipeline() as pipeline:
            events = pipeline.waiting_events()
        if not events:
            raise AirflowSkipException("Nothing new was staged.")
        return int(report("announce_staged", {"events": events})["events"])

    @task
    def report_intake(reads: Any) -> dict[str, Any]:
        """Add the partitions' numbers up; fails with them, so that the run does."""
        from spendgate.pipeline import total_intake

        return report("ingest_events", total_intake(reads[:]))

    reads = read_slice.expand(found=list_slices())
    reads >> announce_staged()
    report_intake(reads)


ingest_events()

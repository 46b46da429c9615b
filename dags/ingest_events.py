"""### Stage new events

**Purpose.** Reads every partition of every stream from its stored position to the end it has now, decodes the
events and stages them, exactly once. Bad events become rows of `staging.RejectedEvent`.

**Reads.** The streams in `SPENDGATE_STREAMS`; `etl.StreamPosition`.
**Writes.** `staging.*`, `etl.Batch`, `etl.StreamPosition`, `etl.StreamGap`; consumer group offsets for lag monitors.
**Schedule.** Hourly; one run at a time; by hand at any time, it reads only what is new.

**If it fails.**
- `list_partitions`: the sentence names the broker or the topic; check `./spendgate status`, then clear the task.
- `read_partition` with *lost the events from … to …*: retention removed events before they were read. Read
  *stream gap* in docs/runbook.md before you accept the loss.
- `read_partition`, anything else: what was staged counts and is merged; clear the task and it goes on from there.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from spendgate.airflow_adapter import RETRIES, STAGED_EVENTS, open_pipeline, report

START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


@dag(
    dag_id="ingest_events",
    schedule=CronDataIntervalTimetable("@hourly", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    dagrun_timeout=timedelta(hours=6),
    doc_md=__doc__,
    tags=["spendgate"],
)
def ingest_events() -> None:
    @task
    def list_partitions() -> list[dict[str, str]]:
        """Remove orphaned rows, then list what there is to read."""
        from dataclasses import asdict

        with open_pipeline() as pipeline:
            partitions = [asdict(partition) for partition in pipeline.list_partitions()]
        report("list_partitions", {"partitions": len(partitions)})
        return partitions

    @task(map_index_template="{{ partition['stream'] }}/{{ partition['partition'] }}")
    def read_partition(partition: dict[str, str]) -> dict[str, Any]:
        """Stage one partition."""
        from spendgate.streams.base import PartitionRef

        with open_pipeline() as pipeline:
            return report("read_partition", pipeline.read_partition(PartitionRef(**partition)))

    @task(trigger_rule="all_done", outlets=[STAGED_EVENTS])
    def announce_staged(reads: Any) -> int:
        """Wake build_spend if anything was staged, even if some partitions failed."""
        events = sum(read["events"] for read in reads[:])
        if not events:
            raise AirflowSkipException("Nothing new was staged.")
        return int(report("announce_staged", {"events": events})["events"])

    @task
    def report_intake(reads: Any) -> dict[str, Any]:
        """Add the partitions' numbers up; fails with them, so that the run does."""
        from spendgate.pipeline import total_intake

        return report("ingest_events", total_intake(reads[:]))

    reads = read_partition.expand(partition=list_partitions())
    announce_staged(reads)
    report_intake(reads)


ingest_events()

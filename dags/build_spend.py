"""### Build spend windows and serving flags

**Purpose.** Judges staged batches by what `quality.yaml` expects of them and merges those that pass into `ads`,
rebuilds the spend windows of the days that they touched, decides `can_serve` for every advertiser, publishes what
changed, and checks the result.

**Reads.** `staging.*`, `etl.Batch`, `ads.*`.
**Writes.** `ads.*`, `etl.TouchedDay`, `etl.Outbox`, the topic `SPENDGATE_FLAG_TOPIC`; what the gate measured and found:
`etl.Batch*`; for people: Data Docs, `data_docs/index.html` under `SPENDGATE_HOME`.
**Schedule.** When events were staged, and hourly, so that a new day opens the gate without an event; one run at a
time. By hand: *Trigger* with `as_of` decides flags at another instant.

**If it fails.** Every task is one or more whole transactions: clear it and it goes on where it stopped.
- `merge_events`, `rebuild_windows`, `decide_flags`: the sentence says what the warehouse lacks (space, a migration,
  a permission). Flags stay as they were until the next success.
- `report_held`: batches wait for a person; each has its sentence. All else was done. Read docs/quality.md, then trigger
  `review_held_batch` or run `./spendgate batches`.
- `document_quality`: Great Expectations judges a batch other than the gate did, or the Data Docs can't be written; read
  *gate and Great Expectations disagree* in docs/runbook.md.
- `publish_flags`: the table is right, the topic is behind; messages wait in `etl.Outbox`.
- `check_spend`: numbers contradict each other; read *data check* in docs/runbook.md.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, dag, task

from spendgate import airflow_adapter as adapter
from spendgate.airflow_adapter import STAGED_EVENTS

START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


@dag(
    dag_id="build_spend",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("@hourly", timezone="UTC"), assets=[STAGED_EVENTS]),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=adapter.RETRIES,
    dagrun_timeout=timedelta(hours=6),
    params={"as_of": adapter.AS_OF},
    deadline=adapter.deadline("build_spend", minutes=50),
    doc_md=__doc__,
    tags=["spendgate"],
)
def build_spend() -> None:
    @task(inlets=[adapter.EVENTS_STAGED], outlets=[adapter.EVENTS_MERGED])
    def merge_events() -> dict[str, Any]:
        """Staged batches that pass the gate become rows of `ads`; one process, for a task's start costs a second."""
        with adapter.open_pipeline() as pipeline:
            adapter.report("judge_batches", pipeline.judge_batches())
            return adapter.report("merge_events", pipeline.merge_events())

    @task(inlets=[adapter.EVENTS_MERGED], outlets=[adapter.WINDOWS])
    def rebuild_windows() -> dict[str, Any]:
        """Hour and day windows of the touched days."""
        with adapter.open_pipeline() as pipeline:
            return adapter.report("rebuild_windows", pipeline.rebuild_windows())

    @task(inlets=[adapter.WINDOWS], outlets=[adapter.FLAGS])
    def decide_flags() -> dict[str, Any]:
        """Who may serve at `as_of`."""
        with adapter.open_pipeline() as pipeline:
            return adapter.report("decide_flags", pipeline.decide_flags(adapter.requested_instant()))

    @task(inlets=[adapter.FLAGS], outlets=[adapter.FLAGS_PUBLISHED])
    def publish_flags() -> dict[str, Any]:
        """What changed leaves for the flag topic."""
        with adapter.open_pipeline() as pipeline:
            return adapter.report("publish_flags", pipeline.publish_flags())

    @task
    def check_spend() -> dict[str, Any]:
        """Do the numbers agree with each other?"""
        with adapter.open_pipeline() as pipeline:
            return adapter.report("check_spend", pipeline.check_spend())

    @task
    def report_held() -> dict[str, Any]:
        """Fail, when everything else was done, if batches wait for a person."""
        with adapter.open_pipeline() as pipeline:
            return adapter.report("report_held", pipeline.report_held())

    @task
    def document_quality() -> dict[str, Any]:
        """Data Docs of what was judged since the last time, off the way to the flags."""
        with adapter.open_documents() as documents:
            return adapter.report("document_quality", documents.document_verdicts())

    merged = merge_events()
    merged >> rebuild_windows() >> decide_flags() >> [publish_flags(), check_spend()] >> report_held()
    merged >> document_quality()


build_spend()

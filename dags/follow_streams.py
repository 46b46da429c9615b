"""### Follow the streams, from event to flag within seconds

**Purpose.** Between the hourly runs: as soon as a stream holds something new, one task reads what is new, merges it,
rebuilds the windows that it touches, decides and publishes flags, and checks the result. It does in one process what
`ingest_events` and `build_spend` do in several; what is read is decided by the stored positions alone.

**Reads.** The streams in `SPENDGATE_STREAMS`; `etl.StreamPosition`; `staging.*`, `ads.*`.
**Writes.** What `ingest_events` and `build_spend` write.
**Schedule.** On the asset `spendgate-streams`, whose watcher in the triggerer looks at the streams twice a second; one
run at a time, a burst of events becomes one or two runs. A wake-up that is lost costs at most until the next hour. By
hand at any time. Pause it to be left with the hourly runs.

**If it fails.** Every step is one or more whole transactions, and the next run goes on where this one stopped; flags
of what could be read are decided even if a stream fails.
- *Batch ... is held*: the gate holds what this run read; later events go on. Read docs/quality.md.
- *lost the events from ... to ...*: read *stream gap* in docs/runbook.md before you accept the loss.
- Else the sentence names the stream, the warehouse or the data check: read *Streams aren't followed* in
  docs/runbook.md.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import dag, task

from spendgate.airflow_adapter import EVENTS_READ, FLAGS_PUBLISHED, RETRIES, STREAMS, open_pipeline, report

START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


@dag(
    dag_id="follow_streams",
    schedule=[STREAMS],
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    dagrun_timeout=timedelta(hours=6),
    doc_md=__doc__,
    tags=["spendgate"],
)
def follow_streams() -> None:
    @task(inlets=[EVENTS_READ], outlets=[FLAGS_PUBLISHED])
    def follow_news() -> dict[str, Any]:
        """Everything from the streams' news to published flags."""
        with open_pipeline() as pipeline:
            return report("follow_news", pipeline.follow_news())

    follow_news()


follow_streams()

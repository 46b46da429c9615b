"""### Replay rejected events

**Purpose.** Decodes rejected events again from their raw bytes, after what was wrong has been mended (a higher
lateness limit, a time that has come, a newer version of this software), and stages those that are events now.

**Reads.** `staging.RejectedEvent`.
**Writes.** `staging.*`, `etl.Batch`; of rows that stay rejected the reason, where it changed. A row leaves only when
`build_spend` has accepted its event.
**Schedule.** None: *Trigger* it. `reason`, `stream`, `since` and `until` choose the events, all of them by default;
`dry_run`, on by default, only counts. Switch it off to stage them.

**If it fails.** Nothing is lost or counted twice: clear the task and it goes on with what is left.
- `replay_events`: the sentence names the parameter or what the warehouse lacks.
- `announce_staged` skipped: nothing was staged, or it was a dry run; `replay_events` says why in its last log line.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowSkipException

from spendgate.airflow_adapter import REPLAY, RETRIES, STAGED_EVENTS, open_pipeline, report, requested_replay

START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


@dag(
    dag_id="replay_rejected",
    schedule=None,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    # Nothing runs until a person triggers it, and then it should.
    is_paused_upon_creation=False,
    default_args=RETRIES,
    dagrun_timeout=timedelta(hours=6),
    params=REPLAY,
    doc_md=__doc__,
    tags=["spendgate"],
)
def replay_rejected() -> None:
    @task
    def replay_events() -> dict[str, Any]:
        """Stage the rejected events that are events now."""
        which, dry_run = requested_replay()
        with open_pipeline() as pipeline:
            return report("replay_rejected", pipeline.replay_rejected(which, dry_run=dry_run))

    @task(outlets=[STAGED_EVENTS])
    def announce_staged(replayed: Any) -> int:
        """Wake build_spend if anything is staged, also by an attempt that failed later on."""
        with open_pipeline() as pipeline:
            events = 0 if replayed["dry_run"] else pipeline.waiting_events()
        if not events:
            raise AirflowSkipException("Nothing was staged.")
        return int(report("announce_staged", {"events": events})["events"])

    announce_staged(replay_events())


replay_rejected()

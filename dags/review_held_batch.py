"""### Release or discard a held batch

**Purpose.** A person decides on a batch that the gate holds: *release* lets the next build merge it, *discard* removes
its rows, as if it had never come, and keeps its messages. Who decided, when and why is recorded.

**Reads.** `etl.Batch`.
**Writes.** `etl.BatchDecision`, `etl.Batch`; to discard: removes the batch's rows of `staging.*` but for its messages.
**Schedule.** None: *Trigger* it, with the batch's number, the decision and a reason. What is wrong with the batch is in
the sentence of `report_held` in `build_spend`, in `./spendgate batches show` and in the Data Docs
(`data_docs/index.html` under `SPENDGATE_HOME`). `build_spend` then runs by itself.

**If it fails.** Nothing was decided.
- `decide_batch`: the sentence says what is missing, or that the batch isn't held: somebody else decided.
- `announce_decision`: the decision stands; the next build acts on it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import dag, task

from spendgate.airflow_adapter import RETRIES, REVIEW, STAGED_EVENTS, open_pipeline, report, requested_decision

START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


@dag(
    dag_id="review_held_batch",
    schedule=None,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    # Nothing runs until a person triggers it, and then it should.
    is_paused_upon_creation=False,
    default_args=RETRIES,
    dagrun_timeout=timedelta(hours=6),
    params=REVIEW,
    doc_md=__doc__,
    tags=["spendgate"],
)
def review_held_batch() -> None:
    @task
    def decide_batch() -> dict[str, Any]:
        """Record the decision, and do it."""
        batch_id, decision, by, reason = requested_decision()
        with open_pipeline() as pipeline:
            return report("decide_batch", pipeline.decide_batch(batch_id, decision, by=by, reason=reason))

    @task(outlets=[STAGED_EVENTS])
    def announce_decision(decided: Any) -> int:
        """Wake build_spend: it merges what was released, and flags are no longer stale for what was discarded."""
        return int(decided["batch"])

    announce_decision(decide_batch())


review_held_batch()

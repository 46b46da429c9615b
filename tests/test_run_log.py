"""etl.RunLog: what the steps of a run did adds up in one row, side by side or one after another."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from spendgate.run_log import Step, Tally, log_step
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import RunLog
from tests.factories import NOW, stored

SECOND = timedelta(seconds=1)
INTAKE = {"partitions": 1, "batches": 1, "events": 7, "rejected": {"not_json": 2}}
MERGED = {"inserted": 3, "updated": 1, "conflicts": 1}
REBUILT = {"windows_built": 9, "windows_inserted": 2, "windows_updated": 1, "windows_deleted": 1}
FOLLOWED = {
    "intake": INTAKE,
    "gate": {"judged": 6, "held": 5, "held_ids": [1, 2]},
    "merge": MERGED,
    "spend": REBUILT,
    "flags": {"decided": 9, "flipped": 2},
    "published": {"messages": 3},
    "checked": {"days": 1},
}


def tally(step: str, counts: dict[str, object]) -> Tally:
    made = Tally()
    made.add(step, counts)
    return made


def test_a_pass_in_one_process_counts_what_the_steps_of_two_dags_count() -> None:
    apart = Tally()
    for step, counts in (
        ("read_slice", INTAKE),
        ("merge_events", MERGED),
        ("rebuild_windows", REBUILT),
        ("decide_flags", FOLLOWED["flags"]),
        ("publish_flags", FOLLOWED["published"]),
        ("judge_batches", FOLLOWED["gate"]),
        ("list_slices", {"slices": 3}),
    ):
        apart.add(step, counts)
    together = tally("follow_news", FOLLOWED)
    assert apart == together
    assert (apart.event_count, apart.merged_count, apart.window_count, apart.flip_count) == (7, 4, 4, 2)
    assert (apart.message_count, apart.held_count) == (3, 5)
    assert apart.rejected == {"not_json": 2, "conflicting_duplicate": 1}


def test_steps_that_end_side_by_side_add_up_in_one_row(any_warehouse: Warehouse) -> None:
    def end(number: int) -> None:
        name = "read_slice" if number % 2 else "other"
        step = Step("ingest_events", "run 1", name, NOW, NOW + number * SECOND, "Broken." if number == 3 else None)
        log_step(any_warehouse, step, tally(name, INTAKE))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(end, range(1, 9)))
    log_step(any_warehouse, Step("ingest_events", "run 2", "read_slice", NOW, NOW), Tally())
    (first, second) = stored(any_warehouse, RunLog)
    assert (first.event_count, first.rejected_count, json.loads(first.rejected)) == (28, 8, {"not_json": 8})
    assert json.loads(first.seconds) == {"read_slice": 16.0, "other": 20.0}
    assert (first.dag, first.run_id, first.error) == ("ingest_events", "run 1", "Broken.")
    assert (second.event_count, second.error, second.rejected) == (0, None, "{}")

"""etl.RunLog: one row a run of a DAG, to which each of its steps adds what it did and how long it took.

A step adds its part in a transaction of its own, after its work is done: an UPDATE that locks the run's row, for steps
of one run end side by side. Books of this kind never fail a step.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from spendgate.errors import PermanentError
from spendgate.warehouse.engine import Transaction, Warehouse
from spendgate.warehouse.tables import RunLog

MAX_TEXT = 1000
_COUNTS = ("event_count", "merged_count", "held_count", "window_count", "flip_count", "message_count")

# Where each step of a pass in one process has its counts, and the name under which a DAG's task reports them.
_PARTS = {
    "intake": "read_slice",
    "gate": "judge_batches",
    "merge": "merge_events",
    "spend": "rebuild_windows",
    "flags": "decide_flags",
    "published": "publish_flags",
}
# Of a step's counts those that add up to a column.
_COUNTED = {
    "merge_events": ("merged_count", ("inserted", "updated")),
    "rebuild_windows": ("window_count", ("windows_inserted", "windows_updated", "windows_deleted")),
    "decide_flags": ("flip_count", ("flipped",)),
    "publish_flags": ("message_count", ("messages",)),
}


@dataclass(slots=True)
class Tally:
    """What steps of a run did, in the columns of etl.RunLog."""

    event_count: int = 0
    merged_count: int = 0
    held_count: int = 0
    window_count: int = 0
    flip_count: int = 0
    message_count: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, step: str, counts: Mapping[str, Any]) -> None:
        """Count in what a step reported; steps that say nothing of these are left out."""
        if step == "follow_news":
            for part in _PARTS.keys() & counts.keys():
                self.add(_PARTS[part], counts[part])
        elif step == "read_slice":
            self.event_count += counts["events"]
            self.rejected.update(counts["rejected"])
        elif step in _COUNTED:
            column, names = _COUNTED[step]
            setattr(self, column, getattr(self, column) + sum(counts[name] for name in names))
        if conflicts := counts.get("conflicts"):
            self.rejected["conflicting_duplicate"] += conflicts
        held = counts.get("held")
        if isinstance(held, int):
            self.held_count += held


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run that has ended: which run of which DAG, from when to when, and why it failed, if it did."""

    dag: str
    run_id: str
    name: str
    started_at: datetime
    ended_at: datetime
    error: str | None = None


def log_step(warehouse: Warehouse, step: Step, tally: Tally) -> None:
    """Add a step to its run's row, which the first one makes.

    Raises:
        TransientError, PermanentError: as the warehouse says.
    """
    with warehouse.transaction() as transaction:
        if _add(transaction, step, tally):
            return
    try:
        with warehouse.transaction() as transaction:
            _begin(transaction, step)
            _add(transaction, step, tally)
        return
    except PermanentError as error:
        # Another step of the run ended in the same moment and has made it.
        if not isinstance(error.__cause__, IntegrityError):
            raise
    with warehouse.transaction() as transaction:
        _add(transaction, step, tally)


def _add(transaction: Transaction, step: Step, tally: Tally) -> bool:
    """False: the run has no row yet."""
    the_run = (RunLog.c.dag == step.dag, RunLog.c.run_id == step.run_id)
    counted = {name: RunLog.c[name] + getattr(tally, name) for name in _COUNTS}
    counted["rejected_count"] = RunLog.c.rejected_count + tally.rejected.total()
    if step.error is not None:
        counted["error"] = step.error[:MAX_TEXT]
    locked = update(RunLog).where(*the_run).values(ended_at=step.ended_at, updated_at=step.ended_at, **counted)
    if transaction.run(locked).rowcount == 0:
        return False
    row = transaction.run(select(RunLog.c.rejected, RunLog.c.seconds).where(*the_run)).one()
    rejected = Counter(json.loads(row.rejected)) + tally.rejected
    seconds = json.loads(row.seconds)
    seconds[step.name] = round(seconds.get(step.name, 0) + (step.ended_at - step.started_at).total_seconds(), 3)
    texts = {"rejected": json.dumps(dict(sorted(rejected.items()))), "seconds": json.dumps(seconds)}
    transaction.run(update(RunLog).where(*the_run).values(**texts))
    return True


def _begin(transaction: Transaction, step: Step) -> None:
    zeros = dict.fromkeys((*_COUNTS, "rejected_count"), 0)
    row = {"dag": step.dag, "run_id": step.run_id, "started_at": step.started_at, "ended_at": step.ended_at}
    stamps = {"created_at": step.ended_at, "updated_at": step.ended_at}
    transaction.run(insert(RunLog), [{**row, **zeros, "rejected": "{}", "seconds": "{}", **stamps}])

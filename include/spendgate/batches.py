"""`./spendgate batches`: what the gate held, why, and deciding on it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select

from spendgate.clock import format_instant
from spendgate.errors import ConfigurationError
from spendgate.quality.decisions import STATES, Decision, batch_record, decide_batch, held_batches
from spendgate.show import counted, say, show_rows
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.schema import require_current
from spendgate.warehouse.tables import Batch, BatchDecision, BatchFinding


def show_list(warehouse: Warehouse, state: str | None, limit: int, *, warned: bool = False) -> None:
    """Print batches, newest first: held ones unless another state, or those that were only warned of, are asked for.

    Raises:
        ConfigurationError: there is no such state.
    """
    require_current(warehouse)
    if state is not None and state not in STATES:
        raise ConfigurationError(f"There is no state {state!r}; there are {', '.join(STATES)}.")
    batch = Batch.c
    found = select(BatchFinding.c.batch_id).where(BatchFinding.c.batch_id == batch.batch_id)
    wanted: ColumnElement[bool] = batch.state == (state or "held")
    if warned:
        wanted = found.where(BatchFinding.c.severity == "warn").exists()
        if state is not None:
            wanted &= batch.state == state
    columns = (batch.batch_id, batch.stream, batch.partition_id.label("partition"), batch.event_count, batch.state)
    decided = (BatchDecision.c.decided_by, BatchDecision.c.reason)
    newest = (
        select(*columns, batch.judged_at, *decided)
        .join_from(Batch, BatchDecision, BatchDecision.c.batch_id == batch.batch_id, isouter=True)
        .where(wanted)
        .order_by(batch.batch_id.desc())
    )
    with warehouse.transaction(read_only=True) as transaction:
        result = transaction.run(newest.limit(limit))
        names, rows = list(result.keys()), [list(row) for row in result]
        held = transaction.run(select(func.count()).select_from(Batch).where(batch.state == "held")).scalar_one()
    show_rows(names, rows)
    if state is None and not warned:
        for one in held_batches(warehouse, [row[0] for row in rows]):
            say(one.sentence)
    say(f"{held} batch{'es' * (held != 1)} {'waits' if held == 1 else 'wait'} for a person to release or discard.")


def show_batch(warehouse: Warehouse, batch_id: int) -> None:
    """Print all that is known of a batch: its books, what was measured, what it doesn't meet, what was decided."""
    require_current(warehouse)
    record = batch_record(warehouse, batch_id)
    facts: dict[str, Any] = {}
    for row in (record.batch, record.profile):
        if row is not None:
            facts |= {name: value for name, value in row._mapping.items() if value is not None}
    show_rows(["column", "value"], [[name, value] for name, value in facts.items()])
    if record.rejections:
        say(f"Rejected, by reason: {counted(record.rejections)}")
    for finding in record.findings:
        say(f"{finding.expectation} ({finding.severity}): {finding.sentence}")
    if record.batch.judged_at is not None and not record.findings:
        say("It meets every expectation.")
    if record.decision is not None:
        decision = record.decision
        when = format_instant(decision.decided_at)
        say(f"{decision.decision.capitalize()}d by {decision.decided_by} at {when}: {decision.reason}")


def decide(warehouse: Warehouse, batch_id: int, decision: Decision, by: str, reason: str, now: datetime) -> None:
    """Record a decision, do it, and say what comes next."""
    require_current(warehouse)
    decide_batch(warehouse, batch_id, decision, by=by, reason=reason, now=now)
    if decision is Decision.RELEASE:
        say(f"Batch {batch_id} is released by {by}: the next build (./spendgate run) merges it.")
    else:
        say(f"Batch {batch_id} is discarded by {by}: nothing of it counts; its messages are kept.")

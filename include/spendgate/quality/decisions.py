"""Held batches, and the person who decides on them: released, they are merged by the next build; discarded, never.

To discard takes one transaction under the BUILD lock: the staged rows and the rejections of the batch go, so that all
is as if it had never come. Its messages stay in staging.BatchPayload, byte for byte, as what it had, found and was
decided stays in etl. Positions don't move back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from spendgate.errors import ConfigurationError, HeldBatchError
from spendgate.people import checked_name
from spendgate.warehouse.engine import Lock, Transaction, Warehouse
from spendgate.warehouse.tables import (
    MAX_ROW_ID,
    STAGED,
    Batch,
    BatchDecision,
    BatchFinding,
    BatchProfile,
    RejectedEvent,
)

MAX_REASON = 500
STATES = ("staged", "passed", "held", "released", "merged", "discarded")


class Decision(StrEnum):
    """What a person may decide."""

    RELEASE = "release"
    DISCARD = "discard"

    @property
    def state(self) -> str:
        """The batch's state after it."""
        return "released" if self is Decision.RELEASE else "discarded"


def decide_batch(
    warehouse: Warehouse, batch_id: int, decision: Decision, *, by: str, reason: str, now: datetime
) -> None:
    """Record what a person decides on a held batch, and do it.

    Raises:
        ConfigurationError: the batch isn't held, or `by` or `reason` is missing or too long.
        RunUnderWayError: a build is in the way for too long.
    """
    by, reason = checked_name(by, "decides"), reason.strip()
    if not 1 <= len(reason) <= MAX_REASON:
        raise ConfigurationError(f"Give a reason, in 1 to {MAX_REASON} characters.")
    with warehouse.transaction() as transaction:
        transaction.hold(Lock.BUILD)
        batch = _batch(transaction, batch_id)
        if batch.state != "held":
            raise ConfigurationError(
                f"Batch {batch_id} is {batch.state}, not held; ./spendgate batches list shows those that are."
            )
        transaction.run(update(Batch).where(Batch.c.batch_id == batch_id).values(state=decision.state, updated_at=now))
        row = {"batch_id": batch_id, "decision": str(decision), "decided_by": by, "reason": reason}
        transaction.run(insert(BatchDecision), [{**row, "decided_at": now, "created_at": now, "updated_at": now}])
        if decision is Decision.DISCARD:
            _remove_rows(transaction, batch_id, now)


def _remove_rows(transaction: Transaction, batch_id: int, now: datetime) -> None:
    # Of a replay, what it was made of is rejected as before.
    replayed = update(RejectedEvent).where(RejectedEvent.c.replay_batch_id == batch_id)
    transaction.run(replayed.values(replay_batch_id=None, replay_ordinal=None, updated_at=now))
    for table in (*STAGED, RejectedEvent):
        transaction.run(delete(table).where(table.c.batch_id == batch_id))


def _batch(transaction: Transaction, batch_id: int) -> Row[Any]:
    known = 0 <= batch_id <= MAX_ROW_ID
    found: Row[Any] | None = None
    if known:
        found = transaction.run(select(Batch).where(Batch.c.batch_id == batch_id)).one_or_none()
    if found is None:
        raise ConfigurationError(f"There is no batch {batch_id}; see ./spendgate batches list.")
    return found


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A batch that waits for a person, and what it doesn't meet."""

    batch_id: int
    stream: str
    partition_id: str
    event_count: int
    held_at: datetime
    findings: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """All of it for people, in one sentence."""
        return (
            f"Batch {self.batch_id} of {self.stream}/{self.partition_id} ({self.event_count:,} events) is held: "
            f"{'; '.join(self.findings)}. Look at it with ./spendgate batches show {self.batch_id}, then release or "
            "discard it."
        )


def held_batches(warehouse: Warehouse, ids: Sequence[int] | None = None) -> list[HeldBatch]:
    """Batches that wait for a person, oldest first; of `ids` only, if given."""
    held = select(Batch).where(Batch.c.state == "held").order_by(Batch.c.batch_id)
    findings = (
        select(BatchFinding.c.batch_id, BatchFinding.c.sentence)
        .join_from(BatchFinding, Batch, Batch.c.batch_id == BatchFinding.c.batch_id)
        .where(Batch.c.state == "held", BatchFinding.c.severity == "hold")
        .order_by(BatchFinding.c.batch_id, BatchFinding.c.expectation)
    )
    with warehouse.transaction(read_only=True) as transaction:
        batches = transaction.run(held).all()
        if not batches:
            return []
        found: dict[int, list[str]] = {}
        for batch_id, sentence in transaction.run(findings):
            found.setdefault(batch_id, []).append(sentence)
    return [
        HeldBatch(
            row.batch_id,
            row.stream,
            row.partition_id,
            row.event_count,
            row.judged_at,
            tuple(found.get(row.batch_id, ())),
        )
        for row in batches
        if ids is None or row.batch_id in ids
    ]


def raise_held(warehouse: Warehouse, ids: Sequence[int] | None = None) -> None:
    """Raise if batches wait for a person (of `ids` only, if given), with a sentence for each.

    Raises:
        HeldBatchError: some do.
    """
    held = held_batches(warehouse, ids)
    if held:
        raise HeldBatchError(" ".join(batch.sentence for batch in held))


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """All that is known of one batch."""

    batch: Row[Any]
    profile: Row[Any] | None
    findings: Sequence[Row[Any]]
    decision: Row[Any] | None
    rejections: dict[str, int]


def batch_record(warehouse: Warehouse, batch_id: int) -> BatchRecord:
    """All that is known of one batch.

    Raises:
        ConfigurationError: there is none with that id.
    """
    reasons = select(RejectedEvent.c.reason, func.count()).where(RejectedEvent.c.batch_id == batch_id)
    with warehouse.transaction(read_only=True) as transaction:
        batch = _batch(transaction, batch_id)
        profile, findings, decision = (
            transaction.run(select(table).where(table.c.batch_id == batch_id)).all()
            for table in (BatchProfile, BatchFinding, BatchDecision)
        )
        counts = transaction.run(reasons.group_by(RejectedEvent.c.reason).order_by(RejectedEvent.c.reason)).all()
    return BatchRecord(
        batch,
        profile[0] if profile else None,
        findings,
        decision[0] if decision else None,
        dict(counts),
    )

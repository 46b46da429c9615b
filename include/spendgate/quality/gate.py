"""The gate between staging and merge: every new batch is measured and judged, and held where it fails.

One transaction a chunk of batches, under the BUILD lock:

1. The chunk's batches become "judging", which nobody outside the transaction sees.
2. They are measured (`measure`) and judged (`verdict`).
3. What was measured and found is written, each batch becomes "passed" or "held", and of the held ones whose flags are
   stale. All of it commits together: killed before, the batches are still "staged" and are judged by the next build.

A held batch stays in staging until a person decides (`decisions`); no batch waits for another. Thresholds are read at
each pass. Great Expectations isn't imported here: it costs seconds (`documents`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update

from spendgate.clock import Clock
from spendgate.quality.expectations import Severity, Thresholds
from spendgate.quality.measure import Profile, measure_batches
from spendgate.quality.verdict import Finding, judge
from spendgate.warehouse.engine import LIST_LENGTH, Lock, Transaction, Warehouse
from spendgate.warehouse.tables import Batch, BatchFinding, BatchProfile

log = logging.getLogger(__name__)

# Most messages judged in one transaction, as in the merge.
CHUNK_EVENTS = 2_000_000
# From so many on it matters how the staged rows are looked up.
MANY_EVENTS = 100_000
MAX_SENTENCE = 500


@dataclass(slots=True)
class GateCounts:
    """What the gate did, in batches; `held_ids` are those that it holds now."""

    judged: int = 0
    passed: int = 0
    warned: int = 0
    held: int = 0
    held_ids: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for XCom and for people."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Gate:
    """Judges staged batches."""

    warehouse: Warehouse
    clock: Clock
    thresholds: Thresholds
    chunk_events: int = CHUNK_EVENTS

    def judge_staged(self) -> GateCounts:
        """Judge every batch that is staged now."""
        counts = GateCounts()
        while self._judge_chunk(counts):
            pass
        return counts

    def _judge_chunk(self, counts: GateCounts) -> bool:
        """Judge the next chunk; False when nothing was staged."""
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.BUILD)
            batches = self._next_batches(transaction)
            if not batches:
                return False
            now = self.clock()
            ids = [batch.batch_id for batch in batches]
            transaction.run(update(Batch).where(Batch.c.batch_id.in_(ids)).values(state="judging"))
            if sum(batch.event_count for batch in batches) >= MANY_EVENTS:
                # Without it PostgreSQL looks the staged rows up batch by batch, which is three times slower.
                transaction.refresh_statistics(Batch)
            profiles = measure_batches(transaction, batches, now, self.thresholds.least())
            found = {one.batch_id: judge(one.values, self.thresholds.of(one.stream)) for one in profiles.values()}
            self._write(transaction, profiles, found, now)
            held = [batch_id for batch_id, findings in found.items() if _holds(findings)]
            self._let_pass(transaction, ids, held, now)
        _tell(batches, found)
        counts.judged += len(ids)
        counts.held += len(held)
        counts.held_ids += held
        counts.passed += len(ids) - len(held)
        counts.warned += sum(bool(findings) and not _holds(findings) for findings in found.values())
        return True

    def _next_batches(self, transaction: Transaction) -> Sequence[Row[Any]]:
        staged: Sequence[Row[Any]] = transaction.run(
            select(Batch).where(Batch.c.state == "staged").order_by(Batch.c.batch_id).limit(LIST_LENGTH)
        ).all()
        taken = 0
        for index, batch in enumerate(staged):
            taken += batch.event_count
            if taken > self.chunk_events and index:
                return staged[:index]
        return staged

    def _write(
        self,
        transaction: Transaction,
        profiles: Mapping[int, Profile],
        found: Mapping[int, Sequence[Finding]],
        now: datetime,
    ) -> None:
        stamps = {"created_at": now, "updated_at": now}
        digest = self.thresholds.digest
        rows = [
            {"batch_id": one.batch_id, "stream": one.stream, "thresholds": digest, **one.values, **stamps}
            for one in profiles.values()
        ]
        transaction.run(insert(BatchProfile), rows)
        findings = [
            {
                "batch_id": batch_id,
                "expectation": finding.expectation,
                "severity": str(finding.severity),
                "observed": finding.observed,
                "threshold": finding.threshold,
                "sentence": finding.sentence[:MAX_SENTENCE],
                **stamps,
            }
            for batch_id, some in found.items()
            for finding in some
        ]
        transaction.run(insert(BatchFinding), findings)

    def _let_pass(self, transaction: Transaction, ids: Sequence[int], held: Sequence[int], now: datetime) -> None:
        judged = {"judged_at": now, "updated_at": now}
        if passed := sorted(set(ids) - set(held)):
            transaction.run(update(Batch).where(Batch.c.batch_id.in_(passed)).values(state="passed", **judged))
        if held:
            transaction.run(update(Batch).where(Batch.c.batch_id.in_(held)).values(state="held", **judged))
            scope = {"first_batch": min(held), "last_batch": max(held)}
            transaction.execute("quality/insert_held_advertisers", **scope, now=now)


def _holds(findings: Sequence[Finding]) -> bool:
    return any(finding.severity is Severity.HOLD for finding in findings)


def _tell(batches: Sequence[Row[Any]], found: Mapping[int, Sequence[Finding]]) -> None:
    for batch in batches:
        for finding in found[batch.batch_id]:
            where = f"{batch.stream}/{batch.partition_id}"
            log.warning("Batch %d of %s (%s): %s.", batch.batch_id, where, finding.severity, finding.sentence)

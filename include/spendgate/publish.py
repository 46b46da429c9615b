"""Publish: the outbox's messages leave for the flag topic, at least once, in version order.

1. The PUBLISH lock is held: one publisher at a time, so that versions of one advertiser can't overtake.
2. If the topic isn't the one that we published to last (made for the first time, or anew), every flag is
   queued again: a new topic knows nothing.
3. Messages are sent in the order of the outbox and acknowledged by all replicas.
4. They are marked as published. Killed between 3 and 4, they are sent again; consumers keep the greatest version.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import msgspec
from sqlalchemy import Row, delete, insert, select, update

from spendgate.clock import Clock, format_instant
from spendgate.streams.base import FlagSink
from spendgate.warehouse.engine import Lock, Transaction, Warehouse
from spendgate.warehouse.tables import FlagTopic, Outbox

log = logging.getLogger(__name__)

CHUNK_MESSAGES = 20_000


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes what the outbox holds."""

    warehouse: Warehouse
    clock: Clock
    sink: FlagSink

    def publish_outbox(self) -> int:
        """Publish every queued message; returns how many were sent."""
        self._greet_topic(self.sink.ensure_topic())
        sent = 0
        while count := self._publish_chunk():
            sent += count
        return sent

    def _greet_topic(self, incarnation: str) -> None:
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.PUBLISH)
            transaction.hold(Lock.BUILD)
            known = transaction.run(
                select(FlagTopic.c.incarnation).where(FlagTopic.c.topic == self.sink.topic)
            ).scalar_one_or_none()
            if known == incarnation:
                return
            now = self.clock()
            transaction.run(delete(FlagTopic).where(FlagTopic.c.topic == self.sink.topic))
            row = {"topic": self.sink.topic, "incarnation": incarnation, "created_at": now, "updated_at": now}
            transaction.run(insert(FlagTopic), [row])
            # What is queued is older than what the flags say now, or the same.
            queued = update(Outbox).where(Outbox.c.published_at.is_(None)).values(published_at=now, updated_at=now)
            transaction.run(queued)
            flags = transaction.execute("flags/enqueue_all_flags", now=now)
        log.info("Topic %s is new to us: %d flags queued for it.", self.sink.topic, flags)

    def _publish_chunk(self) -> int:
        with self.warehouse.transaction() as transaction:
            transaction.hold(Lock.PUBLISH)
            rows = self._queued(transaction)
            if not rows:
                return 0
            self.sink.send([(str(row.advertiser_id).encode(), encode_flag(row)) for row in rows])
            now = self.clock()
            done = update(Outbox).where(Outbox.c.published_at.is_(None), Outbox.c.id.in_([row.id for row in rows]))
            transaction.run(done.values(published_at=now, updated_at=now))
        return len(rows)

    def _queued(self, transaction: Transaction) -> Sequence[Row[Any]]:
        queued = select(Outbox).where(Outbox.c.published_at.is_(None)).order_by(Outbox.c.id).limit(CHUNK_MESSAGES)
        return list(transaction.run(queued).all())


def encode_flag(row: Row[Any]) -> bytes:
    """The message's value: one JSON object; money as strings, `as_of` RFC 3339 in UTC."""
    return msgspec.json.encode(
        {
            "advertiser_id": row.advertiser_id,
            "can_serve": bool(row.can_serve),
            "reason": row.reason,
            "budget": None if row.budget is None else str(row.budget),
            "spent_today": str(row.spent_today),
            "remaining": str(row.remaining),
            "as_of": format_instant(row.as_of.astimezone(UTC)),
            "version": row.version,
        }
    )

"""The gate holds bad batches, each with its sentence, and only them; people release or discard them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from spendgate.errors import HeldBatchError
from spendgate.merge import Merge
from spendgate.payload import unpack_messages
from spendgate.quality.decisions import Decision, batch_record, decide_batch, held_batches, raise_held
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import (
    STAGED,
    Batch,
    BatchDecision,
    BatchPayload,
    HeldAdvertiser,
    ServingFlag,
)
from tests.factories import (
    DAY,
    HOUR,
    LENIENT,
    NOW,
    Bench,
    ads_of,
    advertisers_of,
    at,
    budgets_of,
    clicks_of,
    empty_everything,
    flags_of,
    rejected_bodies,
    rejections_of,
    stored,
    windows_of,
)
from tests.quality.markets import Market

HISTORY_DAYS = 3
CLICKS_AN_HOUR = 200
BAD_HOUR = at(23, 10)


@dataclass
class World:
    """A market with some days of history behind it, built, at 11 h of the last day."""

    bench: Bench
    market: Market

    def stage(self, bodies: list[bytes]) -> None:
        self.bench.stream.append(*bodies, enqueued_at=self.bench.now)
        self.bench.read()

    def build(self) -> None:
        """A build as build_spend does it, up to the flags."""
        self.bench.judge()
        Merge(self.bench.warehouse, self.bench.clock).merge_staged()
        self.bench.rebuild()
        self.bench.decide(NOW)


def world_on(warehouse: Warehouse) -> World:
    market = Market()
    world = World(Bench(warehouse, now=at(20)), market)
    world.stage(market.announcements(at(19)))
    for back in range(HISTORY_DAYS, 0, -1):
        hour = BAD_HOUR - DAY * back
        world.bench.now = hour + HOUR
        world.stage(market.clicks(hour, CLICKS_AN_HOUR))
        world.build()
    world.bench.now = BAD_HOUR + HOUR
    return world


def with_rejections(bodies: list[bytes]) -> list[bytes]:
    """Two in five are no events."""
    return [b'{"event_type":"click"}' if place % 5 < 2 else body for place, body in enumerate(bodies)]


BAD = {
    "rejected": (
        lambda market: with_rejections(market.clicks(BAD_HOUR, 300)),
        r"40% of its 300 events were rejected, most of them as missing_field; at most 20% is expected",
    ),
    "volume": (
        lambda market: market.clicks(BAD_HOUR, 50 * CLICKS_AN_HOUR),
        r"the hour of 2026-11-23 10 h UTC has 10,000 clicks, 50 times what is usual at that hour; at most 10 times is",
    ),
    "currency": (
        lambda market: market.clicks(BAD_HOUR, 300, price=100.0),
        r"its clicks cost (9\d|10\d)\.?\d* times what their advertisers paid for a click in the last 7 days; 0.2",
    ),
    "takeover": (
        lambda market: market.clicks(BAD_HOUR, 300, only=9),
        r"advertiser 9 has 95\.?\d*% of its 300 clicks, 9\d\.?\d*% more than its share of the last 7 days",
    ),
}


def tables(warehouse: Warehouse) -> list[Any]:
    """What people and ad servers see; not when it was written, and not how often a flag was decided on the way."""
    flags = {key: flag._replace(version=0) for key, flag in flags_of(warehouse).items()}
    seen = [clicks_of, budgets_of, advertisers_of, ads_of, windows_of, rejected_bodies, rejections_of]
    return [*(read(warehouse) for read in seen), flags, {row.is_stale for row in stored(warehouse, ServingFlag)}]


def states(warehouse: Warehouse) -> list[str]:
    return [row.state for row in sorted(stored(warehouse, Batch), key=lambda row: row.batch_id)]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_batch_is_held_with_its_sentence_and_ends_as_a_person_decides(
    any_warehouse: Warehouse, kind: str
) -> None:
    make, sentence = BAD[kind]
    ends = {}
    for story in ("passes", "never comes", "release", "discard"):
        empty_everything(any_warehouse)
        world = world_on(any_warehouse)
        good_before = states(any_warehouse)
        assert set(good_before) == {"merged"}, "no false hold in the history"
        bad, good = make(world.market), world.market.clicks(BAD_HOUR + HOUR, 300)
        if story == "passes":
            world.bench.thresholds = LENIENT
        if story != "never comes":
            world.stage(bad)
        world.build()
        if story in ("release", "discard"):
            assert states(any_warehouse) == [*good_before, "held"]
            [held] = held_batches(any_warehouse)
            with pytest.raises(HeldBatchError, match=sentence):
                raise_held(any_warehouse)
            assert held.sentence.startswith(f"Batch {held.batch_id} of ad-clicks/0 (")
            assert (
                {row.advertiser_id for row in stored(any_warehouse, ServingFlag) if row.is_stale}
                == {row.advertiser_id for row in stored(any_warehouse, HeldAdvertiser)}
                != set()
            )
        world.bench.now += HOUR
        world.stage(good)
        world.build()
        if story in ("release", "discard"):
            assert states(any_warehouse) == [*good_before, "held", "merged"], "later good batches go on"
            who = {"by": " maria ", "reason": "asked the producer"}
            decide_batch(any_warehouse, held.batch_id, Decision(story), **who, now=world.bench.now)
            world.build()
            assert held_batches(any_warehouse) == []
            [decision] = stored(any_warehouse, BatchDecision)
            assert (decision.decision, decision.decided_by, decision.decided_at) == (story, "maria", world.bench.now)
            assert batch_record(any_warehouse, held.batch_id).findings
        if story == "discard":
            assert all(not stored(any_warehouse, table, table.c.batch_id == held.batch_id) for table in STAGED)
            [payload] = stored(any_warehouse, BatchPayload, BatchPayload.c.batch_id == held.batch_id)
            assert [message.raw for message in unpack_messages(payload.content, range(len(bad)))] == bad
        ends[story] = tables(any_warehouse)
    assert ends["release"] == ends["passes"]
    assert ends["discard"] == ends["never comes"]

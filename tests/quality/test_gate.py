"""The gate holds bad batches, each with its sentence, and only them; people release or discard them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, update

from spendgate.errors import ConfigurationError, HeldBatchError
from spendgate.local.sample import BUDGETS, CLICKS, REFERENCE, sample_events
from spendgate.merge import Merge
from spendgate.payload import unpack_messages
from spendgate.quality.decisions import Decision, batch_record, decide_batch, held_batches, raise_held
from spendgate.quality.gate import Gate
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import (
    STAGED,
    Batch,
    BatchDecision,
    BatchFinding,
    BatchHour,
    BatchPayload,
    BatchProfile,
    HeldAdvertiser,
    RejectedEvent,
    ServingFlag,
)
from tests.factories import (
    DAY,
    HOUR,
    LENIENT,
    NOW,
    Bench,
    KilledError,
    ListStream,
    ads_of,
    advertisers_of,
    at,
    budgets_of,
    click,
    clicks_of,
    empty_everything,
    flags_of,
    kill,
    rejected_bodies,
    rejections_of,
    stored,
    windows_of,
)
from tests.quality.markets import RHYTHM, Market

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


# --- What isn't bad ------------------------------------------------------------------------------------------


@pytest.mark.untraced
def test_thirty_days_with_drifting_volume_and_quiet_sundays_hold_nothing(warehouse: Warehouse) -> None:
    """Growth of 4% a day, prices that drift, Sundays at a fifth, noise; judged in four hours of each day."""
    market = Market(seed=11)
    bench = Bench(warehouse, now=at(1))
    world = World(bench, market)
    world.stage(market.announcements(at(1) - DAY))
    sundays = 0
    for day in range(30):
        midnight = at(1) + DAY * day
        sunday = midnight.weekday() == 6
        sundays += sunday
        volume = 9_000 * 1.04**day * (0.2 if sunday else 1.0) * market.random.uniform(0.85, 1.15)
        for number in (4, 10, 14, 20):
            hour = midnight + HOUR * number
            share = RHYTHM[hour.hour] / sum(RHYTHM)
            bench.now = hour + HOUR
            world.stage(market.clicks(hour, max(5, round(volume * share)), price=1.01**day))
        bench.judge()
        Merge(warehouse, bench.clock).merge_staged()
        bench.rebuild()
    assert sundays >= 4
    assert states(warehouse).count("held") == 0
    judged = stored(warehouse, BatchProfile)
    assert sum(row.volume_ratio is not None for row in judged) > 60, "there was history to judge by"
    assert sum(row.cost_ratio is not None for row in judged) > 60


def test_a_small_batch_is_not_judged_by_shares_and_means(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stage(*(click(number, amount="1000000") for number in range(20)), *[b"?"] * 60)
    counts = bench.judge()
    assert (counts.judged, counts.held, counts.warned) == (1, 0, 0)
    [profile] = stored(any_warehouse, BatchProfile)
    assert (profile.event_count, profile.rejected_share, profile.top_share) == (80, Decimal("0.75"), None)


def test_a_warning_lets_a_batch_pass_and_tells(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    counts = bench.merge(*(click(number, amount="5000") for number in range(60)))
    assert counts.inserted == 60
    [finding] = stored(any_warehouse, BatchFinding)
    assert (finding.expectation, finding.severity, finding.threshold) == ("no_amount_is_out_of_range", "warn", 1000)
    assert finding.sentence == "its dearest click costs 5,000.0000; at most 1,000.0 is expected"


# --- Killed, twice, at once ----------------------------------------------------------------------------------


def test_killed_before_it_commits_the_gate_judges_again_and_ends_in_the_same_rows(any_warehouse: Warehouse) -> None:
    ends = []
    for dying in (False, True):
        empty_everything(any_warehouse)
        bench = Bench(any_warehouse, batch_size=100)
        bench.stage(*[b"?"] * 150, *(click(number) for number in range(50)))
        if dying:

            class Killed(Gate):
                def _let_pass(self, *arguments: Any) -> None:
                    Gate._let_pass(self, *arguments)
                    kill()

            with suppress(KilledError):
                Killed(any_warehouse, bench.clock, bench.thresholds).judge_staged()
            assert set(states(any_warehouse)) == {"staged"}
            assert stored(any_warehouse, BatchProfile) == stored(any_warehouse, BatchHour) == []
        bench.judge()
        assert bench.judge().judged == 0
        first = min(row.batch_id for row in stored(any_warehouse, Batch))
        findings = stored(any_warehouse, BatchFinding)
        ends.append((states(any_warehouse), [(row.batch_id - first, row.sentence) for row in findings]))
    assert ends[0] == ends[1]
    assert ends[0][0] == ["held", "held" if len(ends[0][1]) > 1 else "passed"]


def test_batches_are_judged_in_chunks(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse, batch_size=2)
    bench.stage(*(click(number) for number in range(7)))
    counts = Gate(any_warehouse, bench.clock, bench.thresholds, chunk_events=3).judge_staged()
    assert (counts.judged, counts.passed) == (4, 4)


# --- Deciding ------------------------------------------------------------------------------------------------


def held_bench(warehouse: Warehouse) -> tuple[Bench, int]:
    bench = Bench(warehouse)
    bench.stage(*[b"?"] * 150)
    bench.judge()
    return bench, held_batches(warehouse)[0].batch_id


@pytest.mark.parametrize(
    ("by", "reason", "message"),
    [
        (" ", "why", "Say who decides"),
        ("x" * 101, "why", "Say who decides"),
        ("maria", "", "Give a reason"),
        ("maria", "x" * 501, "Give a reason"),
    ],
)
def test_a_decision_has_a_name_and_a_reason(warehouse: Warehouse, by: str, reason: str, message: str) -> None:
    _, batch_id = held_bench(warehouse)
    with pytest.raises(ConfigurationError, match=message):
        decide_batch(warehouse, batch_id, Decision.RELEASE, by=by, reason=reason, now=NOW)
    assert states(warehouse) == ["held"]


def test_a_batch_is_decided_once_and_only_when_it_is_held(any_warehouse: Warehouse) -> None:
    bench, batch_id = held_bench(any_warehouse)
    who = {"by": "maria", "reason": "why", "now": NOW}
    for unknown in (batch_id + 1, -1, 2**70):
        with pytest.raises(ConfigurationError, match="There is no batch"):
            decide_batch(any_warehouse, unknown, Decision.DISCARD, **who)
    decide_batch(any_warehouse, batch_id, Decision.DISCARD, **who)
    with pytest.raises(ConfigurationError, match="is discarded, not held"):
        decide_batch(any_warehouse, batch_id, Decision.RELEASE, **who)
    assert bench.merge().batches == 0


def test_rejections_of_a_held_batch_wait_for_the_decision_and_a_discarded_replay_leaves_them(
    any_warehouse: Warehouse,
) -> None:
    bench, batch_id = held_bench(any_warehouse)
    assert bench.replay().looked_at == 0
    decide_batch(any_warehouse, batch_id, Decision.RELEASE, by="maria", reason="why", now=NOW)
    assert bench.replay().looked_at == 150
    empty_everything(any_warehouse)
    bench = Bench(any_warehouse, ListStream(), lateness=DAY)
    bench.build(click(1, at(20)))
    bench.lateness = timedelta(days=31)
    bench.replay()
    with any_warehouse.transaction() as transaction:
        transaction.run(update(Batch).where(Batch.c.is_replay == 1).values(state="held"))
        replay = transaction.run(select(Batch.c.batch_id).where(Batch.c.is_replay == 1)).scalar_one()
    decide_batch(any_warehouse, replay, Decision.DISCARD, by="maria", reason="why", now=NOW)
    [row] = stored(any_warehouse, RejectedEvent)
    assert (row.reason, row.replay_batch_id, row.replay_ordinal) == ("too_late", None, None)
    assert bench.replay().accepted == 1


# --- The sample day ------------------------------------------------------------------------------------------


def test_sample_days_and_a_quiet_sunday_raise_no_false_hold(warehouse: Warehouse) -> None:
    """As the demo publishes them: after the day, clicks before advertisers; the first without any history."""
    streams = [Bench(warehouse, ListStream(name), batch_size=4_000) for name in (CLICKS, BUDGETS, REFERENCE)]
    for day, clicks in ((at(20), 10_000), (at(21), 10_000), (at(22), 2_000)):  # the 22nd is a Sunday
        now = day + DAY + HOUR
        bodies: dict[str, list[bytes]] = {bench.stream.name: [] for bench in streams}
        for event in sample_events(clicks=clicks, seed=7, day=day.date(), advertisers=20):
            bodies[event.stream].append(event.payload)
        for bench in streams:
            bench.now = now
            bench.stream.append(*bodies[bench.stream.name], enqueued_at=now)
            bench.read()
        counts = streams[0].judge()
        assert counts.judged >= 3
        assert [batch.sentence for batch in held_batches(warehouse)] == []
        streams[0].merge()
        streams[0].rebuild()
    assert any(row.volume_ratio is not None for row in stored(warehouse, BatchProfile))

"""SIGKILL at any moment: after one clean run the rows are the model's and the topic says what the flags say."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from uuid import uuid4

import pytest
from tests.brokers import WheelBroker
from tests.end_to_end import pipeline_process
from tests.factories import (
    ads_of,
    advertisers_of,
    budgets_of,
    clicks_of,
    flags_of,
    modelled,
    read_topic,
    rejected_bodies,
    windows_of,
)
from tests.forked import Forked

from spendgate.local.sample import SampleEvent, sample_events
from spendgate.streams.kafka_producer import KafkaTopics, KafkaWriter
from spendgate.warehouse.engine import Warehouse

KILLS = 25
CLICKS = 3_000
PARTITIONS = 2
# Some twenty batches a run, and a few dozen statements after them: many places to die at.
BATCH_SIZE = 20
SEED = 20261123
DECISION = ("can_serve", "reason", "version")


@dataclass
class Scenario:
    """Topics on a broker, a warehouse, a day of events to feed portion by portion, and runs over them."""

    warehouse: Warehouse
    bootstrap: str
    batch_size: int = BATCH_SIZE
    name: str = field(default_factory=lambda: uuid4().hex[:12])
    published: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = datetime.now(UTC)
        yesterday = self.now.date() - timedelta(days=1)
        self.as_of = f"{yesterday}T23:59:59.999Z"
        self.events = list(sample_events(clicks=CLICKS, seed=7, day=yesterday))
        self.streams = {stream: f"{stream}-{self.name}" for stream in dict.fromkeys(e.stream for e in self.events)}
        self.flag_topic = f"can-serve-{self.name}"
        topics = KafkaTopics({"bootstrap.servers": self.bootstrap}, timeout=20)
        topics.ensure_topics(self.streams.values(), PARTITIONS)

    def portions(self, count: int) -> Iterator[list[SampleEvent]]:
        """All events in `count` pieces of about one size, in the order of delivery."""
        edges = [len(self.events) * edge // count for edge in range(count + 1)]
        return (self.events[start:end] for start, end in pairwise(edges))

    def publish(self, events: list[SampleEvent]) -> None:
        with KafkaWriter({"bootstrap.servers": self.bootstrap}, timeout=20) as writer:
            for stream, topic in self.streams.items():
                writer.write(topic, [(one.key, one.payload) for one in events if one.stream == stream])
            writer.flush()
        self.published += [one.payload for one in events]

    def start(self) -> Forked:
        """A run in a process of its own, imports behind it."""
        options = {
            "warehouse_url": self.warehouse.engine.url.render_as_string(hide_password=False),
            "bootstrap": self.bootstrap,
            "streams": list(self.streams.values()),
            "flag_topic": self.flag_topic,
            "batch_size": self.batch_size,
            "as_of": self.as_of,
        }
        process = Forked(pipeline_process.main, options)
        assert process.stdout.readline() == "started\n"
        return process

    def run(self) -> float:
        """A clean run; returns its seconds without start-up."""
        process = self.start()
        began = time.monotonic()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return time.monotonic() - began

    def run_and_kill(self, moment: float) -> bool:
        """A run that is killed after `moment` seconds; False: it was faster than that."""
        process = self.start()
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return False

    def assert_rows_are_the_models(self) -> None:
        """All but the flags' versions, which say how often an early look at the events was wrong."""
        truth = modelled(self.published, self.now)
        assert clicks_of(self.warehouse) == truth.clicks
        assert budgets_of(self.warehouse) == truth.budgets
        assert advertisers_of(self.warehouse) == truth.advertisers
        assert ads_of(self.warehouse) == truth.ads
        assert windows_of(self.warehouse) == truth.summaries()
        as_of = datetime.fromisoformat(self.as_of)
        assert {key: row.flag for key, row in flags_of(self.warehouse).items()} == truth.flags_at(as_of)
        assert rejected_bodies(self.warehouse) == Counter((one.reason, one.raw) for one in truth.rejections)

    def assert_topic_agrees_with_flags(self) -> None:
        """The last message of each advertiser has the flag's decision and version, and versions never fall."""
        messages: dict[int, list[dict[str, object]]] = {}
        for _, value in read_topic(self.bootstrap, self.flag_topic):
            message = json.loads(value or b"null")
            messages.setdefault(message["advertiser_id"], []).append(message)
        last = {key: tuple(sent[-1][name] for name in DECISION) for key, sent in messages.items()}
        assert last == {
            key: (row.flag.can_serve, row.flag.reason, row.version) for key, row in flags_of(self.warehouse).items()
        }
        for sent in messages.values():
            assert {one["version"] for one in sent} >= {sent[-1]["version"]}
            assert max(one["version"] for one in sent) == sent[-1]["version"]  # type: ignore[type-var]


@pytest.fixture
def make_scenario(any_warehouse: Warehouse, own_database: None, wheel_broker: WheelBroker) -> Callable[..., Scenario]:
    """In a database of its own: what a test that failed left running must not write to another's."""

    def make(**options: int) -> Scenario:
        return Scenario(any_warehouse, wheel_broker.bootstrap, **options)

    return make


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a slow server
def test_runs_that_are_killed_at_any_moment_end_in_the_models_rows(make_scenario: Callable[..., Scenario]) -> None:
    scenario = make_scenario()
    random = Random(SEED)
    *portions, last = scenario.portions(KILLS + 2)
    scenario.publish(portions.pop(0))
    scenario.run()
    scenario.publish(portions.pop(0))
    duration = scenario.run()
    # One moment in each KILLS-th of a run, in any order.
    moments = [(slot + random.random()) / KILLS for slot in range(KILLS)]
    random.shuffle(moments)
    kills = attempts = 0
    while moments:
        if portions:
            scenario.publish(portions.pop(0))
        attempts += 1
        assert attempts < 2 * KILLS, "runs have become much faster than the one that was measured"
        if scenario.run_and_kill(moments[-1] * duration):
            moments.pop()
            kills += 1
        else:
            duration *= 0.85
    for portion in [*portions, last]:
        scenario.publish(portion)
    assert kills == KILLS
    scenario.run()
    assert len(scenario.published) == len(scenario.events)
    scenario.assert_rows_are_the_models()
    scenario.assert_topic_agrees_with_flags()


@pytest.mark.slow
def test_two_runs_at_once_end_in_the_models_rows(make_scenario: Callable[..., Scenario]) -> None:
    scenario = make_scenario(batch_size=200)
    for portion in scenario.portions(2):
        scenario.publish(portion)
        both = [scenario.start(), scenario.start()]
        outputs = [process.communicate(timeout=90)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
        scenario.assert_rows_are_the_models()
        scenario.assert_topic_agrees_with_flags()

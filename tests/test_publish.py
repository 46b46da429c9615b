"""Publishing to a real topic: at least once, in version order, whole again when the topic was made anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from spendgate.publish import Publisher
from spendgate.streams.flag_topic import KafkaFlagTopic
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import FlagTopic, Outbox
from tests.brokers import Bench as Broker
from tests.brokers import WheelBroker
from tests.factories import (
    Bench,
    KilledError,
    advertiser,
    at,
    budget,
    click,
    flags_of,
    read_topic,
    stored,
)

NOON = at(21, 12)


@pytest.fixture
def broker(wheel_broker: WheelBroker) -> Broker:
    return Broker(wheel_broker.bootstrap)


@pytest.fixture
def sink(broker: Broker) -> KafkaFlagTopic:
    """A flag topic that isn't there yet."""
    return KafkaFlagTopic(f"can-serve-{uuid4()}", broker.properties, partitions=3, timeout=10)


def publish(bench: Bench, sink: Any) -> int:
    return Publisher(bench.warehouse, bench.clock, sink).publish_outbox()


def sent(sink: KafkaFlagTopic) -> list[dict[str, Any]]:
    """Every message on the topic; each key is its advertiser."""
    records = read_topic(sink.kafka["bootstrap.servers"], sink.topic)
    values = [(key, json.loads(value or b"null")) for key, value in records]
    assert all(key == str(value["advertiser_id"]).encode() for key, value in values)
    return [value for _, value in values]


def versions(sink: KafkaFlagTopic) -> dict[int, list[tuple[int, str]]]:
    """(version, reason) of each advertiser's messages in order."""
    by_advertiser: dict[int, list[tuple[int, str]]] = {}
    for message in sent(sink):
        by_advertiser.setdefault(message["advertiser_id"], []).append((message["version"], message["reason"]))
    return by_advertiser


def last_messages_are_the_flags(warehouse: Warehouse, sink: KafkaFlagTopic) -> None:
    last = {message["advertiser_id"]: message for message in sent(sink)}
    assert {
        advertiser_id: (message["can_serve"], message["reason"], message["version"])
        for advertiser_id, message in last.items()
    } == {
        advertiser_id: (row.flag.can_serve, row.flag.reason, row.version)
        for advertiser_id, row in flags_of(warehouse).items()
    }


def queued(warehouse: Warehouse) -> int:
    return sum(row.published_at is None for row in stored(warehouse, Outbox))


def market(warehouse: Warehouse) -> Bench:
    """Three advertisers with flags: one may serve, one has no budget, one is inferred."""
    bench = Bench(warehouse)
    bench.build(
        *(advertiser(advertiser_id=number) for number in (1, 2)),
        budget(1, at(21), "5"),
        click(1, at(21, 8), "2"),
        click(2, at(21, 8), "2", advertiser_id=3),
    )
    bench.decide(NOON)
    return bench


def test_a_message_is_the_contracts(any_warehouse: Warehouse, sink: KafkaFlagTopic) -> None:
    assert publish(market(any_warehouse), sink) == 3
    messages = {message["advertiser_id"]: message for message in sent(sink)}
    assert messages[1] == {
        "advertiser_id": 1,
        "can_serve": True,
        "reason": "ok",
        "budget": "5.0000",
        "spent_today": "2.0000",
        "remaining": "3.0000",
        "as_of": "2026-11-21T12:00:00.000Z",
        "version": 1,
    }
    assert messages[2]["budget"] is None
    assert (messages[3]["can_serve"], messages[3]["reason"]) == (False, "inactive")
    assert list(messages[1]) == [
        "advertiser_id",
        "can_serve",
        "reason",
        "budget",
        "spent_today",
        "remaining",
        "as_of",
        "version",
    ]


def test_each_change_is_sent_once_and_in_version_order(any_warehouse: Warehouse, sink: KafkaFlagTopic) -> None:
    bench = market(any_warehouse)
    publish(bench, sink)
    assert publish(bench, sink) == 0
    for number, amount in enumerate(("3", "7", "4", "20"), start=2):
        bench.build(budget(number, at(21, number), amount), click(10 + number, at(21, 9), "2"))
        bench.decide(NOON)
    assert publish(bench, sink) == 4
    assert versions(sink)[1] == [(1, "ok"), (2, "exhausted"), (3, "ok"), (4, "exhausted"), (5, "ok")]
    assert queued(any_warehouse) == 0
    last_messages_are_the_flags(any_warehouse, sink)


def test_a_topic_that_was_made_anew_gets_every_flag_again(
    any_warehouse: Warehouse, sink: KafkaFlagTopic, broker: Broker
) -> None:
    bench = market(any_warehouse)
    publish(bench, sink)
    bench.build(click(3, at(21, 9), "1"))
    bench.decide(NOON)  # no flag changes, but what remains does
    broker.delete(sink.topic)
    assert publish(bench, sink) == 3
    assert publish(bench, sink) == 0
    last_messages_are_the_flags(any_warehouse, sink)
    assert [one["remaining"] for one in sent(sink) if one["advertiser_id"] == 1] == ["2.0000"]
    [known] = stored(any_warehouse, FlagTopic)
    assert known.incarnation == sink.ensure_topic()


def test_changes_that_were_queued_for_a_lost_topic_arrive_on_the_new_one_once(
    any_warehouse: Warehouse, sink: KafkaFlagTopic, broker: Broker
) -> None:
    bench = market(any_warehouse)
    publish(bench, sink)
    bench.build(click(3, at(21, 9), "3"))
    assert bench.decide(NOON).flipped == 1
    broker.delete(sink.topic)
    publish(bench, sink)
    assert versions(sink)[1] == [(2, "exhausted")]
    last_messages_are_the_flags(any_warehouse, sink)


@dataclass
class DyingSink:
    """Dies when the broker has the messages and nobody knows yet."""

    real: KafkaFlagTopic

    @property
    def topic(self) -> str:
        return self.real.topic

    def ensure_topic(self) -> str:
        return self.real.ensure_topic()

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        self.real.send(messages)
        raise KilledError


def test_killed_between_sending_and_marking_it_sends_again(any_warehouse: Warehouse, sink: KafkaFlagTopic) -> None:
    bench = market(any_warehouse)
    with pytest.raises(KilledError):
        publish(bench, DyingSink(sink))
    assert len(sent(sink)) == 3
    assert publish(bench, sink) == 3
    assert versions(sink)[1] == [(1, "ok"), (1, "ok")]
    assert queued(any_warehouse) == 0
    last_messages_are_the_flags(any_warehouse, sink)


def test_with_nothing_queued_the_topic_is_there_all_the_same(any_warehouse: Warehouse, sink: KafkaFlagTopic) -> None:
    assert publish(Bench(any_warehouse), sink) == 0
    assert sent(sink) == []


def test_many_messages_leave_in_chunks_and_in_order(
    any_warehouse: Warehouse, sink: KafkaFlagTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spendgate.publish.CHUNK_MESSAGES", 2)
    bench = market(any_warehouse)
    assert publish(bench, sink) == 3
    for number, amount in enumerate(("1", "9", "1", "9"), start=2):
        bench.build(budget(number, at(21, number), amount))
        bench.decide(NOON)
    assert publish(bench, sink) == 4
    assert [version for version, _ in versions(sink)[1]] == [1, 2, 3, 4, 5]
    last_messages_are_the_flags(any_warehouse, sink)

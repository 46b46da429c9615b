"""What a log does between and during reads (grows, is compacted, loses its beginning), and what its records may be."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from tests.brokers import Bench, await_that
from tests.streams.conftest import NAMED_BROKER

from spendgate.streams.kafka_producer import KafkaWriter

DAY_MS = 24 * 60 * 60 * 1000


def numbered(count: int, start: int = 0) -> list[bytes | None]:
    return [b"%d" % number for number in range(start, start + count)]


# -- records of every kind


def test_keys_and_headers_change_nothing_of_the_values(bench: Bench) -> None:
    topic = bench.topic()
    producer = Producer(bench.properties)
    headers = [("traceparent", b"00-1"), ("empty", b""), ("none", None), ("traceparent", b"00-2")]
    for number in range(30):
        key = [None, b"", b"\xff\x00", b"advertiser"][number % 4]
        producer.produce(topic, b"%d" % number, key=key, headers=headers[: number % 5], partition=0)
    assert producer.flush(10) == 0
    assert bench.read(topic, limit=7) == (numbered(30), "30")


@pytest.mark.parametrize("limit", [1, 50_000])
def test_records_of_one_megabyte_are_read_whole(bench: Bench, limit: int) -> None:
    topic = bench.topic()
    sent: list[bytes | None] = [b"%02d" % number + b"x" * 999_998 for number in range(20)]
    with KafkaWriter(bench.properties, timeout=10) as writer:
        writer.write(topic, [(b"7", value or b"") for value in sent])
        writer.flush()
    assert bench.read(topic, limit=limit) == (sent, "20")


def test_records_larger_than_a_fetch_are_read_whole(apache: Bench) -> None:
    topic = apache.topic(max_message_bytes="6000000")
    sent: list[bytes | None] = [b"%d" % number + b"x" * 5_000_000 for number in range(4)]
    apache.produce(topic, sent, **{"message.max.bytes": 6_000_000})
    assert apache.read(topic) == (sent, "4")


# -- partitions that are added


def test_partitions_that_are_added_are_listed_and_read_from_their_beginning_while_old_ones_go_on(
    apache: Bench,
) -> None:
    topic = apache.topic(partitions=1)
    apache.produce(topic, numbered(10))
    first, position = apache.read(topic)
    before = apache.stream(topic).partitions()
    apache.grow(topic, 3)
    await_that(lambda: len(apache.stream(topic).partitions()) == 3)
    after = apache.stream(topic).partitions()
    assert after[: len(before)] == before  # the same incarnation: no new epoch
    apache.produce(topic, numbered(5, start=10))
    apache.produce(topic, numbered(7, start=100), partition=2)
    assert first == numbered(10)
    assert apache.read(topic, position) == (numbered(5, start=10), "15")
    assert apache.read(topic, None, number=1) == ([], "0")
    assert apache.read(topic, None, number=2) == (numbered(7, start=100), "7")


def test_partitions_that_are_added_in_mid_read_do_not_disturb_it(apache: Bench) -> None:
    topic = apache.topic()
    apache.produce(topic, numbered(1_000))
    with apache.stream(topic).read(apache.partition(topic), None) as read:
        batches = read.batches(100)
        taken = next(batches).values
        apache.grow(topic, 2)
        for batch in batches:
            taken += batch.values
    assert taken == numbered(1_000)


# -- compaction

# A cleaner that is in a hurry.
COMPACTED = {
    "cleanup_policy": "compact",
    "segment_ms": "100",
    "min_cleanable_dirty_ratio": "0.001",
    "max_compaction_lag_ms": "200",
    "delete_retention_ms": str(DAY_MS),
}


def await_compaction(bench: Bench, topic: str, first: list[bytes | None]) -> None:
    """Wait until a read of the topic gives `first` and then only what makes the broker close its segments."""
    producer = Producer(bench.properties)

    def is_compacted() -> bool:
        producer.produce(topic, b"roll", key=b"roll", partition=0)
        assert producer.flush(10) == 0
        values = bench.read(topic)[0]
        return values[: len(first)] == first and set(values[len(first) :]) == {b"roll"}

    await_that(is_compacted)


def test_compaction_leaves_the_latest_of_a_key_and_tombstones_are_none(apache: Bench) -> None:
    topic = apache.topic(**COMPACTED)
    producer = Producer(apache.properties)
    for number in range(100):
        producer.produce(topic, b"%d" % number, key=b"%d" % (number % 3), partition=0)
    producer.produce(topic, None, key=b"0", partition=0)  # offset 100
    assert producer.flush(10) == 0
    await_compaction(apache, topic, [b"97", b"98", None])
    with apache.stream(topic).read(apache.partition(topic), None) as read:
        (batch,) = read.batches(1_000)
    assert list(batch.positions)[:3] == ["97", "98", "100"]
    assert (read.start, read.lost) == ("0", None)  # compaction loses nothing that anybody has to accept


def test_a_position_that_compaction_removed_is_no_gap(apache: Bench) -> None:
    topic = apache.topic(**COMPACTED)
    producer = Producer(apache.properties)
    for number in range(100):
        producer.produce(topic, b"%d" % number, key=b"same", partition=0)
    assert producer.flush(10) == 0
    await_compaction(apache, topic, [b"99"])
    with apache.stream(topic).read(apache.partition(topic), "20") as read:
        (batch,) = read.batches(1_000)
    assert (read.start, read.lost, batch.values[0], batch.positions[0]) == ("20", None, b"99", "99")


# -- retention


@pytest.mark.skipif(bool(NAMED_BROKER), reason="needs a broker that looks for old segments every second")
def test_segments_that_retention_deleted_are_reported_as_lost(apache: Bench) -> None:
    topic = apache.topic(retention_ms=str(DAY_MS), segment_ms="60000")
    _produce_at(apache, topic, numbered(60), time.time() * 1000 - 2 * DAY_MS)
    _produce_at(apache, topic, numbered(40, start=60), time.time() * 1000)  # rolls: far younger than the first
    await_that(lambda: _first_offset(apache, topic) == 60)
    with apache.stream(topic).read(apache.partition(topic), "20") as read:
        assert (read.start, read.lost) == ("60", ("20", "60"))
        assert [value for batch in read.batches(50) for value in batch.values] == numbered(40, start=60)
    assert apache.read(topic, "60") == (numbered(40, start=60), "100")


@pytest.mark.skipif(bool(NAMED_BROKER), reason="needs a broker that looks for old segments every second")
def test_a_log_that_retention_emptied_goes_on_at_its_end(apache: Bench) -> None:
    topic = apache.topic(retention_ms="1000")
    apache.produce(topic, numbered(100))
    await_that(lambda: _first_offset(apache, topic) == 100)
    with apache.stream(topic).read(apache.partition(topic), "30") as read:
        assert (list(read.batches(50)), read.start, read.lost) == ([], "100", ("30", "100"))
    half_an_hour_on = time.time() * 1000 + DAY_MS / 48  # old enough to go only then
    _produce_at(apache, topic, numbered(5, start=100), half_an_hour_on)
    assert apache.read(topic, "100") == (numbered(5, start=100), "105")


def _first_offset(bench: Bench, topic: str) -> int:
    """As the broker says it: a read may be overtaken by the very retention that is waited for."""
    consumer = Consumer({**bench.properties, "group.id": "test-any"})
    try:
        low: int = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[0]
    finally:
        consumer.close()
    return low


def _produce_at(bench: Bench, topic: str, values: list[bytes | None], created_ms: float) -> None:
    """As if produced at that time."""
    producer = Producer(bench.properties)
    for value in values:
        producer.produce(topic, value, partition=0, timestamp=int(created_ms))
    assert producer.flush(10) == 0

"""KafkaStream against a real broker: complete, bounded, exact about positions, and never hanging."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from tests.brokers import Bench, WheelBroker, free_port

from spendgate.errors import (
    ConfigurationError,
    PermanentError,
    SpendGateError,
    StreamAccessError,
    StreamUnavailableError,
    StreamUnknownError,
)
from spendgate.streams.base import PartitionRef, place
from spendgate.streams.kafka import KafkaStream

StartBroker = Callable[[], WheelBroker]


def numbered(count: int, start: int = 0) -> list[bytes | None]:
    return [b"%d" % number for number in range(start, start + count)]


# -- partitions


def test_partitions_are_listed_in_order_with_the_topic_id_as_uuid(bench: Bench) -> None:
    topic = bench.topic(partitions=3)
    found = bench.stream(topic).partitions()
    assert [(one.stream, one.partition) for one in found] == [(topic, "0"), (topic, "1"), (topic, "2")]
    assert len({uuid.UUID(one.incarnation) for one in found}) == 1


def test_a_topic_made_again_has_another_incarnation(bench: Bench) -> None:
    topic = bench.topic()
    before = bench.partition(topic)
    bench.delete(topic)
    bench.create_again(topic)
    assert bench.partition(topic).incarnation != before.incarnation


def test_a_read_of_an_incarnation_that_is_gone_asks_for_another_run(bench: Bench) -> None:
    topic = bench.topic()
    before = bench.partition(topic)
    bench.delete(topic)
    bench.create_again(topic)
    with pytest.raises(StreamUnavailableError, match="made again"):
        _drain(bench.stream(topic), before, None)


def test_an_unknown_topic_is_unknown_and_stays_so(bench: Bench, topic_name: str) -> None:
    for _ in range(2):  # asking must not have made it
        with pytest.raises(StreamUnknownError, match=topic_name):
            bench.stream(topic_name).partitions()


def test_a_partition_that_the_topic_lacks_is_unknown(bench: Bench) -> None:
    topic = bench.topic(partitions=2)
    beyond = PartitionRef(topic, "2", bench.partition(topic).incarnation)
    with pytest.raises(StreamUnknownError, match="2 partitions"):
        _drain(bench.stream(topic), beyond, None)


# -- complete and bounded

SHAPES: dict[str, dict[str, object]] = {
    "one batch": {"linger.ms": 200},
    "batches of one": {"linger.ms": 0, "batch.num.messages": 1},
    "batches of seven": {"linger.ms": 50, "batch.num.messages": 7},
    "compressed": {"linger.ms": 50, "compression.type": "zstd"},
    "idempotent": {"linger.ms": 5, "enable.idempotence": True},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 100, 2_345])
def test_a_read_gets_every_record_that_was_there_however_they_were_batched(
    bench: Bench, shape: str, count: int
) -> None:
    topic = bench.topic()
    bench.produce(topic, numbered(count), **SHAPES[shape])
    assert bench.read(topic) == (numbered(count), str(count))


@pytest.mark.parametrize("limit", [1, 3, 100, 50_000])
def test_batches_keep_to_their_limit_and_give_each_records_place_and_time(bench: Bench, limit: int) -> None:
    topic = bench.topic()
    before = time.time() * 1000
    bench.produce(topic, numbered(250))
    offsets: list[str] = []
    with bench.stream(topic).read(bench.partition(topic), None) as read:
        for batch in read.batches(limit):
            assert 1 <= len(batch.values) <= limit
            assert len(batch.positions) == len(batch.enqueued_ms) == len(batch.values)
            assert batch.positions[0] == batch.positions[:1][0] == next(iter(batch.positions))
            assert all(before - 1000 <= stamp <= time.time() * 1000 for stamp in batch.enqueued_ms)
            offsets += batch.positions
            assert batch.next_position == str(len(offsets))
    assert offsets == list(map(str, range(250)))


def test_a_limit_below_one_is_a_mistake(bench: Bench) -> None:
    topic = bench.topic()
    with (
        bench.stream(topic).read(bench.partition(topic), None) as read,
        pytest.raises(ValueError, match="limit"),
    ):
        next(read.batches(0))


def test_a_read_resumes_where_the_last_one_ended(bench: Bench) -> None:
    topic = bench.topic()
    bench.produce(topic, numbered(10))
    first, position = bench.read(topic)
    bench.produce(topic, numbered(15, start=10), **{"batch.num.messages": 4})
    second, end = bench.read(topic, position)
    assert (first, second, end) == (numbered(10), numbered(15, start=10), "25")


@pytest.mark.parametrize("position", [0, 1, 49, 98, 99])
def test_a_read_begins_at_exactly_the_offset_it_was_given(bench: Bench, position: int) -> None:
    topic = bench.topic()
    bench.produce(topic, numbered(100), **{"linger.ms": 100})
    assert bench.read(topic, str(position))[0] == numbered(100 - position, start=position)


def test_batches_go_on_after_a_pause_where_they_stopped(bench: Bench) -> None:
    topic = bench.topic()
    bench.produce(topic, numbered(100))
    with bench.stream(topic).read(bench.partition(topic), None) as read:
        first = next(iter(read.batches(40)))
        rest = [value for batch in read.batches(100) for value in batch.values]
    assert first.values + rest == numbered(100)


def test_partitions_are_read_apart(bench: Bench) -> None:
    topic = bench.topic(partitions=2)
    bench.produce(topic, numbered(5), partition=0)
    bench.produce(topic, numbered(7, start=100), partition=1)
    assert bench.read(topic, number=1) == (numbered(7, start=100), "7")


def test_an_empty_partition_gives_no_batches_and_starts_at_zero(bench: Bench) -> None:
    topic = bench.topic()
    with bench.stream(topic).read(bench.partition(topic), None) as read:
        assert (list(read.batches(10)), read.start, read.lost) == ([], "0", None)


def test_a_read_at_the_end_gives_no_batches(bench: Bench) -> None:
    topic = bench.topic()
    bench.produce(topic, numbered(20), **{"linger.ms": 100})
    with bench.stream(topic).read(bench.partition(topic), "20") as read:
        assert (list(read.batches(10)), read.start, read.lost) == ([], "20", None)


def test_a_record_without_a_value_is_none(bench: Bench) -> None:
    topic = bench.topic()
    bench.produce(topic, [b"a", None, b"", b"b"])
    values, end = bench.read(topic)
    assert (values[0], values[1], values[3], end) == (b"a", None, b"b", "4")


def test_large_records_end_a_batch_before_its_limit(bench: Bench) -> None:
    topic = bench.topic()
    bench.produce(topic, [bytes(900_000)] * 60)
    with bench.stream(topic).read(bench.partition(topic), None) as read:
        sizes = [len(batch.values) for batch in read.batches(50_000)]
    assert sum(sizes) == 60
    assert max(sizes) < 45  # about 32 MB, and a chunk


def test_a_read_ends_while_a_producer_keeps_writing(bench: Bench) -> None:
    topic = bench.topic()
    bench.produce(topic, numbered(1_000))
    stop = threading.Event()

    def write() -> None:
        producer = Producer({**bench.properties, "linger.ms": 1})
        while not stop.is_set():
            for _ in range(200):
                producer.produce(topic, b"late", partition=0)
            producer.flush(5)
        producer.flush(5)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        begun = time.monotonic()
        with bench.stream(topic).read(bench.partition(topic), None) as read:
            taken: list[bytes | None] = []
            for batch in read.batches(100):  # slower than the writer
                taken += batch.values
                time.sleep(0.01)
        seconds = time.monotonic() - begun
    finally:
        stop.set()
        writer.join()
    assert taken[:1_000] == numbered(1_000)
    assert set(taken[1_000:]) <= {b"late"}
    assert seconds < 20
    assert len(taken) < int(bench.read(topic)[1])


# -- positions that can't be read


def test_a_position_before_the_first_record_is_lost_up_to_there() -> None:
    assert place(5, 9) == (9, ("5", "9"))


def test_nothing_is_lost_without_a_position_or_at_the_first_record() -> None:
    assert (place(None, 9), place(9, 9), place(12, 9)) == ((9, None), (9, None), (12, None))


@pytest.mark.parametrize("position", ["21", "5000"])
def test_a_position_past_the_end_is_an_error_not_a_gap(bench: Bench, position: str) -> None:
    topic = bench.topic()
    bench.produce(topic, numbered(20), **{"linger.ms": 100})
    with pytest.raises(PermanentError, match=f"ends at offset 20, before the stored position {position}"):
        _drain(bench.stream(topic), bench.partition(topic), position)


@pytest.mark.parametrize("position", ["", "x", "-1", "1.5", "\u0661"])
def test_a_position_that_is_no_offset_is_an_error(bench: Bench, position: str) -> None:
    topic = bench.topic()
    with pytest.raises(PermanentError, match="not a Kafka offset"):
        _drain(bench.stream(topic), bench.partition(topic), position)


# -- brokers that are away


def test_a_closed_port_is_unavailable_within_the_timeout() -> None:
    stream = KafkaStream("any", {"bootstrap.servers": f"127.0.0.1:{free_port()}"}, group="g", timeout=1.0)
    begun = time.monotonic()
    with pytest.raises(StreamUnavailableError, match=r"refused.*start the broker"):
        stream.partitions()
    assert time.monotonic() - begun < 3


def test_a_name_that_does_not_resolve_is_unavailable_within_the_timeout() -> None:
    stream = KafkaStream("any", {"bootstrap.servers": "broker.invalid:9092"}, group="g", timeout=1.0)
    begun = time.monotonic()
    with pytest.raises(StreamUnavailableError, match=r"broker\.invalid:9092"):
        stream.partitions()
    assert time.monotonic() - begun < 3


def test_a_broker_killed_before_the_read_is_unavailable_within_the_timeout(start_broker: StartBroker) -> None:
    broker = start_broker()
    bench = Bench(broker.bootstrap)
    topic = bench.topic()
    partition = bench.partition(topic)
    broker.kill()
    begun = time.monotonic()
    with pytest.raises(StreamUnavailableError):
        _drain(bench.stream(topic, timeout=1.0), partition, None)
    assert time.monotonic() - begun < 4


def test_a_broker_killed_in_mid_read_is_unavailable_within_the_timeout(start_broker: StartBroker) -> None:
    broker = start_broker()
    bench = Bench(broker.bootstrap)
    topic = bench.topic()
    bench.produce(topic, [bytes(10_000)] * 8_000)  # more than librdkafka fetches ahead
    with bench.stream(topic, timeout=1.0).read(bench.partition(topic), None) as read:
        batches = read.batches(100)
        next(batches)
        broker.kill()
        begun = time.monotonic()
        with pytest.raises(StreamUnavailableError, match="gave no answer"):
            for _ in batches:
                pass
        assert time.monotonic() - begun < 6
        begun = time.monotonic()
        read.commit("100")  # logged, not raised
    assert time.monotonic() - begun < 4


def test_refused_credentials_are_an_access_error_that_keeps_the_password(bench: Bench) -> None:
    stream = bench.stream(
        "any",
        timeout=1.0,
        **{
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "somebody",
            "sasl.password": "hunter2",
        },
    )
    with pytest.raises(SpendGateError) as raised:
        stream.partitions()
    # Some brokers hang up on SASL at a port without it, so all we see there is silence.
    assert isinstance(raised.value, StreamAccessError | StreamUnavailableError)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"bootstrap.servers": ""},
        {"bootstrap.servers": "127.0.0.1:1", "sasl.jaas.config": "hunter2"},
        {"bootstrap.servers": "127.0.0.1:1", "sasl.passwrd": "hunter2"},
        {"bootstrap.servers": "127.0.0.1:1", "security.protocol": "ssl", "ssl.key.pem": "hunter2"},
        {"bootstrap.servers": "127.0.0.1:1", 7: "hunter2"},
        {"bootstrap.servers": "127.0.0.1:1", "default.topic.config": "hunter2"},
    ],
)
def test_a_wrong_property_is_a_configuration_error_that_keeps_its_value(properties: dict[Any, Any]) -> None:
    with pytest.raises(ConfigurationError, match="SPENDGATE_KAFKA") as raised:
        KafkaStream("any", properties, group="g", timeout=1.0).partitions()
    assert "hunter2" not in str(raised.value)


# -- committed offsets


def test_a_committed_position_is_seen_by_whoever_asks_for_the_groups_offsets(bench: Bench) -> None:
    topic = bench.topic()
    bench.produce(topic, numbered(10))
    assert bench.committed(topic) is None
    with bench.stream(topic).read(bench.partition(topic), None) as read:
        read.commit("4")
        assert bench.committed(topic) == 4
        for batch in read.batches(50):
            read.commit(batch.next_position)
    assert bench.committed(topic) == 10


def test_reading_commits_nothing_by_itself(bench: Bench) -> None:
    topic = bench.topic()
    bench.produce(topic, numbered(10))
    bench.read(topic)
    assert bench.committed(topic) is None


# -- what only Apache Kafka does


def test_records_removed_by_retention_are_reported_as_lost(apache: Bench) -> None:
    topic = apache.topic()
    apache.produce(topic, numbered(100))
    apache.admin.delete_records([TopicPartition(topic, 0, 60)])[TopicPartition(topic, 0)].result(10)
    with apache.stream(topic).read(apache.partition(topic), "20") as read:
        assert (read.start, read.lost) == ("60", ("20", "60"))
        assert [value for batch in read.batches(50) for value in batch.values] == numbered(40, start=60)


def test_a_partition_emptied_by_retention_starts_at_its_end(apache: Bench) -> None:
    topic = apache.topic()
    apache.produce(topic, numbered(100))
    apache.admin.delete_records([TopicPartition(topic, 0, 100)])[TopicPartition(topic, 0)].result(10)
    with apache.stream(topic).read(apache.partition(topic), None) as read:
        assert (list(read.batches(50)), read.start, read.lost) == ([], "100", None)
    with apache.stream(topic).read(apache.partition(topic), "40") as read:
        assert (list(read.batches(50)), read.start, read.lost) == ([], "100", ("40", "100"))


def test_retention_that_overtakes_a_read_asks_for_another_run(apache: Bench) -> None:
    topic = apache.topic()
    for _ in range(8):
        apache.produce(topic, [bytes(10_000)] * 1_000)  # more than librdkafka fetches ahead
    with apache.stream(topic).read(apache.partition(topic), None) as read:
        batches = read.batches(100)
        next(batches)
        apache.admin.delete_records([TopicPartition(topic, 0, 7_900)])[TopicPartition(topic, 0)].result(10)
        with pytest.raises(StreamUnavailableError, match="Retention overtook"):
            for _ in batches:
                pass


# The next two would need no Apache Kafka, but librdkafka 2.16.0 crashes on the wheel's broker's answer for the id of
# a topic that is gone (rd_kafka_metadata_update_op, no topic name).


def test_a_topic_made_again_in_mid_read_is_not_read_as_if_it_were_the_old_one(apache: Bench) -> None:
    topic = apache.topic()
    for _ in range(8):
        apache.produce(topic, [bytes(10_000)] * 1_000)  # more than librdkafka fetches ahead
    with apache.stream(topic).read(apache.partition(topic), None) as read:
        batches = read.batches(100)
        next(batches)
        apache.delete(topic)
        apache.create_again(topic)
        apache.produce(topic, [b"new"] * 8_000)
        with pytest.raises(StreamUnavailableError, match="made again"):
            for _ in batches:
                pass


def test_a_topic_deleted_in_mid_read_is_unknown(apache: Bench) -> None:
    topic = apache.topic()
    apache.produce(topic, [bytes(10_000)] * 1_000)
    with apache.stream(topic).read(apache.partition(topic), None) as read:
        batches = read.batches(100)
        next(batches)
        apache.delete(topic)
        with pytest.raises(StreamUnknownError):
            for _ in batches:
                pass


def test_aborted_records_are_passed_over_also_at_the_end(apache: Bench) -> None:
    topic = apache.topic()
    _transact(apache, topic, numbered(5), commit=True)  # and a control record: 0 to 5
    _transact(apache, topic, numbered(5), commit=False)  # 6 to 11
    values, end = apache.read(topic)
    assert (values, end) == (numbered(5), "12")
    assert apache.read(topic, end) == ([], "12")


def test_a_read_of_nothing_but_aborted_records_still_moves_on(apache: Bench) -> None:
    topic = apache.topic()
    _transact(apache, topic, numbered(5), commit=False)
    with apache.stream(topic).read(apache.partition(topic), None) as read:
        (batch,) = read.batches(50)
    assert (batch.values, list(batch.positions), batch.next_position) == ([], [], "6")


def test_an_open_transaction_ends_the_read_and_is_read_once_it_is_committed(apache: Bench) -> None:
    topic = apache.topic()
    apache.produce(topic, numbered(3))
    producer = _transactional(apache)
    producer.begin_transaction()
    producer.produce(topic, b"held", partition=0)
    producer.flush(10)
    apache.produce(topic, [b"behind"])
    begun = time.monotonic()
    values, end = apache.read(topic)
    assert (values, end) == (numbered(3), "3")
    assert time.monotonic() - begun < 5
    producer.commit_transaction(10)
    assert apache.read(topic, end)[0] == [b"held", b"behind"]


def test_compacted_offsets_are_passed_over(apache: Bench) -> None:
    topic = apache.topic(
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.001",
        max_compaction_lag_ms="200",
    )
    producer = Producer(apache.properties)
    for number in range(200):
        producer.produce(topic, b"%d" % number, key=b"same", partition=0)
    producer.flush(10)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        producer.produce(topic, b"roll", key=b"other", partition=0)  # closes the segment before it
        producer.flush(10)
        values, end = apache.read(topic, "0")
        if len(values) < 100:
            break
        time.sleep(0.5)
    assert len(values) < 100
    assert (values[0], values[-1]) == (b"199", b"roll")
    assert int(end) > 200


# -- tools


def _drain(stream: KafkaStream, partition: PartitionRef, position: str | None) -> None:
    with stream.read(partition, position) as read:
        for _ in read.batches(1_000):
            pass


def _transactional(bench: Bench) -> Producer:
    producer = Producer({**bench.properties, "transactional.id": str(uuid.uuid4())})
    producer.init_transactions(30)
    return producer


def _transact(bench: Bench, topic: str, values: list[bytes | None], *, commit: bool) -> None:
    producer = _transactional(bench)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0)
    producer.flush(10)
    if commit:
        producer.commit_transaction(10)
    else:
        producer.abort_transaction(10)

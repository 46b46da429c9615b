"""Writing to a real broker: acknowledged means there, and a failure leaves nothing on its way."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka.admin import ConfigResource, ResourceType
from tests.brokers import Bench, WheelBroker, free_port

from spendgate.errors import PermanentError, StreamUnavailableError, StreamUnknownError
from spendgate.streams.kafka_producer import FlagProducer, KafkaTopics, KafkaWriter

# An idempotent producer's first answer takes a second, and longer on a busy machine.
PATIENCE = 3.0


def test_a_missing_topic_is_made_and_its_id_returned(bench: Bench, topic_name: str) -> None:
    made = KafkaTopics(bench.properties, timeout=10).ensure_topic(topic_name, 3)
    found = bench.stream(topic_name).partitions()
    assert ({one.incarnation for one in found}, len(found)) == ({made}, 3)


def test_a_topic_that_exists_is_left_as_it_is(bench: Bench) -> None:
    topic = bench.topic(partitions=2)
    before = bench.stream(topic).partitions()
    assert KafkaTopics(bench.properties, timeout=10).ensure_topic(topic, 5, True) == before[0].incarnation
    assert bench.stream(topic).partitions() == before


def test_several_topics_are_made_at_once(bench: Bench) -> None:
    names = [f"test-{uuid.uuid4()}", bench.topic(), f"test-{uuid.uuid4()}"]
    made = KafkaTopics(bench.properties, timeout=10).ensure_topics(names, 1)
    assert made == {name: bench.partition(name).incarnation for name in names}


def test_a_compacted_topic_is_made_compacted(apache: Bench, topic_name: str) -> None:
    KafkaTopics(apache.properties, timeout=10).ensure_topic(topic_name, 1, compacted=True)
    resource = ConfigResource(ResourceType.TOPIC, topic_name)
    config = apache.admin.describe_configs([resource])[resource].result(10)
    assert config["cleanup.policy"].value == "compact"


@pytest.mark.parametrize("policy", ["delete", "compact,delete"])
def test_a_flag_topic_that_forgets_is_warned_of_in_one_sentence(
    apache: Bench, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    topic = apache.topic(cleanup_policy=policy)
    KafkaTopics(apache.properties, timeout=10).ensure_topic(topic, 1, compacted=True)
    (warning,) = caplog.records
    sentence = warning.getMessage()
    assert warning.levelname == "WARNING"
    assert topic in sentence
    assert sentence.endswith("set its cleanup.policy to compact.")


def test_a_compacted_flag_topic_is_not_warned_of(apache: Bench, caplog: pytest.LogCaptureFixture) -> None:
    topic = apache.topic(cleanup_policy="compact")
    KafkaTopics(apache.properties, timeout=10).ensure_topic(topic, 1, compacted=True)
    assert caplog.records == []


def test_a_topic_that_needs_no_compaction_is_not_warned_of(apache: Bench, caplog: pytest.LogCaptureFixture) -> None:
    KafkaTopics(apache.properties, timeout=10).ensure_topic(apache.topic(), 1)
    assert caplog.records == []


def test_a_broker_that_says_nothing_of_its_settings_holds_nothing_up(
    wheel_broker: WheelBroker, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(wheel_broker.bootstrap)
    topic = bench.topic()
    begun = time.monotonic()
    made = KafkaTopics(bench.properties, timeout=10).ensure_topic(topic, 1, compacted=True)
    assert time.monotonic() - begun < 6
    assert made == bench.partition(topic).incarnation
    assert caplog.records == []


def test_a_name_that_no_topic_can_have_is_refused(apache: Bench) -> None:
    with pytest.raises(StreamUnknownError):
        KafkaTopics(apache.properties, timeout=10).ensure_topic("no blanks allowed", 1)


def test_what_was_sent_is_there_when_send_returns_in_order_for_a_key(bench: Bench) -> None:
    topic = bench.topic(partitions=3)
    with FlagProducer(topic, bench.properties, timeout=10) as producer:
        for version in range(20):
            producer.send([(b"%d" % key, b"%d:%d" % (key, version)) for key in range(10)])
    by_key: dict[bytes, list[int]] = {}
    for number in range(3):
        for value in bench.read(topic, number=number)[0]:
            key, _, version = (value or b"").partition(b":")
            by_key.setdefault(key, []).append(int(version))
    assert by_key == {b"%d" % key: list(range(20)) for key in range(10)}


def test_sending_nothing_needs_no_broker() -> None:
    FlagProducer("any", {"bootstrap.servers": f"127.0.0.1:{free_port()}"}, timeout=1).send([])


def test_sending_to_an_unknown_topic_does_not_make_it(bench: Bench, topic_name: str) -> None:
    with (
        FlagProducer(topic_name, bench.properties, timeout=2) as producer,
        pytest.raises(StreamUnknownError, match=topic_name),
    ):
        producer.send([(b"1", b"{}")])
    with pytest.raises(StreamUnknownError):
        bench.stream(topic_name).partitions()


def test_a_message_that_is_too_large_is_refused(bench: Bench) -> None:
    with (
        FlagProducer(bench.topic(), bench.properties, timeout=5) as producer,
        pytest.raises(PermanentError, match="larger than the broker takes"),
    ):
        producer.send([(b"1", bytes(2_000_000))])


def test_a_broker_that_went_away_is_unavailable_within_the_timeout_and_the_next_send_recovers(
    start_broker: Callable[[], WheelBroker],
) -> None:
    broker = start_broker()
    bench = Bench(broker.bootstrap)
    topic = bench.topic()
    with FlagProducer(topic, bench.properties, timeout=PATIENCE) as producer:
        producer.send([(b"1", b"before")])
        broker.kill()
        begun = time.monotonic()
        with pytest.raises(StreamUnavailableError):
            producer.send([(b"1", b"lost")])
        assert time.monotonic() - begun < PATIENCE + 3
        broker.start()
        bench = Bench(broker.bootstrap)
        bench.create(topic)  # the wheel's broker has forgotten it
        producer.send([(b"1", b"after")])
    assert bench.read(topic)[0] == [b"after"]


def test_a_full_queue_waits_for_room_and_gives_up_on_a_broker_that_is_gone(
    start_broker: Callable[[], WheelBroker],
) -> None:
    broker = start_broker()
    bench = Bench(broker.bootstrap)
    topic = bench.topic()
    properties = {**bench.properties, "queue.buffering.max.messages": 100}
    with KafkaWriter(properties, timeout=PATIENCE) as writer:
        writer.write(topic, [(None, b"x")] * 5_000)
        writer.flush()
        broker.kill()
        with pytest.raises(StreamUnavailableError):
            writer.write(topic, [(None, b"x")] * 5_000)

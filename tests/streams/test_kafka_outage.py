"""Apache Kafka that dies while it is read or written: back in time, nothing is lost or doubled; else a bounded wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from tests import kafka_server
from tests.brokers import Bench
from tests.kafka_server import ApacheKafka

from spendgate.errors import StreamUnavailableError
from spendgate.streams.kafka_producer import KafkaWriter

RECORDS = 2_000
# What librdkafka fetches ahead (a tenth of the topic), so that most of it is still to come when the broker dies.
LITTLE = {"queued.max.messages.kbytes": 1_024, "fetch.message.max.bytes": 262_144}
# Longer than the broker needs to come back on a machine that is busy.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def mortal() -> Iterator[ApacheKafka]:
    """A broker of our own, to kill."""
    kafka_server.require()
    # A broker that was killed may come back only when its old session has expired.
    with ApacheKafka({"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}) as kafka:
        yield kafka


@pytest.fixture
def bench(mortal: ApacheKafka) -> Bench:
    """A bench on it; it is started again if the test before killed it."""
    if mortal.pid is None:
        mortal.start()
    return Bench(mortal.bootstrap)


def bodies(count: int = RECORDS) -> list[bytes]:
    """Records of 10 kB that tell their number."""
    return [b"%05d" % number + bytes(10_000) for number in range(count)]


@pytest.mark.parametrize("silence", [0.0, 1.0])
def test_a_read_goes_on_when_a_killed_broker_comes_back_in_time(
    bench: Bench, mortal: ApacheKafka, silence: float
) -> None:
    """Also when it dies owing us answers: it is deaf for `silence` seconds before the end."""
    topic = bench.topic()
    bench.produce(topic, bodies())
    values: list[bytes | None] = []
    positions: list[str] = []
    with bench.stream(topic, timeout=PATIENCE, **LITTLE).read(bench.partition(topic), None) as read:
        batches = read.batches(100)
        first = next(batches)
        mortal.pause()
        returning = threading.Thread(target=_die_and_return, args=(mortal, silence))
        returning.start()
        try:
            for batch in (first, *batches):
                values += batch.values
                positions += batch.positions
        finally:
            returning.join()
    assert positions == list(map(str, range(RECORDS)))
    assert values == bodies()


def test_a_read_that_begins_while_the_broker_is_coming_back_is_whole(bench: Bench, mortal: ApacheKafka) -> None:
    topic = bench.topic()
    bench.produce(topic, bodies(100))
    partition = bench.partition(topic)
    returning = threading.Thread(target=_die_and_return, args=(mortal,))
    returning.start()
    try:
        with bench.stream(topic, timeout=PATIENCE).read(partition, "40") as read:
            values = [value for batch in read.batches(50) for value in batch.values]
    finally:
        returning.join()
    assert values == bodies(100)[40:]


def test_a_writer_goes_on_when_a_killed_broker_comes_back_in_time(bench: Bench, mortal: ApacheKafka) -> None:
    topic = bench.topic()
    with KafkaWriter({**bench.properties, "batch.size": 20_000, "linger.ms": 0}, timeout=PATIENCE) as writer:
        writer.write(topic, [(b"7", body) for body in bodies(1_000)])
        returning = threading.Thread(target=_die_and_return, args=(mortal,))
        returning.start()
        try:
            writer.write(topic, [(b"7", body) for body in bodies()[1_000:]])
            writer.flush()
        finally:
            returning.join()
    assert bench.read(topic)[0] == bodies()


def test_a_broker_that_does_not_come_back_is_unavailable_within_the_timeout(bench: Bench, mortal: ApacheKafka) -> None:
    topic = bench.topic()
    bench.produce(topic, bodies())
    stream = bench.stream(topic, timeout=2.0, **LITTLE)
    (partition,) = stream.partitions()
    with stream.read(partition, None) as read:
        batches = read.batches(100)
        next(batches)
        mortal.kill()
        begun = time.monotonic()
        with pytest.raises(StreamUnavailableError, match="gave no answer"):
            for _ in batches:
                pass
        assert time.monotonic() - begun < 8
    for attempt in (stream.partitions, stream.read(partition, None).__enter__):
        begun = time.monotonic()
        with pytest.raises(StreamUnavailableError, match="start the broker"):
            attempt()
        assert time.monotonic() - begun < 5


def _die_and_return(broker: ApacheKafka, silence: float = 0.0) -> None:
    time.sleep(silence)
    broker.kill()
    broker.start()

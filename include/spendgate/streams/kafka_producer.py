"""Writing to Kafka: topics made when missing, and messages that count as sent only when acknowledged."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from spendgate.errors import PermanentError, SpendGateError, StreamAccessError, StreamUnknownError
from spendgate.streams.kafka_cluster import Admin, Cluster

log = logging.getLogger(__name__)

# Defaults that the caller's properties may override.
_THROUGHPUT: Mapping[str, Any] = {
    "client.id": "spendgate",
    # The partitioner of Java clients: one advertiser stays in one partition whoever produces.
    "partitioner": "murmur2_random",
    "linger.ms": 20,
    "batch.size": 1_000_000,
    # Apache Kafka's own default limit for a batch.
    "message.max.bytes": 1_048_588,
    "queue.buffering.max.kbytes": 64 * 1024,
    "queue.buffering.max.messages": 200_000,
}

# What our promises rest on, whatever the caller's properties say.
_ACKNOWLEDGED: Mapping[str, Any] = {
    "acks": "all",
    # No duplicates and no reordering when librdkafka sends again.
    "enable.idempotence": True,
    # Success shows as an empty queue without errors, so only errors need a Python call each.
    "delivery.report.only.error": True,
}

_SLICE_SECONDS = 0.05
# To look at a topic's settings isn't worth a longer wait.
_SETTINGS_SECONDS = 5.0

_COMPACTED: Mapping[str, str] = {"cleanup.policy": "compact"}
_MAY_NOT_CREATE = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.POLICY_VIOLATION,
    }
)


class KafkaTopics:
    """Makes topics that are missing; leaves those that exist as they are."""

    def __init__(self, properties: Mapping[str, Any], *, timeout: float) -> None:
        self._cluster = Cluster(properties, timeout)

    def ensure_topic(self, name: str, partitions: int, compacted: bool = False) -> str:
        """Make the topic if it is missing, with the broker's default replication.

        One that exists is left as it is; if it should be `compacted` and isn't, a warning says so.

        Returns:
            The topic id, as in `PartitionRef.incarnation`.

        Raises:
            StreamUnavailableError, ConfigurationError
            StreamAccessError: the broker refuses us; or the topic is missing and we may not make it.
            StreamUnknownError: the broker doesn't take the name.
        """
        admin = Admin(self._cluster)
        try:
            topic_id = admin.describe(name).topic_id
        except StreamUnknownError:
            self._create(admin, name, partitions, _COMPACTED if compacted else {})
            return self._await(name)
        if compacted:
            self._warn_unless_compacted(admin, name)
        return topic_id

    def ensure_topics(self, names: Iterable[str], partitions: int) -> dict[str, str]:
        """Make those of the plain topics that are missing; topic ids by name."""
        return {name: self.ensure_topic(name, partitions) for name in names}

    def _create(self, admin: Admin, name: str, partitions: int, config: Mapping[str, str]) -> None:
        topic = NewTopic(name, num_partitions=partitions, config=dict(config))
        future = admin.client.create_topics([topic], request_timeout=self._cluster.timeout)[name]
        try:
            admin.wait(future, name)
        except SpendGateError as error:
            code = error.__cause__.args[0].code() if isinstance(error.__cause__, KafkaException) else None
            if code in _MAY_NOT_CREATE:
                settings = "".join(f" with {key}={value}" for key, value in config.items())
                raise StreamAccessError(
                    f"Kafka at {self._cluster.bootstrap} has no stream {name!r}, and we may not create it: create it"
                    f"{settings}, or give us the permission to."
                ) from error
            if code != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        else:
            log.info("Made topic %s with %d partitions", name, partitions)

    def _warn_unless_compacted(self, admin: Admin, name: str) -> None:
        """A broker that doesn't say, or doesn't let us ask, is no reason to publish nothing."""
        resource = ConfigResource(ResourceType.TOPIC, name)
        seconds = min(_SETTINGS_SECONDS, self._cluster.timeout)
        future = admin.client.describe_configs([resource], request_timeout=seconds)[resource]
        try:
            policy = admin.wait(future, name).get("cleanup.policy")
        except SpendGateError as error:
            log.info("Whether topic %s is compacted can't be seen: %s", name, error)
            return
        if policy is not None and policy.value != _COMPACTED["cleanup.policy"]:
            log.warning(
                "Topic %s has cleanup.policy=%s, so that flags which stay as they are will be missing on it one day: "
                "set its cleanup.policy to compact.",
                name,
                policy.value,
            )

    def _await(self, name: str) -> str:
        """The id of a topic just made: other brokers of a cluster learn of it a moment later."""
        deadline = time.monotonic() + self._cluster.timeout
        while True:
            try:
                return self._cluster.describe(name).topic_id
            except StreamUnknownError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_SLICE_SECONDS)


class KafkaWriter:
    """Queues messages for existing topics and waits until the broker has them all; a context manager.

    One key's messages stay in order. Any failure discards what is still queued, and the writer is done for:
    what was acknowledged stays on the topic, so whoever sends again sends duplicates.
    `timeout` (seconds) bounds the time in which nothing at all is acknowledged.
    """

    def __init__(self, properties: Mapping[str, Any], *, timeout: float) -> None:
        self._cluster = Cluster(properties, timeout)
        self._complaints: list[KafkaError] = []
        self._failures: list[tuple[KafkaError, str]] = []
        self._topic = ""  # the one written to last
        with self._cluster.checking_properties():
            self._producer = Producer(
                self._cluster.configure(
                    self._complaints, _THROUGHPUT, {**_ACKNOWLEDGED, "on_delivery": self._on_failure}
                )
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Discard what isn't acknowledged: nothing may reach the broker after we have given up on it."""
        self._producer.purge()
        try:
            self._producer.flush(_SLICE_SECONDS)
        except KafkaException as error:  # it had failed for good, so there is nothing left to discard
            log.debug("Producer closed after %s", error)

    def require(self, topics: Iterable[str]) -> None:
        """Make sure that the topics exist: a producer would silently make them.

        Raises:
            StreamUnknownError, StreamUnavailableError, StreamAccessError
        """
        for topic in topics:
            self._cluster.describe(topic)

    def write(self, topic: str, messages: Iterable[tuple[bytes | None, bytes]]) -> None:
        """Queue (key, value) pairs, waiting for room when the queue is full.

        Raises:
            StreamUnavailableError, StreamUnknownError, StreamAccessError: as `flush`, if it shows already.
            PermanentError: a message is larger than the broker takes.
        """
        self._topic = topic
        produce = self._producer.produce
        with self._explaining(topic):
            for key, value in messages:
                try:
                    produce(topic, value, key)
                except BufferError:
                    self._produce_when_room(topic, key, value)
            self._producer.poll(0)
        self._check()

    def flush(self) -> None:
        """Wait until every queued message is acknowledged.

        Raises:
            StreamUnavailableError: nothing was acknowledged for `timeout`, or the broker failed.
            StreamUnknownError, StreamAccessError: the topic or our right to it went away.
        """
        with self._explaining(self._topic):
            for _ in self._waiting(self._topic):
                if self._producer.flush(_SLICE_SECONDS) == 0:
                    break
        self._check()

    def _produce_when_room(self, topic: str, key: bytes | None, value: bytes) -> None:
        for _ in self._waiting(topic):
            self._producer.poll(_SLICE_SECONDS)
            try:
                self._producer.produce(topic, value, key)
            except BufferError:
                continue
            return

    @contextmanager
    def _explaining(self, topic: str) -> Iterator[None]:
        """Turns librdkafka's error into ours. Any call raises it once the producer has failed for good."""
        try:
            yield
        except KafkaException as raised:
            error: KafkaError = raised.args[0]
            if error.code() == KafkaError._FATAL:  # the next call says which
                try:
                    self._producer.poll(0)
                except KafkaException as told:
                    error = told.args[0]
            raise self._explain(error, topic) from raised

    def _waiting(self, topic: str) -> Iterable[int]:
        """Yields the number of queued messages, until it hasn't fallen for `timeout`; then raises."""
        fewest = len(self._producer)
        moved = time.monotonic()
        while True:
            yield fewest
            self._check()
            if len(self._producer) < fewest:
                fewest = len(self._producer)
                moved = time.monotonic()
            elif time.monotonic() - moved > self._cluster.timeout:
                raise self._cluster.silence(self._complaints, topic)

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failures.append((error, message.topic() or ""))

    def _check(self) -> None:
        if self._failures:
            raise self._explain(*self._failures[0])

    def _explain(self, error: KafkaError, topic: str) -> SpendGateError:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return PermanentError(
                f"A message for {topic!r} is larger than the broker takes: shorten it, or raise the topic's "
                "max.message.bytes and message.max.bytes in SPENDGATE_KAFKA_CONFIG."
            )
        return self._cluster.failure(error, self._complaints, topic)


class FlagProducer:
    """Sends flags to their compacted topic, at least once and in order for one key; a context manager.

    After a failure the next call begins with a new producer, so that nothing that was left in a queue can
    arrive late and overtake newer flags.
    """

    def __init__(self, topic: str, properties: Mapping[str, Any], *, timeout: float) -> None:
        self._topic = topic
        self._properties = properties
        self._timeout = timeout
        self._writer: KafkaWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Send (key, value) pairs and return when every one is acknowledged.

        Raises:
            StreamUnavailableError: not all acknowledged; those that were can't be told from the others.
            StreamUnknownError, StreamAccessError, ConfigurationError
            PermanentError: a message is larger than the broker takes.
        """
        if not messages:
            return
        try:
            if self._writer is None:
                self._writer = KafkaWriter(self._properties, timeout=self._timeout)
                self._writer.require([self._topic])
            self._writer.write(self._topic, messages)
            self._writer.flush()
        except BaseException:
            self.close()
            raise

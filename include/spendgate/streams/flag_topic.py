"""The compacted Kafka topic that flags are published to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spendgate.streams.kafka_producer import FlagProducer, KafkaTopics


@dataclass(frozen=True, slots=True)
class KafkaFlagTopic:
    """Where flags go (`spendgate.streams.base.FlagSink`); `timeout` in seconds."""

    topic: str
    kafka: Mapping[str, Any] = field(repr=False)
    partitions: int
    timeout: float

    def ensure_topic(self) -> str:
        """Make the topic, compacted, if it isn't there; returns its id."""
        return KafkaTopics(self.kafka, timeout=self.timeout).ensure_topic(self.topic, self.partitions, compacted=True)

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Send (key, value) pairs in order and return when all are acknowledged."""
        with FlagProducer(self.topic, self.kafka, timeout=self.timeout) as producer:
            producer.send(messages)

"""A Kafka cluster as we are told to reach it: its clients' properties, its topics, and its errors as ours."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient

from spendgate.errors import (
    ConfigurationError,
    SpendGateError,
    StreamAccessError,
    StreamUnavailableError,
    StreamUnknownError,
)

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.1

_64_BITS = (1 << 64) - 1

_REFUSED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_UNKNOWN = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
# A read goes on through these until `timeout` has passed without a record: librdkafka reconnects by itself.
PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        # The connection that an answer was awaited on is gone.
        KafkaError._DESTROY,
        KafkaError._DESTROY_BROKER,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
    }
)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the broker describes it; `topic_id` is uuid text, "" from a broker that gives none."""

    topic_id: str
    partitions: tuple[int, ...]


class Cluster:
    """A Kafka cluster as we are told to reach it: configures clients, and turns their errors into ours.

    Clients are made for one piece of work and never kept: librdkafka's threads don't survive a fork.
    """

    def __init__(self, properties: Mapping[str, Any], timeout: float) -> None:
        self._properties = dict(properties)
        self.timeout = timeout
        self.bootstrap = str(properties.get("bootstrap.servers") or "")
        if not self.bootstrap:
            raise ConfigurationError("Set SPENDGATE_KAFKA_BOOTSTRAP to the host:port of a Kafka broker.")

    def configure(
        self,
        complaints: list[KafkaError],
        defaults: Mapping[str, Any] | None = None,
        forced: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A client's properties: `defaults`, overridden by the caller's, overridden by `forced`.

        What the client complains of (refused passwords, lost connections) is appended to `complaints`.
        """
        return {
            **(defaults or {}),
            **self._properties,
            **(forced or {}),
            "error_cb": complaints.append,
            "logger": _LibraryLog(),
        }

    def describe(self, topic: str) -> Topic:
        """As `Admin.describe`, by a client for this once."""
        return Admin(self).describe(topic)

    def failure(self, error: KafkaError, complaints: Iterable[KafkaError], topic: str) -> SpendGateError:
        """Our error for librdkafka's, by code; a refusal among the complaints explains any other error."""
        refusal = next((one for one in (error, *complaints) if one.code() in _REFUSED), None)
        if refusal is not None:
            return StreamAccessError(
                f"Kafka at {self.bootstrap} refuses us stream {topic!r} ({self._text(refusal)}): correct the "
                "credentials and permissions in SPENDGATE_KAFKA_CONFIG or the connection spendgate_kafka."
            )
        if error.code() in _UNKNOWN:
            return StreamUnknownError(
                f"Kafka at {self.bootstrap} has no stream {topic!r}: create the topic, or correct its name."
            )
        if error.code() in PASSING:
            return self.silence(complaints, topic)
        return StreamUnavailableError(
            f"Kafka at {self.bootstrap} can't serve stream {topic!r} now ({self._text(error)}): run again, "
            "and look at the broker's log if that doesn't help."
        )

    def silence(self, complaints: Iterable[KafkaError], topic: str) -> SpendGateError:
        """Our error for a broker that hasn't answered within the time limit."""
        heard = list(complaints)
        if any(one.code() in _REFUSED for one in heard):
            return self.failure(heard[-1], heard, topic)
        telling = [one for one in heard if one.code() != KafkaError._ALL_BROKERS_DOWN]
        why = f" ({self._text(telling[-1])})" if telling else ""
        return StreamUnavailableError(
            f"Kafka at {self.bootstrap} gave no answer about stream {topic!r} in {self.timeout:g} s{why}: "
            "start the broker, or check SPENDGATE_KAFKA_BOOTSTRAP and the security settings in "
            "SPENDGATE_KAFKA_CONFIG."
        )

    @contextmanager
    def checking_properties(self) -> Iterator[None]:
        """Turns librdkafka's refusal of a property into a ConfigurationError."""
        try:
            yield
        except KafkaException as error:
            text = self._text(error.args[0])
            raise ConfigurationError(
                f"Correct SPENDGATE_KAFKA_CONFIG or the connection spendgate_kafka: {text}."
            ) from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(
                "Correct SPENDGATE_KAFKA_CONFIG or the connection spendgate_kafka: "
                "a property's value has the wrong type."
            ) from error

    def _text(self, error: KafkaError) -> str:
        """librdkafka's words on one line, without the value of any property that may be a secret."""
        text = " ".join(error.str().split()).rstrip(".")
        for name, value in self._properties.items():
            if value and any(word in str(name) for word in ("password", "secret", "key", "jaas", "oauth")):
                text = text.replace(str(value), "***")
        return text


class Admin:
    """A client for topics and group offsets. Its futures fail when it is gone, so it is kept while they run."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._complaints: list[KafkaError] = []
        with cluster.checking_properties():
            self.client = AdminClient(cluster.configure(self._complaints))

    def describe(self, topic: str) -> Topic:
        """The topic's id and partitions; never creates it.

        Raises:
            StreamUnknownError, StreamUnavailableError, StreamAccessError, ConfigurationError
        """
        deadline = time.monotonic() + self._cluster.timeout
        while True:
            left = max(_RETRY_SECONDS, deadline - time.monotonic())
            future = self.client.describe_topics(TopicCollection([topic]), request_timeout=left)[topic]
            try:
                described = self.wait(future, topic)
            except StreamUnavailableError as error:
                # librdkafka doesn't send a request again whose connection was lost on the way.
                if time.monotonic() >= deadline or not _is_passing(error.__cause__):
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                return Topic(
                    topic_id=_uuid_text(described.topic_id),
                    partitions=tuple(sorted(partition.id for partition in described.partitions)),
                )

    def wait(self, future: Future[Result], topic: str) -> Result:
        """The result of a request that was sent with at most our timeout, or our error; a refusal is told at once."""
        deadline = time.monotonic() + self._cluster.timeout + 1
        while True:
            try:
                return future.result(timeout=_RETRY_SECONDS)
            except KafkaException as error:
                self.client.poll(0)  # hands out what is still to be said to the complaints
                raise self._cluster.failure(error.args[0], self._complaints, topic) from error
            except TimeoutError as error:
                self.client.poll(0)
                # librdkafka goes on trying with a password that was refused, until the request's time is over.
                refused = any(complaint.code() in _REFUSED for complaint in self._complaints)
                if refused or time.monotonic() >= deadline:
                    raise self._cluster.silence(self._complaints, topic) from error


class _LibraryLog:
    """Takes librdkafka's own log lines, which would go to stderr, for debugging only.

    What matters of them arrives as errors too.
    """

    def log(self, _level: int, text: str, *values: object) -> None:
        log.debug(text, *values)


def _is_passing(cause: BaseException | None) -> bool:
    return isinstance(cause, KafkaException) and cause.args[0].code() in PASSING


def _uuid_text(topic_id: Uuid | None) -> str:
    """librdkafka's Uuid as uuid text; "" if the broker gave none, which librdkafka shows as zero."""
    if topic_id is None:
        return ""
    # The package's type stubs don't know these two methods.
    high: int = topic_id.get_most_significant_bits() & _64_BITS  # type: ignore[attr-defined]
    low: int = topic_id.get_least_significant_bits() & _64_BITS  # type: ignore[attr-defined]
    return str(uuid.UUID(int=high << 64 | low)) if high or low else ""

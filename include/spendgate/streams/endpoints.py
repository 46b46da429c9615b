"""Where streams are and how they are reached: one place that knows every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from spendgate.errors import ConfigurationError, StreamUnknownError
from spendgate.settings import Settings, StreamKind, split_stream
from spendgate.streams.base import FlagSink, MessageWriter, Stream

# Messages carry their keys and the table its own copy: one partition a core of a small cluster is plenty.
FLAG_TOPIC_PARTITIONS = 3

# What a broker bears easily, a hub throttles and an object store bills for.
_LOOK_SECONDS = {StreamKind.KAFKA: 0.5, StreamKind.EVENTHUB: 2.0, StreamKind.FILES: 5.0}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What the streams of `settings` are opened with.

    Each kind's client is loaded when the first stream of that kind is opened: azure-eventhub and the object stores
    cost a second that nobody pays who doesn't use them.

    Attributes:
        kafka: gives librdkafka's properties, when something of that kind is opened.
        eventhub: options as docs/streams.md lists them, `connection_string` or `namespace` among them.
        files_url: the directory or fsspec URL under which each files stream has a folder.
        files: options of its file system.
    """

    settings: Settings
    kafka: Callable[[], Mapping[str, Any]] = field(default=dict, repr=False)
    eventhub: Mapping[str, Any] | None = field(default=None, repr=False)
    files_url: str | None = None
    files: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def stream(self, name: str) -> Stream:
        """The stream of that name.

        Raises:
            StreamUnknownError: no setting names it.
            ConfigurationError: its kind isn't configured.
        """
        kind = self.settings.stream_kinds.get(name)
        if kind is None:
            raise StreamUnknownError(f"{name} is none of SPENDGATE_STREAMS ({', '.join(self.settings.streams)}).")
        return {
            StreamKind.KAFKA: self._kafka_stream,
            StreamKind.EVENTHUB: self._eventhub_stream,
            StreamKind.FILES: self._files_stream,
        }[kind](name)

    def lateness(self, name: str) -> timedelta:
        """How old a click of that stream may be when it is enqueued."""
        of_files = self.settings.stream_kinds.get(name) is StreamKind.FILES
        return timedelta(days=self.settings.files_lateness_days if of_files else self.settings.lateness_days)

    def look_seconds(self, name: str) -> float:
        """How long to wait between two looks for news of that stream."""
        return _LOOK_SECONDS[self.settings.stream_kinds[name]]

    def flag_sink(self) -> FlagSink:
        """Where flags are published to.

        Raises:
            ConfigurationError: its kind isn't configured.
        """
        kind, topic = split_stream(self.settings.flag_topic)
        if kind is StreamKind.EVENTHUB:
            from spendgate.streams.eventhub_sink import EventHubFlagSink

            return EventHubFlagSink(topic, self._eventhub_options(), timeout=self.settings.stream_timeout)
        from spendgate.streams.flag_topic import KafkaFlagTopic

        return KafkaFlagTopic(
            topic, self.kafka(), partitions=FLAG_TOPIC_PARTITIONS, timeout=self.settings.stream_timeout
        )

    def published_flags(self) -> Stream:
        """The topic or hub that flags are published to, to be read.

        Raises:
            ConfigurationError: its kind isn't configured.
        """
        kind, topic = split_stream(self.settings.flag_topic)
        return self._eventhub_stream(topic) if kind is StreamKind.EVENTHUB else self._kafka_stream(topic)

    def kind(self, stream: str) -> tuple[StreamKind, str]:
        """The kind of a stream to write to, and its name there: as the settings say, or as `eventhub:NAME` does, or
        else a Kafka topic.

        Raises:
            ConfigurationError: it has a kind that there isn't.
        """
        known = self.settings.stream_kinds.get(stream)
        if known is not None:
            return known, stream
        try:
            return split_stream(stream)
        except ValueError as error:
            raise ConfigurationError(f"{error}: correct the stream's name.") from error

    def writer(self, kind: StreamKind) -> MessageWriter:
        """What writes to streams of that kind.

        Raises:
            ConfigurationError: it isn't configured, or nothing can be written to it from here.
        """
        if kind is StreamKind.FILES:
            raise ConfigurationError(
                "Nothing is sent to a stream of files: put the file itself into the stream's folder under "
                "SPENDGATE_FILES_URL."
            )
        if kind is StreamKind.EVENTHUB:
            from spendgate.streams.eventhub_sink import EventHubWriter

            return EventHubWriter(self._eventhub_options(), timeout=self.settings.stream_timeout)
        from spendgate.streams.kafka_producer import KafkaWriter

        return KafkaWriter(self.kafka(), timeout=self.settings.stream_timeout)

    def _kafka_stream(self, name: str) -> Stream:
        from spendgate.streams.kafka import KafkaStream

        return KafkaStream(name, self.kafka(), group=self.settings.consumer_group, timeout=self.settings.stream_timeout)

    def _eventhub_stream(self, name: str) -> Stream:
        from spendgate.streams.eventhub import EventHubStream

        return EventHubStream(name, self._eventhub_options(), timeout=self.settings.stream_timeout)

    def _files_stream(self, name: str) -> Stream:
        from spendgate.streams.files import FilesStream

        if not self.files_url:
            raise ConfigurationError(f"Set SPENDGATE_FILES_URL: the stream {name} is read from a folder of it.")
        return FilesStream(
            name,
            self.files_url,
            self.files,
            settle=timedelta(seconds=self.settings.files_settle_seconds),
            timeout=self.settings.stream_timeout,
        )

    def _eventhub_options(self) -> Mapping[str, Any]:
        if self.eventhub is None:
            raise ConfigurationError(
                "Set SPENDGATE_EVENTHUB_CONNECTION to a connection string, or SPENDGATE_EVENTHUB_NAMESPACE to the "
                "host name of a namespace."
            )
        return self.eventhub

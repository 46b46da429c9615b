"""Writing to Event Hubs: messages that count as sent only when the service has acknowledged them.

A batch of the service's goes to one partition, so the writer chooses the partition of each key itself, by the
service's own hash, and fills a batch for each: 20,000 flags are a few batches, where one key's alone would be 20,000
(on loopback 9,500 messages/s against 1,300/s). Each event still carries its key, which is what a compacted hub tells
events apart by. One partition's batches go one after another, each when the one before is acknowledged, so one key's
messages stay in order.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from azure.eventhub import EventData, EventDataBatch

from spendgate.errors import PermanentError, StreamUnknownError, TransientError
from spendgate.streams.eventhub_management import Hub, Management
from spendgate.streams.eventhub_namespace import Namespace
from spendgate.streams.eventhub_transport import Sender, Wires, keyed, partition_of

JSON = "application/json"

# Each open partition costs a connection; of those not written to for longest one is closed.
_MOST_LANES = 32
_PAUSE_SECONDS = 0.5
_CLOSE_SECONDS = 1.0


class EventHubWriter:
    """Gathers messages for existing hubs and sends them, a full batch at a time; a context manager.

    One key's messages stay in order. Any failure discards what isn't sent yet, and the writer is done for: nothing
    is sent a second time, since what was acknowledged late would then overtake what came after it. Whoever sends
    again sends duplicates. `timeout` (seconds) bounds the wait for a connection, and for each acknowledgement.

    Raises:
        ConfigurationError: an option is wrong.
    """

    def __init__(self, options: Mapping[str, Any], *, timeout: float, content_type: str | None = None) -> None:
        self._namespace = Namespace(options, timeout)
        self._content_type = content_type
        self._hubs: dict[str, Hub] = {}
        self._lanes: OrderedDict[tuple[str, str], _Lane] = OrderedDict()
        self._turn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Discard what isn't sent, and close every connection."""
        while self._lanes:
            self._lanes.popitem()[1].close()

    def require(self, hubs: Iterable[str]) -> None:
        """Make sure that the hubs exist.

        Raises:
            StreamUnknownError, StreamUnavailableError, StreamAccessError
            ConfigurationError: the connection string is for another hub.
        """
        for hub in hubs:
            self._hub(hub)

    def write(self, hub: str, messages: Iterable[tuple[bytes | None, bytes]]) -> None:
        """Take (key, value) pairs in, sending each batch that is full.

        Messages without a key go to the partitions in turn.

        Raises:
            StreamUnavailableError: no connection or no acknowledgement in time.
            StreamUnknownError, StreamAccessError: the hub or our right to it went away.
            PermanentError: a message is larger than the hub takes.
        """
        partitions = self._hub(hub).partitions
        try:
            for key, value in messages:
                event = EventData(value)
                if self._content_type is not None:
                    event.content_type = self._content_type
                if key is None:
                    self._turn += 1
                    partition = partitions[self._turn % len(partitions)]
                else:
                    text = key.decode()
                    event = keyed(event, text)
                    partition = partition_of(text, partitions)
                self._lane(hub, partition).add(event)
        except BaseException:
            self.close()
            raise

    def flush(self) -> None:
        """Send what was taken in, and wait until all of it is acknowledged. Raises as `write`."""
        try:
            for lane in self._lanes.values():
                lane.flush()
        except BaseException:
            self.close()
            raise

    def _hub(self, name: str) -> Hub:
        if name not in self._hubs:
            self._hubs[name] = describe(self._namespace, name)
        return self._hubs[name]

    def _lane(self, hub: str, partition: str) -> _Lane:
        place = (hub, partition)
        lane = self._lanes.get(place)
        if lane is not None:
            self._lanes.move_to_end(place)
            return lane
        if len(self._lanes) >= _MOST_LANES:
            _, oldest = self._lanes.popitem(last=False)
            try:
                oldest.flush()
            finally:
                oldest.close()
        self._lanes[place] = _Lane(self._namespace, hub, partition)
        return self._lanes[place]


def describe(namespace: Namespace, name: str) -> Hub:
    """A hub, by a connection for this once.

    Raises:
        StreamUnknownError, StreamUnavailableError, StreamAccessError, ConfigurationError
    """
    management = Management(namespace, name)
    try:
        return management.hub()
    finally:
        management.close()


class _Lane:
    """The way to one partition: a batch that is being filled, and a connection once there is something to send."""

    def __init__(self, namespace: Namespace, hub: str, partition: str) -> None:
        self._namespace = namespace
        self._hub = hub
        self._partition = partition
        self._wires = Wires()
        self._sender: Sender | None = None
        self._batch: EventDataBatch | None = None

    def add(self, event: EventData) -> None:
        """Put an event into the batch; if it is full, send it first."""
        batch = self._batch or self._new_batch()
        try:
            batch.add(event)
        except ValueError as error:
            if not len(batch):
                raise PermanentError(
                    f"A message for hub {self._hub!r} is larger than the hub takes ({batch.max_size_in_bytes} bytes): "
                    "shorten it."
                ) from error
        else:
            return
        self.flush()
        self.add(event)

    def flush(self) -> None:
        """Send the batch and wait for its acknowledgement."""
        batch, self._batch = self._batch, None
        sender = self._sender
        if batch is None or sender is None or not len(batch):
            return
        timeout = self._namespace.timeout
        # The client notices first that the time is over, unless it is stuck.
        self._within(timeout + 1, lambda: sender.send(batch, timeout))

    def close(self) -> None:
        """Close the connection; what is in the batch is gone."""
        sender, self._sender, self._batch = self._sender, None, None
        if sender is not None:
            with suppress(TransientError, PermanentError):  # it is given up, whatever it still has to say
                self._within(_CLOSE_SECONDS, sender.close)

    def _new_batch(self) -> EventDataBatch:
        if self._sender is None:
            self._sender = self._connect()
        self._batch = self._sender.batch()
        return self._batch

    def _connect(self) -> Sender:
        """A connection; until there is one nothing was sent, so that it may be tried again."""
        deadline = time.monotonic() + self._namespace.timeout
        while True:
            self._wires = Wires()
            sender = Sender(self._namespace.producer(self._hub, self._wires), self._partition)
            try:
                self._within(max(0.1, deadline - time.monotonic()), sender.open)
            except TransientError:
                if time.monotonic() + _PAUSE_SECONDS >= deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return sender

    def _within(self, seconds: float, call: Any) -> None:
        self._namespace.within(seconds, self._hub, call, self._wires.cut)


@dataclass(frozen=True, slots=True)
class EventHubFlagSink:
    """Where flags go (`spendgate.streams.base.FlagSink`); `timeout` in seconds."""

    topic: str
    options: Mapping[str, Any] = field(repr=False)
    timeout: float

    def ensure_topic(self) -> str:
        """When the hub was made, in milliseconds since 1970 (text): another one if it was made anew.

        Raises:
            StreamUnknownError: there is no such hub; none can be made from here.
            StreamUnavailableError, StreamAccessError, ConfigurationError
        """
        try:
            return describe(Namespace(self.options, self.timeout), self.topic).incarnation
        except StreamUnknownError as error:
            raise StreamUnknownError(
                f"There is no hub {self.topic!r} to publish flags to: create it, with the cleanup policy compact, or "
                "correct SPENDGATE_FLAG_TOPIC."
            ) from error

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Send (key, value) pairs, in order for each key, and return when all are acknowledged.

        Raises:
            StreamUnavailableError: not all were acknowledged; those that were can't be told from the others.
            StreamUnknownError, StreamAccessError, ConfigurationError
            PermanentError: a message is larger than the hub takes.
        """
        if not messages:
            return
        with EventHubWriter(self.options, timeout=self.timeout, content_type=JSON) as writer:
            writer.write(self.topic, messages)
            writer.flush()

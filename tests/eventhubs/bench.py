"""What tests of Event Hubs share: a server, events put on its hubs by the plain client, and reads of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from azure.eventhub import EventData, EventHubConsumerClient, EventHubProducerClient
from azure.eventhub.amqp import AmqpAnnotatedMessage

from spendgate.streams.base import PartitionRef
from spendgate.streams.eventhub import EventHubStream
from tests.eventhubs.server import EventHubsServer

TIMEOUT = 10.0
HUB = "ad-clicks"
_REACHED_BY = ("custom_endpoint_address", "connection_verify")

Event = bytes | EventData | AmqpAnnotatedMessage


def numbered(count: int, start: int = 0) -> list[bytes | None]:
    return [b"%d" % number for number in range(start, start + count)]


class HubBench:
    """One server, and the hub `HUB` on it."""

    def __init__(self, server: EventHubsServer, **options: Any) -> None:
        self.server = server
        self.options = {"connection_string": server.connection_string, **options}

    def put(self, values: Sequence[bytes | None], hub: str = HUB, partition: int = 0) -> None:
        """Put events there without the client, which takes its time."""
        self.server.put(hub, [value for value in values if value is not None], partition)

    def send(self, events: Sequence[Event | None], hub: str = HUB, partition: int = 0, key: str | None = None) -> None:
        """Send events as batches of the plain client."""
        with self._producer(hub) as producer:
            place = {"partition_id": str(partition)} if key is None else {"partition_key": key}
            batch = producer.create_batch(**place)
            for event in events:
                made = EventData(event) if isinstance(event, bytes) else event
                try:
                    batch.add(made)
                except ValueError:
                    producer.send_batch(batch)
                    batch = producer.create_batch(**place)
                    batch.add(made)
            producer.send_batch(batch)

    def send_each(self, events: Sequence[Event], hub: str = HUB, partition: int = 0) -> None:
        """Send events one by one, none of them in a batch."""
        with self._producer(hub) as producer:
            for event in events:
                made = EventData(event) if isinstance(event, bytes) else event
                producer.send_event(made, partition_id=str(partition))

    def _producer(self, hub: str) -> EventHubProducerClient:
        told = {name: self.options[name] for name in _REACHED_BY if name in self.options}
        return EventHubProducerClient.from_connection_string(self.server.connection_string, eventhub_name=hub, **told)

    def stream(self, hub: str = HUB, timeout: float = TIMEOUT, **options: Any) -> EventHubStream:
        return EventHubStream(hub, {**self.options, **options}, timeout=timeout)

    def partition(self, number: int = 0, hub: str = HUB) -> PartitionRef:
        return PartitionRef(hub, str(number), str(self.server.hubs[hub].created))

    def read(
        self, position: str | None = None, number: int = 0, limit: int = 50_000, hub: str = HUB, **how: Any
    ) -> tuple[list[bytes | None], str]:
        """All values of one bounded read, and the position after it."""
        values: list[bytes | None] = []
        with self.stream(hub, **how).read(self.partition(number, hub), position) as read:
            end = read.start
            for batch in read.batches(limit):
                values += batch.values
                end = batch.next_position
        return values, end


@contextmanager
def leaving_no_thread() -> Iterator[None]:
    """Fails if the block leaves a thread behind; one that is about to end has a moment for it."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


@contextmanager
def taking_at_most(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@contextmanager
def other_reader(server: EventHubsServer, owner_level: int | None = None) -> Iterator[list[bytes]]:
    """A reader of the plain client on partition 0 of `HUB`; yields what it sees, once it is there."""
    readers = server.partition(HUB).readers
    before = len(readers)
    seen: list[bytes] = []
    client = EventHubConsumerClient.from_connection_string(
        server.connection_string, "$Default", eventhub_name=HUB, load_balancing_interval=0.2
    )
    thread = threading.Thread(
        target=client.receive,
        args=(lambda _, event: seen.append(b"".join(event.body)),),
        kwargs={"partition_id": "0", "starting_position": "-1", "owner_level": owner_level},
    )
    thread.start()
    try:
        wait_for(lambda: len(readers) > before)
        yield seen
    finally:
        client.close()
        thread.join(10)


def wait_for(condition: Callable[[], object]) -> None:
    """Waits 10 seconds at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

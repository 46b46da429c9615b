"""What we do to the insides of azure-eventhub: each reason for it, and that it works with the version locked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from azure.eventhub import EventData, EventHubConsumerClient
from tests.eventhubs.bench import HUB, HubBench, numbered, wait_for
from tests.eventhubs.server import EventHubsServer

from spendgate.streams import eventhub_reader
from spendgate.streams.eventhub_management import Management
from spendgate.streams.eventhub_namespace import Namespace
from spendgate.streams.eventhub_transport import Message, Receiver, Sender, Wires, keyed, number_of, partition_of


@pytest.fixture
def server() -> Iterator[EventHubsServer]:
    with EventHubsServer({HUB: 1}) as server:
        yield server


@pytest.fixture
def namespace(server: EventHubsServer) -> Namespace:
    return Namespace({"connection_string": server.connection_string}, timeout=10)


@pytest.fixture
def wires() -> Wires:
    return Wires()


def receive_all(receiver: Receiver, count: int) -> list[Message]:
    events: list[Message] = []
    wait_for(lambda: events.extend(receiver.receive()) or len(events) >= count)
    return events


def test_a_receiver_gives_events_in_order_from_its_position_on(
    server: EventHubsServer, namespace: Namespace, wires: Wires
) -> None:
    server.put(HUB, [b"%d" % number for number in range(100)])
    receiver = Receiver(namespace.consumer(HUB, wires), "$Default", "0", 40, 10)
    assert [number_of(message) for message in receive_all(receiver, 60)] == list(range(40, 100))
    receiver.close()


def test_a_receiver_starts_no_thread_beside_its_own(
    server: EventHubsServer, namespace: Namespace, wires: Wires
) -> None:
    server.put(HUB, [b"x"])
    before = threading.active_count()
    receiver = Receiver(namespace.consumer(HUB, wires), "$Default", "0", 0, 10)
    receive_all(receiver, 1)
    assert threading.active_count() == before
    receiver.close()


def test_the_plain_client_would_start_one_that_reads_too(server: EventHubsServer) -> None:
    """If this fails, azure-eventhub has given up its keep-alive thread, and `Wires` needn't leave it out."""
    server.put(HUB, [b"x"])
    before = threading.active_count()
    client = EventHubConsumerClient.from_connection_string(server.connection_string, "$Default", eventhub_name=HUB)
    taken: list[Any] = []
    consumer = client._create_consumer("$Default", "0", 0, taken.extend, event_position_inclusive=True)
    wait_for(lambda: consumer.receive(batch=True) or taken)
    assert threading.active_count() == before + 1
    consumer.close()


def test_questions_share_a_connection(server: EventHubsServer, namespace: Namespace) -> None:
    management = Management(namespace, HUB)
    for _ in range(5):
        management.hub()
        management.partition("0")
    assert (server.accepted, server.requests) == (1, 10)
    management.close()
    wait_for(lambda: not server.connections)


def test_a_cut_ends_a_call_that_would_wait_for_ever(
    server: EventHubsServer, namespace: Namespace, wires: Wires
) -> None:
    client = namespace.consumer(HUB, wires)
    client.get_eventhub_properties()
    server.freeze()
    ended = threading.Event()

    def ask() -> None:
        with pytest.raises(Exception, match="connection"):
            client.get_eventhub_properties()
        ended.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert not ended.wait(1)
    wires.cut()
    assert ended.wait(5)
    thread.join(5)


def test_nothing_is_connected_after_a_cut(namespace: Namespace, wires: Wires) -> None:
    wires.cut()
    with pytest.raises(Exception, match="given up"):
        namespace.consumer(HUB, wires).get_eventhub_properties()


def test_what_a_link_costs_in_memory_is_given_back_by_opening_it_again(
    server: EventHubsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client keeps a tag of every event until its link is closed."""
    monkeypatch.setattr(eventhub_reader, "_LINK_EVENTS", 1_000)
    bench = HubBench(server)
    bench.put(numbered(10_000))
    before = server.accepted
    assert bench.read() == (numbered(10_000), "10000")
    assert server.accepted - before >= 5


def test_a_sender_sends_once(server: EventHubsServer, namespace: Namespace, wires: Wires) -> None:
    """The client's own `send_batch` sends again after an error, though the first may have arrived."""
    sender = Sender(namespace.producer(HUB, wires), "0")
    sender.open()
    batch = sender.batch()
    batch.add(keyed(EventData(b"x"), "7"))
    server.mute_acknowledgements = True
    begun = time.monotonic()
    with pytest.raises(Exception, match="timed out"):
        sender.send(batch, 1)
    assert time.monotonic() - begun < 8
    sender.close()
    assert server.partition(HUB).event_keys() == ["7"]


def test_keys_are_spread_over_partitions_and_stay_where_they_are() -> None:
    partitions = tuple(map(str, range(8)))
    placed = {str(key): partition_of(str(key), partitions) for key in range(4_000)}
    counts = [list(placed.values()).count(partition) for partition in partitions]
    assert min(counts) > 400
    assert {key: partition_of(key, partitions) for key in placed} == placed

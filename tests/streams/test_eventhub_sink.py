"""Writing to hubs: acknowledged means there, each key in order, and a failure leaves nothing on its way."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from azure.eventhub import EventData, EventHubConsumerClient
from tests.eventhubs.bench import HUB, TIMEOUT, HubBench, leaving_no_thread, taking_at_most
from tests.eventhubs.server import EventHubsServer
from tests.factories import Bench as Steps
from tests.factories import advertiser, at, budget, click, flags_of

from spendgate.errors import PermanentError, StreamAccessError, StreamUnavailableError, StreamUnknownError
from spendgate.publish import Publisher
from spendgate.streams.eventhub_sink import EventHubFlagSink, EventHubWriter
from spendgate.warehouse.engine import Warehouse

FLAGS = "can-serve"


@pytest.fixture
def server() -> Iterator[EventHubsServer]:
    with EventHubsServer({HUB: 3, FLAGS: 3}) as server:
        yield server


@pytest.fixture
def bench(server: EventHubsServer) -> HubBench:
    return HubBench(server)


@pytest.fixture
def sink(bench: HubBench) -> EventHubFlagSink:
    return EventHubFlagSink(FLAGS, bench.options, timeout=TIMEOUT)


def arrived(bench: HubBench, hub: str = FLAGS) -> list[list[bytes | None]]:
    """The values on each partition of a hub."""
    return [bench.read(number=number, hub=hub)[0] for number in range(len(bench.server.hubs[hub].partitions))]


# -- the hub


def test_a_hub_is_known_by_when_it_was_made(server: EventHubsServer, sink: EventHubFlagSink) -> None:
    first = sink.ensure_topic()
    assert first == sink.ensure_topic() == str(server.hubs[FLAGS].created)
    server.delete_hub(FLAGS)
    server.make_hub(FLAGS, 3)
    assert sink.ensure_topic() != first


def test_a_hub_that_is_not_there_is_to_be_created_compacted(bench: HubBench) -> None:
    with leaving_no_thread(), pytest.raises(StreamUnknownError, match="create it, with the cleanup policy compact"):
        EventHubFlagSink("nowhere", bench.options, timeout=TIMEOUT).ensure_topic()


# -- messages


def test_what_was_sent_is_there_when_send_returns_in_order_for_a_key(bench: HubBench, sink: EventHubFlagSink) -> None:
    with leaving_no_thread():
        for version in range(20):
            sink.send([(b"%d" % key, b"%d:%d" % (key, version)) for key in range(10)])
    by_key: dict[bytes, list[int]] = {}
    for values in arrived(bench):
        for value in values:
            key, _, version = (value or b"").partition(b":")
            by_key.setdefault(key, []).append(int(version))
    assert by_key == {b"%d" % key: list(range(20)) for key in range(10)}


@pytest.mark.untraced
def test_many_flags_take_few_batches_and_lie_on_every_partition(
    server: EventHubsServer, bench: HubBench, sink: EventHubFlagSink
) -> None:
    messages = [(b"%d" % (number % 4_000), b"%05d" % number + bytes(150)) for number in range(20_000)]
    with taking_at_most(30):
        sink.send(messages)
    values = arrived(bench)
    assert Counter(value for part in values for value in part) == Counter(value for _, value in messages)
    assert min(map(len, values)) > 4_000
    assert all(part == sorted(part, key=bytes) for part in map(list, values))  # type: ignore[arg-type]


def test_each_event_carries_its_key_so_that_a_compacted_hub_keeps_the_last_of_each(
    server: EventHubsServer, bench: HubBench, sink: EventHubFlagSink
) -> None:
    sink.send([(b"%d" % (number % 50), b"%d" % number) for number in range(500)])
    keys = [key for number in range(3) for key in server.partition(FLAGS, number).event_keys()]
    assert Counter(keys) == {str(key): 10 for key in range(50)}
    for number in range(3):
        server.compact(FLAGS, number)
    left = sorted(int(value or b"") for part in arrived(bench) for value in part)
    assert left == list(range(450, 500))


def test_a_consumer_sees_json_and_its_key(server: EventHubsServer, sink: EventHubFlagSink) -> None:
    sink.send([(b"7", b"{}")])
    (event,) = plainly_read(server, FLAGS, 1)
    assert (event.content_type, event.partition_key) == ("application/json", b"7")


def test_sending_nothing_needs_no_server(bench: HubBench, sink: EventHubFlagSink, server: EventHubsServer) -> None:
    server.stop()
    sink.send([])


def test_the_pipelines_flags_arrive_and_a_hub_made_anew_gets_all_of_them_again(
    server: EventHubsServer, bench: HubBench, sink: EventHubFlagSink, warehouse: Warehouse
) -> None:
    steps = Steps(warehouse, now=at(21, 12))
    steps.build(advertiser(), budget(1, value="5"), click(1, amount="2"))
    steps.decide()
    publisher = Publisher(warehouse, steps.clock, sink)
    assert publisher.publish_outbox() == len(flags_of(warehouse)) == 1
    server.delete_hub(FLAGS)
    server.make_hub(FLAGS, 3)
    assert publisher.publish_outbox() == 1
    (message,) = [json.loads(value or b"") for part in arrived(bench) for value in part]
    assert (message["advertiser_id"], message["can_serve"], message["reason"]) == (1, True, "ok")
    assert publisher.publish_outbox() == 0


# -- failures


def test_a_message_that_is_too_large_is_refused(sink: EventHubFlagSink) -> None:
    with leaving_no_thread(), pytest.raises(PermanentError, match="larger than the hub takes"):
        sink.send([(b"1", bytes(2_000_000))])


def test_a_hub_that_is_gone_is_unknown(server: EventHubsServer, sink: EventHubFlagSink) -> None:
    server.delete_hub(FLAGS)
    with leaving_no_thread(), taking_at_most(5), pytest.raises(StreamUnknownError, match=FLAGS):
        sink.send([(b"1", b"{}")])


def test_a_policy_that_may_only_listen_is_refused(server: EventHubsServer, sink: EventHubFlagSink) -> None:
    server.policies["Root"] = frozenset({"Listen"})
    assert sink.ensure_topic()
    with leaving_no_thread(), taking_at_most(5), pytest.raises(StreamAccessError, match="Listen and Send"):
        sink.send([(b"1", b"{}")])


def test_a_server_that_is_away_is_unavailable_within_the_timeout(bench: HubBench, server: EventHubsServer) -> None:
    server.stop()
    with leaving_no_thread(), taking_at_most(4), pytest.raises(StreamUnavailableError, match="connection refused"):
        EventHubFlagSink(FLAGS, bench.options, timeout=1).send([(b"1", b"{}")])


def test_what_is_not_acknowledged_is_not_sent_however_long_it_takes(bench: HubBench, server: EventHubsServer) -> None:
    server.mute_acknowledgements = True
    with leaving_no_thread(), taking_at_most(8), pytest.raises(StreamUnavailableError, match="gave no answer"):
        EventHubFlagSink(FLAGS, bench.options, timeout=1).send([(b"1", b"{}")])


def test_a_server_that_falls_silent_while_sending_is_unavailable_and_no_thread_stays(
    bench: HubBench, server: EventHubsServer
) -> None:
    with leaving_no_thread(), EventHubWriter(bench.options, timeout=1) as writer:
        writer.write(HUB, [(b"1", b"first")])
        writer.flush()
        server.freeze()
        writer.write(HUB, [(b"1", b"second")])
        with taking_at_most(8), pytest.raises(StreamUnavailableError):
            writer.flush()


def test_after_a_failure_nothing_that_waited_is_sent(bench: HubBench, server: EventHubsServer) -> None:
    with EventHubWriter(bench.options, timeout=2) as writer:
        writer.write(HUB, [(b"%d" % key, b"first") for key in range(30)])
        writer.flush()
        writer.write(HUB, [(b"%d" % key, b"second") for key in range(30)])
        server.cut()
        with pytest.raises(StreamUnavailableError):
            writer.flush()
        writer.flush()
    time.sleep(0.5)
    assert Counter(value for part in arrived(bench, HUB) for value in part) == {b"first": 30}


def test_a_server_that_is_gone_for_a_moment_only_delays_the_connection(
    bench: HubBench, server: EventHubsServer
) -> None:
    with EventHubWriter(bench.options, timeout=TIMEOUT) as writer:
        writer.require([HUB])
        server.stop()
        back = threading.Timer(1, server.start)
        back.start()
        writer.write(HUB, [(b"1", b"x")])
        writer.flush()
        back.join()
    assert sum(map(len, arrived(bench, HUB))) == 1


# -- any hub


def test_a_writer_fills_several_hubs_and_spreads_what_has_no_key(bench: HubBench) -> None:
    with leaving_no_thread(), EventHubWriter(bench.options, timeout=TIMEOUT) as writer:
        writer.require([HUB, FLAGS])
        writer.write(HUB, [(None, b"%d" % number) for number in range(9)])
        writer.write(FLAGS, [(b"1", b"x")])
        writer.flush()
    assert [len(part) for part in arrived(bench, HUB)] == [3, 3, 3]
    assert sum(map(len, arrived(bench))) == 1


def test_an_unknown_hub_is_told_before_anything_is_sent(bench: HubBench) -> None:
    with EventHubWriter(bench.options, timeout=TIMEOUT) as writer, pytest.raises(StreamUnknownError, match="nowhere"):
        writer.require([HUB, "nowhere"])


def test_a_hub_of_many_partitions_is_written_over_few_connections(server: EventHubsServer, bench: HubBench) -> None:
    server.make_hub("wide", 40)
    with EventHubWriter(bench.options, timeout=TIMEOUT) as writer:
        writer.write("wide", [(None, b"%d" % number) for number in range(120)])
        assert len(server.connections) <= 32
        writer.flush()
    assert [len(part) for part in arrived(bench, "wide")] == [3] * 40


# -- tools


def plainly_read(server: EventHubsServer, hub: str, count: int) -> list[EventData]:
    """Events as any other consumer sees them."""
    client = EventHubConsumerClient.from_connection_string(
        server.connection_string, "$Default", eventhub_name=hub, load_balancing_interval=0.2
    )
    seen: list[EventData] = []

    def take(_: object, events: list[EventData]) -> None:
        seen.extend(events)
        if len(seen) >= count:
            client.close()

    client.receive_batch(take, starting_position="-1")
    return seen

"""EventHubStream against a server that the unmodified client talks to: complete, bounded, exact about positions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest
from azure.eventhub import EventData, EventHubProducerClient
from azure.eventhub.amqp import AmqpAnnotatedMessage
from tests.eventhubs.bench import HUB, HubBench, leaving_no_thread, numbered, other_reader, taking_at_most, wait_for
from tests.eventhubs.server import EventHubsServer
from tests.factories import NOW, click, stored

from spendgate.errors import PermanentError, StreamAccessError, StreamUnavailableError, StreamUnknownError
from spendgate.ingest import Intake
from spendgate.streams.base import PartitionRef, StoredPosition
from spendgate.streams.eventhub import EventHubStream
from spendgate.streams.eventhub_reader import Piece
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import Batch, StagedClick, StreamPosition


@pytest.fixture
def server() -> Iterator[EventHubsServer]:
    with EventHubsServer({HUB: 2}) as server:
        yield server


@pytest.fixture
def bench(server: EventHubsServer) -> HubBench:
    return HubBench(server)


# -- partitions


def test_partitions_are_listed_in_order_with_the_time_at_which_the_hub_was_made(
    server: EventHubsServer, bench: HubBench
) -> None:
    server.make_hub("wide", 12)
    found = bench.stream("wide").partitions()
    assert [(one.stream, one.partition) for one in found] == [("wide", str(number)) for number in range(12)]
    (made,) = {int(one.incarnation) for one in found}
    assert abs(made / 1000 - time.time()) < 60


def test_a_hub_made_again_has_another_incarnation(server: EventHubsServer, bench: HubBench) -> None:
    before = bench.stream().partitions()
    server.delete_hub(HUB)
    server.make_hub(HUB, 2)
    assert bench.stream().partitions()[0].incarnation != before[0].incarnation


def test_a_read_of_an_incarnation_that_is_gone_asks_for_another_run(server: EventHubsServer, bench: HubBench) -> None:
    before = bench.partition()
    server.delete_hub(HUB)
    server.make_hub(HUB, 2)
    with pytest.raises(StreamUnavailableError, match="made again"):
        drain(bench.stream(), before)


def test_an_unknown_hub_is_unknown(bench: HubBench) -> None:
    with pytest.raises(StreamUnknownError, match="has no hub 'nowhere': create it"):
        bench.stream("nowhere").partitions()


def test_a_partition_that_the_hub_lacks_is_unknown(bench: HubBench) -> None:
    beyond = PartitionRef(HUB, "2", bench.partition().incarnation)
    with pytest.raises(StreamUnknownError, match="2 partitions and no 2"):
        drain(bench.stream(), beyond)


# -- complete and bounded


@pytest.mark.parametrize("count", [1, 2, 999, 1_000, 1_001, 2_345])
def test_a_read_gets_every_event_that_was_there(bench: HubBench, count: int) -> None:
    bench.send(numbered(count))
    assert bench.read() == (numbered(count), str(count))


def test_single_events_and_batches_are_read_alike(bench: HubBench) -> None:
    bench.send_each([b"0", b"1"])
    bench.send([b"2", b"3"])
    bench.send_each([b"4"])
    assert bench.read() == (numbered(5), "5")


@pytest.mark.parametrize("limit", [1, 3, 100, 50_000])
def test_batches_keep_to_their_limit_and_give_each_events_place_and_time(bench: HubBench, limit: int) -> None:
    before = time.time() * 1000
    bench.put(numbered(250))
    positions: list[str] = []
    with bench.stream().read(bench.partition(), None) as read:
        for batch in read.batches(limit):
            assert 1 <= len(batch.values) <= limit
            assert len(batch.positions) == len(batch.enqueued_ms) == len(batch.values)
            assert all(before - 1000 <= stamp <= time.time() * 1000 for stamp in batch.enqueued_ms)
            positions += batch.positions
            assert batch.next_position == str(len(positions))
    assert positions == list(map(str, range(250)))


def test_a_limit_below_one_is_a_mistake(bench: HubBench) -> None:
    with bench.stream().read(bench.partition(), None) as read, pytest.raises(ValueError, match="limit"):
        next(read.batches(0))


def test_a_read_resumes_where_the_last_one_ended(bench: HubBench) -> None:
    bench.put(numbered(10))
    first, position = bench.read()
    bench.put(numbered(15, start=10))
    second, end = bench.read(position)
    assert (first, second, end) == (numbered(10), numbered(15, start=10), "25")


@pytest.mark.parametrize("position", [0, 1, 49, 98, 99])
def test_a_read_begins_at_exactly_the_number_it_was_given(bench: HubBench, position: int) -> None:
    bench.put(numbered(100))
    assert bench.read(str(position)) == (numbered(100 - position, start=position), "100")


def test_batches_go_on_after_a_pause_where_they_stopped(bench: HubBench) -> None:
    bench.put(numbered(100))
    with bench.stream().read(bench.partition(), None) as read:
        first = next(iter(read.batches(40)))
        rest = [value for batch in read.batches(100) for value in batch.values]
    assert first.values + rest == numbered(100)


def test_partitions_are_read_apart(bench: HubBench) -> None:
    bench.put(numbered(5), partition=0)
    bench.put(numbered(7, start=100), partition=1)
    assert bench.read(number=1) == (numbered(7, start=100), "7")


def test_an_empty_partition_gives_no_batches_and_starts_at_zero(bench: HubBench) -> None:
    with bench.stream().read(bench.partition(), None) as read:
        assert (list(read.batches(10)), read.start, read.lost) == ([], "0", None)


def test_a_read_at_the_end_gives_no_batches_and_opens_no_link(server: EventHubsServer, bench: HubBench) -> None:
    bench.put(numbered(20))
    before = server.accepted
    with bench.stream().read(bench.partition(), "20") as read:
        assert (list(read.batches(10)), read.start, read.lost) == ([], "20", None)
    assert server.accepted == before + 1  # that of the question where the partition ends


BODIES = {
    "bytes": (EventData(b"a\xff"), b"a\xff"),
    "nothing": (EventData(b""), b""),
    "several sections": (AmqpAnnotatedMessage(data_body=[b"a", b"", b"bc"]), b"abc"),
    "text as a value": (AmqpAnnotatedMessage(value_body="é"), "é".encode()),
    "bytes as a value": (AmqpAnnotatedMessage(value_body=b"\x00\xff"), b"\x00\xff"),
    "no value": (AmqpAnnotatedMessage(value_body=None), None),
    "a number": (AmqpAnnotatedMessage(value_body=7), b"7"),
    "a list": (AmqpAnnotatedMessage(sequence_body=[[1, 2]]), b"[[1, 2]]"),
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("each", [True, False])
def test_a_value_is_what_the_producer_sent_however_it_was_wrapped(bench: HubBench, kind: str, each: bool) -> None:
    event, value = BODIES[kind]
    send = bench.send_each if each else bench.send
    send([event, EventData(b"next")])
    assert bench.read() == ([value, b"next"], "2")


def test_large_events_end_a_batch_before_its_limit(bench: HubBench) -> None:
    bench.send([bytes(1_000_000)] * 45)
    with bench.stream().read(bench.partition(), None) as read:
        sizes = [len(batch.values) for batch in read.batches(50_000)]
    assert sum(sizes) == 45
    assert max(sizes) < 40  # about 32 MB, and a piece


def test_a_read_ends_while_a_producer_keeps_writing(server: EventHubsServer, bench: HubBench) -> None:
    bench.put(numbered(1_000))
    stop = threading.Event()

    def write() -> None:
        with EventHubProducerClient.from_connection_string(server.connection_string, eventhub_name=HUB) as producer:
            while not stop.is_set():
                producer.send_batch([EventData(b"late")] * 50, partition_id="0")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        begun = time.monotonic()
        taken: list[bytes | None] = []
        with bench.stream().read(bench.partition(), None) as read:
            for batch in read.batches(100):  # slower than the writer
                taken += batch.values
                time.sleep(0.01)
        seconds = time.monotonic() - begun
    finally:
        stop.set()
        writer.join()
    assert taken[:1_000] == numbered(1_000)
    assert set(taken[1_000:]) <= {b"late"}
    assert seconds < 20
    assert len(taken) < server.partition(HUB).last + 1


@pytest.mark.parametrize("position", [None, "40"])
def test_offsets_that_are_no_numbers_are_never_looked_at(position: str | None) -> None:
    with EventHubsServer({HUB: 1}, opaque_offsets=True) as server:
        bench = HubBench(server)
        bench.put(numbered(100))
        server.cut_each(30, times=1)
        start = int(position or 0)
        assert bench.read(position) == (numbered(100 - start, start=start), "100")
        assert bench.stream().news({}) == {"0": "100"}


def test_a_task_holds_little_of_events_of_a_megabyte(bench: HubBench) -> None:
    bench.put([bytes(1_000_000)] * 120)
    with bench.stream().read(bench.partition(), None) as read:
        batches = read.batches(10)
        next(batches)
        time.sleep(1)  # the reader fetches ahead what it may
        assert read._reader is not None
        assert read._reader._waiting < 30_000_000
        assert sum(len(batch.values) for batch in batches) == 110


# -- lost events, and positions that can't be read


def test_events_removed_by_retention_are_reported_as_lost(server: EventHubsServer, bench: HubBench) -> None:
    bench.put(numbered(100))
    server.trim(HUB, 60)
    with bench.stream().read(bench.partition(), "20") as read:
        assert (read.start, read.lost) == ("60", ("20", "60"))
        assert [value for batch in read.batches(50) for value in batch.values] == numbered(40, start=60)


def test_without_a_position_nothing_is_lost_and_the_first_event_kept_is_the_beginning(
    server: EventHubsServer, bench: HubBench
) -> None:
    bench.put(numbered(100))
    server.trim(HUB, 60)
    with bench.stream().read(bench.partition(), None) as read:
        assert (read.start, read.lost) == ("60", None)
        assert [batch.next_position for batch in read.batches(50)] == ["100"]


def test_a_partition_emptied_by_retention_starts_at_its_end(server: EventHubsServer, bench: HubBench) -> None:
    bench.put(numbered(100))
    server.trim(HUB, 100)
    with bench.stream().read(bench.partition(), None) as read:
        assert (list(read.batches(50)), read.start, read.lost) == ([], "100", None)
    with bench.stream().read(bench.partition(), "40") as read:
        assert (list(read.batches(50)), read.start, read.lost) == ([], "100", ("40", "100"))
    bench.put(numbered(3, start=100))
    assert bench.read("100") == (numbered(3, start=100), "103")


def test_an_empty_partition_begins_at_its_end_whatever_the_service_calls_its_beginning(
    server: EventHubsServer, bench: HubBench
) -> None:
    bench.put(numbered(100))
    server.trim(HUB, 100)
    server.partition(HUB).begin = 0
    with bench.stream().read(bench.partition(), "40") as read:
        assert (read.start, read.lost) == ("100", ("40", "100"))


def test_retention_that_overtakes_a_read_asks_for_another_run(server: EventHubsServer, bench: HubBench) -> None:
    bench.put([bytes(10_000)] * 6_000)  # more than is fetched ahead
    with bench.stream().read(bench.partition(), None) as read:
        batches = read.batches(100)
        next(batches)
        server.trim(HUB, 5_900)
        with pytest.raises(StreamUnavailableError, match="Retention overtook"):
            for _ in batches:
                pass


@pytest.mark.parametrize("position", ["21", "5000"])
def test_a_position_past_the_end_is_an_error_not_a_gap(bench: HubBench, position: str) -> None:
    bench.put(numbered(20))
    with pytest.raises(PermanentError, match=f"ends at sequence number 20, before the stored position {position}"):
        drain(bench.stream(timeout=1), bench.partition(), position)


@pytest.mark.parametrize("position", ["", "x", "-1", "1.5", "\u0661"])
def test_a_position_that_is_no_sequence_number_is_an_error(bench: HubBench, position: str) -> None:
    with pytest.raises(PermanentError, match="is not a sequence number"):
        drain(bench.stream(), bench.partition(), position)


# -- sequence numbers that don't come


def test_a_hole_left_by_compaction_is_passed_over(server: EventHubsServer, bench: HubBench) -> None:
    bench.put(numbered(100))
    server.drop(HUB, *range(40, 60))
    values, end = bench.read()
    assert (values, end) == (numbered(40) + numbered(40, start=60), "100")


def test_a_hole_at_the_beginning_is_passed_over(server: EventHubsServer, bench: HubBench) -> None:
    bench.put(numbered(100))
    server.drop(HUB, *range(30))
    assert bench.read("10") == (numbered(70, start=30), "100")


def test_a_compacted_hub_is_read_as_fast_as_any_other(server: EventHubsServer, bench: HubBench) -> None:
    bench.put(numbered(3_000))
    server.drop(HUB, *range(0, 2_999, 2))
    before = server.accepted
    with taking_at_most(10):
        values, end = bench.read(limit=500)
    assert (values, end) == ([b"%d" % number for number in range(1, 3_000) if number % 2], "3000")
    assert server.accepted - before < 8  # a link for every hole would be 1,500


def test_a_hole_up_to_the_end_is_passed_over_once_something_came_behind_it(
    server: EventHubsServer, bench: HubBench
) -> None:
    bench.put(numbered(10))
    server.drop(HUB, 8, 9)
    late = threading.Timer(0.5, bench.put, [numbered(1, start=10)])
    late.start()
    with bench.stream().read(bench.partition(), "8") as read:
        (batch,) = read.batches(50)
    late.join()
    assert (batch.values, list(batch.positions), batch.next_position) == ([], [], "10")


def test_events_that_are_owed_and_never_come_fail_the_read_instead_of_being_passed_over(
    server: EventHubsServer, bench: HubBench
) -> None:
    bench.put(numbered(10))
    server.drop(HUB, 8, 9)
    stream = bench.stream(timeout=2)
    with taking_at_most(8), stream.read(bench.partition(), None) as read:
        batches = read.batches(5)
        assert next(batches).values == numbered(5)
        with pytest.raises(StreamUnavailableError, match="it owes event 8"):
            next(batches)


def test_an_event_that_is_left_out_once_is_fetched(server: EventHubsServer, bench: HubBench) -> None:
    bench.put(numbered(100))
    server.mislaid = {0, 40, 41, 99}
    late = threading.Timer(0.5, bench.put, [numbered(1, start=100)])
    late.start()
    assert bench.read() == (numbered(100), "100")
    late.join()


@pytest.mark.parametrize("position", [None, "50", "99"])
def test_events_before_the_position_that_come_all_the_same_are_dropped(
    server: EventHubsServer, bench: HubBench, position: str | None
) -> None:
    bench.put(numbered(100))
    server.early = 10
    server.cut_each(60, times=1)
    start = int(position or 0)
    assert bench.read(position) == (numbered(100 - start, start=start), "100")


# -- connections that break


def test_a_link_that_falls_silent_is_opened_again(server: EventHubsServer, bench: HubBench) -> None:
    bench.put([b"%05d" % number + bytes(5_000) for number in range(8_000)])
    with bench.stream(timeout=6).read(bench.partition(), None) as read:
        batches = read.batches(1_000)
        taken = list(next(batches).values)
        server.forget_readers(HUB)
        for batch in batches:
            taken += batch.values
    assert [int((value or b"")[:5]) for value in taken] == list(range(8_000))


def test_a_connection_cut_in_mid_read_is_made_again_where_it_broke(server: EventHubsServer, bench: HubBench) -> None:
    bench.put(numbered(5_000))
    server.cut_each(1_700, times=1)
    with leaving_no_thread():
        assert bench.read(limit=800) == (numbered(5_000), "5000")
    assert server.cuts_left == 0


@pytest.mark.slow
@pytest.mark.untraced
def test_20_cuts_during_a_read_of_50_000_events_leave_exactly_50_000_staged(
    server: EventHubsServer, bench: HubBench, warehouse: Warehouse
) -> None:
    bench.put([click(number, NOW - timedelta(hours=1)) for number in range(50_000)])
    server.cut_each(2_300, times=20)
    intake = Intake(warehouse, lambda: NOW, batch_size=7_000, lateness=timedelta(days=31))
    with leaving_no_thread():
        counts = intake.read_partition(bench.stream(), bench.partition())
    assert server.cuts_left == 0
    assert (counts.events, counts.rejected) == (50_000, {})
    rows = stored(warehouse, StagedClick)
    assert len(rows) == len({row.click_id for row in rows}) == 50_000
    assert sum(row.event_count for row in stored(warehouse, Batch)) == 50_000
    assert [row.position for row in stored(warehouse, StreamPosition)] == ["50000"]


def test_a_server_that_is_gone_for_a_moment_delays_a_read_no_more_than_that(
    server: EventHubsServer, bench: HubBench
) -> None:
    bench.put([b"%06d" % number + bytes(2_000) for number in range(20_000)])  # more than is fetched ahead
    with bench.stream().read(bench.partition(), None) as read:
        batches = read.batches(1_000)
        taken = len(next(batches).values)
        server.stop()
        back = threading.Timer(1.5, server.start)
        back.start()
        taken += sum(len(batch.values) for batch in batches)
        back.join()
    assert taken == 20_000


def test_a_server_that_stays_away_in_mid_read_is_unavailable_within_the_timeout(
    server: EventHubsServer, bench: HubBench
) -> None:
    bench.put([bytes(10_000)] * 4_000)
    with leaving_no_thread(), bench.stream(timeout=2).read(bench.partition(), None) as read:
        batches = read.batches(100)
        next(batches)
        server.stop()
        with taking_at_most(8), pytest.raises(StreamUnavailableError, match="connection refused"):
            for _ in batches:
                pass


def test_a_server_that_falls_silent_in_mid_read_is_unavailable_and_no_thread_stays(
    server: EventHubsServer, bench: HubBench
) -> None:
    bench.put([bytes(10_000)] * 4_000)
    with leaving_no_thread(), bench.stream(timeout=2).read(bench.partition(), None) as read:
        batches = read.batches(100)
        next(batches)
        server.freeze()
        with taking_at_most(10), pytest.raises(StreamUnavailableError, match="gave no answer"):
            for _ in batches:
                pass


def test_a_hub_made_again_in_mid_read_is_not_read_as_if_it_were_the_old_one(
    server: EventHubsServer, bench: HubBench
) -> None:
    bench.put([bytes(10_000)] * 4_000)
    with bench.stream().read(bench.partition(), None) as read:
        batches = read.batches(100)
        next(batches)
        server.delete_hub(HUB)
        server.make_hub(HUB, 2)
        bench.put([b"new"] * 4_000)
        with pytest.raises(StreamUnavailableError, match="made again"):
            for _ in batches:
                pass


def test_a_hub_deleted_in_mid_read_is_unknown(server: EventHubsServer, bench: HubBench) -> None:
    bench.put([bytes(10_000)] * 4_000)
    with bench.stream(timeout=3).read(bench.partition(), None) as read:
        batches = read.batches(100)
        next(batches)
        server.delete_hub(HUB)
        with pytest.raises(StreamUnknownError):
            for _ in batches:
                pass


def test_a_read_that_is_given_up_ends_at_once_and_leaves_no_thread(bench: HubBench) -> None:
    bench.put([bytes(10_000)] * 4_000)
    with leaving_no_thread(), taking_at_most(4), bench.stream().read(bench.partition(), None) as read:
        next(read.batches(10))


def test_a_read_that_failed_goes_on_with_what_it_did_not_hand_out(server: EventHubsServer, bench: HubBench) -> None:
    bench.put([b"%05d" % number + bytes(5_000) for number in range(8_000)])
    with bench.stream(timeout=2).read(bench.partition(), None) as read:
        taken: list[bytes | None] = []

        def take() -> None:
            for batch in read.batches(1_000):
                taken.extend(batch.values)
                server.stop()

        with pytest.raises(StreamUnavailableError):
            take()
        server.start()
        for batch in read.batches(1_000):
            taken += batch.values
    assert [int((value or b"")[:5]) for value in taken] == list(range(8_000))


def test_there_is_nothing_to_commit(bench: HubBench) -> None:
    bench.put(numbered(10))
    with bench.stream().read(bench.partition(), None) as read:
        read.commit("4")
    assert bench.read()[1] == "10"


# -- other readers


def test_a_reader_that_holds_the_partition_for_itself_is_told_of(bench: HubBench, server: EventHubsServer) -> None:
    bench.put(numbered(10))
    with other_reader(server, owner_level=5), pytest.raises(StreamAccessError, match="consumer group for SpendGate"):
        bench.read(timeout=3)


def test_other_readers_are_left_alone(bench: HubBench, server: EventHubsServer) -> None:
    bench.put(numbered(10))
    with other_reader(server) as seen:
        assert bench.read() == (numbered(10), "10")
        bench.put([b"more"])
        wait_for(lambda: b"more" in seen)


def test_a_partition_with_too_many_readers_is_unavailable_with_a_remedy(
    bench: HubBench, server: EventHubsServer
) -> None:
    bench.put(numbered(10))
    with ExitStack() as others:
        for _ in range(5):
            others.enter_context(other_reader(server))
        with pytest.raises(StreamUnavailableError, match="a consumer group of its own"):
            bench.read(timeout=1)


# -- news


def test_news_are_what_lies_past_the_stored_positions(bench: HubBench) -> None:
    stream = bench.stream()
    made = bench.partition().incarnation
    assert stream.news({}) == {}
    bench.put(numbered(10))
    bench.put(numbered(3), partition=1)
    assert stream.news({}) == {"0": "10", "1": "3"}
    assert stream.news({"0": StoredPosition(made, "10"), "1": StoredPosition(made, "2")}) == {"1": "3"}
    assert stream.news({"0": StoredPosition(made, "4"), "1": StoredPosition(made, "3")}) == {"0": "10"}
    assert stream.news({"0": StoredPosition(made, None), "1": StoredPosition("other", "3")}) == {"0": "10", "1": "3"}
    with pytest.raises(PermanentError, match="is not a sequence number"):
        stream.news({"0": StoredPosition(made, "x")})
    stream.close()
    stream.close()


def test_looks_share_one_connection_until_it_is_closed(server: EventHubsServer, bench: HubBench) -> None:
    stream = bench.stream()
    stream.news({})
    before = server.accepted
    for _ in range(5):
        stream.news({})
    assert server.accepted == before
    assert len(server.connections) == 1
    stream.close()
    wait_for(lambda: not server.connections)


def test_a_look_over_a_broken_connection_makes_a_new_one(server: EventHubsServer, bench: HubBench) -> None:
    stream = bench.stream()
    bench.put(numbered(10))
    assert stream.news({}) == {"0": "10"}
    server.cut()
    assert stream.news({}) == {"0": "10"}
    stream.close()


def test_a_hub_of_many_partitions_is_looked_at_a_part_at_a_time(server: EventHubsServer, bench: HubBench) -> None:
    server.make_hub("wide", 40)
    for number in (3, 20, 39):
        bench.put([b"x"], hub="wide", partition=number)
    stream = bench.stream("wide")
    stream.news({})
    before = server.requests
    assert stream.news({}) == {"3": "1", "20": "1"}
    assert server.requests - before == 16
    assert stream.news({}) == {"3": "1", "20": "1", "39": "1"}
    bench.put([b"y"], hub="wide", partition=3)
    assert any(stream.news({})["3"] == "2" for _ in range(3))
    stream.close()


def test_a_look_at_a_partition_emptied_by_retention_finds_nothing(server: EventHubsServer, bench: HubBench) -> None:
    bench.put(numbered(10))
    server.trim(HUB, 10)
    stream = bench.stream()
    assert stream.news({}) == {}
    stream.close()


def test_a_look_at_a_server_that_is_away_fails_and_leaves_no_thread(server: EventHubsServer, bench: HubBench) -> None:
    stream = bench.stream(timeout=1)
    stream.news({})
    server.stop()
    with leaving_no_thread(), taking_at_most(4), pytest.raises(StreamUnavailableError):
        stream.news({})


# -- a piece of what came


def test_a_piece_is_split_without_loss() -> None:
    piece = Piece([b"a", b"bc", None], [4, 6, 7], [1, 2, 3], size=3, end=9, hole=5)
    first = piece.split(2)
    assert first == Piece([b"a", b"bc"], [4, 6], [1, 2], size=3, end=7, hole=5)
    assert piece == Piece([None], [7], [3], size=0, end=9, hole=5)


# -- tools


def drain(stream: EventHubStream, partition: PartitionRef, position: str | None = None) -> None:
    with stream.read(partition, position) as read:
        for _ in read.batches(1_000):
            pass

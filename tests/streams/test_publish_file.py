"""Publishing lines: all of them or, when one can't be sent, none."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers import Bench, free_port, kafka_endpoints
from tests.eventhubs.bench import HubBench
from tests.eventhubs.server import EventHubsServer

from spendgate.errors import ConfigurationError, StreamUnavailableError, StreamUnknownError
from spendgate.settings import Settings
from spendgate.streams.endpoints import Endpoints
from spendgate.streams.kafka_producer import KafkaTopics
from spendgate.streams.publish_file import MAX_LINE_BYTES, STREAM_OF_TYPE, publish_file, publish_lines

NO_BROKER = kafka_endpoints({"bootstrap.servers": f"127.0.0.1:{free_port()}"}, timeout=1)


class Streams:
    """The default streams, and what arrives on them from now on."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.endpoints = kafka_endpoints(bench.properties)
        names = sorted(set(STREAM_OF_TYPE.values()))
        KafkaTopics(bench.properties, timeout=10).ensure_topics(names, 3)
        self._ends = {
            name: [bench.read(name, number=number)[1] for number in range(len(bench.stream(name).partitions()))]
            for name in names
        }

    def arrived(self, name: str) -> list[list[bytes | None]]:
        """By partition."""
        return [self._bench.read(name, end, number=number)[0] for number, end in enumerate(self._ends[name])]

    def arrived_in_all(self) -> int:
        return sum(len(values) for name in set(STREAM_OF_TYPE.values()) for values in self.arrived(name))


@pytest.fixture
def streams(bench: Bench) -> Streams:
    return Streams(bench)


def click(advertiser_id: int, number: int = 0) -> bytes:
    return b'{"event_type":"click","advertiser_id":%d,"number":%d}' % (advertiser_id, number)


def write_lines(directory: Path, *lines: bytes) -> Path:
    path = directory / "events.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


# -- routed by event_type


def test_each_event_goes_to_the_stream_of_its_type(streams: Streams, tmp_path: Path) -> None:
    budget, advertiser, ad = (
        b'{"advertiser_id": 7, "event_type": "%s"}' % kind for kind in (b"budget", b"advertiser", b"ad")
    )
    path = write_lines(tmp_path, click(7), budget, b"", advertiser, b"  ", ad)
    counts = publish_file(path, streams.endpoints)
    assert counts == {"ad-clicks": 1, "ad-budgets": 1, "ad-reference": 2}
    assert [click(7)] in streams.arrived("ad-clicks")
    assert [budget] in streams.arrived("ad-budgets")
    assert [advertiser, ad] in streams.arrived("ad-reference")


def test_one_advertisers_lines_stay_in_order_in_one_partition(streams: Streams, tmp_path: Path) -> None:
    path = write_lines(tmp_path, *(click(number % 17, number) for number in range(3_000)))
    publish_file(path, streams.endpoints)
    arrived = streams.arrived("ad-clicks")
    for advertiser_id in range(17):
        wanted = [click(advertiser_id, number) for number in range(advertiser_id, 3_000, 17)]
        prefix = click(advertiser_id).partition(b',"number"')[0] + b","
        found = [[value for value in values if value and value.startswith(prefix)] for values in arrived]
        assert [values for values in found if values] == [wanted]


BAD_LINES = {
    "not JSON": b"oops",
    "an array": b"[1]",
    "cut off": b'{"event_type":"click","advertiser_id":1',
    "bad UTF-8": b'{"event_type":"\xff","advertiser_id":1}',
    "deeply nested": b'{"event_type":"click","x":' + b"[" * 100_000,
    "no type": b'{"advertiser_id":1}',
    "an unknown type": b'{"event_type":"impression","advertiser_id":1}',
    "a type that is no text": b'{"event_type":1,"advertiser_id":1}',
    "no advertiser": b'{"event_type":"click"}',
    "an advertiser in text": b'{"event_type":"click","advertiser_id":"1"}',
    "a fractional advertiser": b'{"event_type":"click","advertiser_id":1.5}',
    "an advertiser of 100 digits": b'{"event_type":"click","advertiser_id":' + b"9" * 100 + b"}",
    "too long": b'{"event_type":"click","advertiser_id":1,"x":"' + b"x" * MAX_LINE_BYTES + b'"}',
    "far too long": b"x" * 5 * MAX_LINE_BYTES,
}


@pytest.mark.parametrize("kind", BAD_LINES)
@pytest.mark.parametrize("good_before", [0, 40_000])
def test_a_line_that_cannot_be_routed_is_named_by_number_before_the_broker_is_asked(
    tmp_path: Path, kind: str, good_before: int
) -> None:
    path = write_lines(tmp_path, *[click(1)] * good_before, BAD_LINES[kind], click(2))
    with pytest.raises(ConfigurationError, match=rf"Nothing was sent, since line {good_before + 1} of .*jsonl"):
        publish_file(path, NO_BROKER)


def test_nothing_arrives_when_the_last_of_many_lines_cannot_be_routed(streams: Streams, tmp_path: Path) -> None:
    path = write_lines(tmp_path, *[click(1)] * 40_000, b"oops")
    with pytest.raises(ConfigurationError, match="line 40001"):
        publish_file(path, streams.endpoints)
    assert streams.arrived_in_all() == 0


def test_an_unknown_type_is_told_beside_the_known_ones(tmp_path: Path) -> None:
    path = write_lines(tmp_path, BAD_LINES["an unknown type"])
    with pytest.raises(ConfigurationError, match="'impression' is none of click, budget, advertiser, ad"):
        publish_file(path, NO_BROKER)


# -- raw


def test_with_a_stream_named_every_line_that_is_not_empty_arrives_byte_for_byte(bench: Bench, tmp_path: Path) -> None:
    topic = bench.topic()
    lines = [b"oops", b" ", b"\xff\x00\xfe", b'{"advertiser_id":1}\r', b"\r", "é".encode(), b"x" * MAX_LINE_BYTES]
    path = write_lines(tmp_path, lines[0], b"", *lines[1:], b"", b"")
    assert publish_file(path, kafka_endpoints(bench.properties), stream=topic) == {topic: len(lines)}
    # Lines without a key may wait beside those with one, but there is one partition here.
    assert bench.read(topic)[0] == lines


def test_a_last_line_without_a_newline_is_sent_too(bench: Bench, tmp_path: Path) -> None:
    topic = bench.topic()
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"first\nlast")
    publish_file(path, kafka_endpoints(bench.properties), stream=topic)
    assert bench.read(topic)[0] == [b"first", b"last"]


def test_raw_and_routed_lines_of_an_advertiser_share_a_partition(streams: Streams, tmp_path: Path) -> None:
    path = write_lines(tmp_path, *(click(number) for number in range(50)))
    publish_file(path, streams.endpoints)
    publish_file(path, streams.endpoints, stream="ad-clicks")
    for values in streams.arrived("ad-clicks"):
        assert values == 2 * values[: len(values) // 2]


def test_lines_without_a_key_are_spread_and_all_arrive(bench: Bench, tmp_path: Path) -> None:
    topic = bench.topic(partitions=2)
    lines = [b"line %d" % number for number in range(10_000)]
    publish_file(write_lines(tmp_path, *lines), kafka_endpoints(bench.properties), stream=topic)
    arrived = [value for number in range(2) for value in bench.read(topic, number=number)[0]]
    assert sorted(value or b"" for value in arrived) == sorted(lines)


def test_a_raw_line_that_is_too_long_is_named_and_nothing_is_sent(bench: Bench, tmp_path: Path) -> None:
    topic = bench.topic()
    path = write_lines(tmp_path, b"fine", b"x" * (MAX_LINE_BYTES + 1))
    with pytest.raises(ConfigurationError, match=r"line 2 of .*longer than 1000000 bytes"):
        publish_file(path, kafka_endpoints(bench.properties), stream=topic)
    assert bench.read(topic)[0] == []


def test_an_unknown_stream_is_told_and_not_made(bench: Bench, tmp_path: Path, topic_name: str) -> None:
    path = write_lines(tmp_path, b"line")
    for _ in range(2):
        with pytest.raises(StreamUnknownError, match=topic_name):
            publish_file(path, kafka_endpoints(bench.properties), stream=topic_name)


# -- where lines come from


def test_standard_input_is_published_like_a_file(bench: Bench) -> None:
    topic = bench.topic()
    assert publish_file(io.BytesIO(b"a\n\nb\n"), kafka_endpoints(bench.properties), stream=topic) == {topic: 2}
    assert bench.read(topic)[0] == [b"a", b"b"]


def test_a_bad_line_of_standard_input_is_named(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match="line 1 of standard input"):
        publish_file(io.BytesIO(b"oops\n"), kafka_endpoints(bench.properties))


def test_a_named_pipe_is_published_like_a_file(bench: Bench, tmp_path: Path) -> None:
    topic = bench.topic()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"a\nb\n",))
    writer.start()
    publish_file(pipe, kafka_endpoints(bench.properties), stream=topic)
    writer.join()
    assert bench.read(topic)[0] == [b"a", b"b"]


def test_lines_that_a_program_makes_are_published(bench: Bench) -> None:
    topic = bench.topic()
    counts = publish_lines((b"%d" % number for number in range(3)), kafka_endpoints(bench.properties), stream=topic)
    assert (counts, bench.read(topic)[0]) == ({topic: 3}, [b"0", b"1", b"2"])


def test_an_empty_file_sends_nothing(bench: Bench, tmp_path: Path) -> None:
    assert publish_file(write_lines(tmp_path), kafka_endpoints(bench.properties)) == {}


def test_progress_is_told_in_bytes_up_to_the_files_size(bench: Bench, tmp_path: Path) -> None:
    topic = bench.topic()
    path = write_lines(tmp_path, *[b"x" * 1_000] * 3_000)
    told: list[tuple[int, int]] = []
    publish_file(path, kafka_endpoints(bench.properties), stream=topic, progress=lambda *now: told.append(now))
    assert len(told) > 1
    assert told == sorted(told)
    assert told[-1] == (path.stat().st_size, path.stat().st_size)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no file"):
        publish_file(tmp_path / "absent", NO_BROKER)


def test_a_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a directory"):
        publish_file(tmp_path, NO_BROKER)


def test_a_path_through_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        publish_file(write_lines(tmp_path) / "below", NO_BROKER)


def test_no_room_for_the_copy_of_standard_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full)
        with pytest.raises(ConfigurationError, match="make room there"):
            publish_file(io.BytesIO(b"a\n"), NO_BROKER)


def test_a_broker_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(StreamUnavailableError, match="start the broker"):
        publish_file(write_lines(tmp_path, click(1)), NO_BROKER)


# -- streams of several kinds


def mixed(bench: Bench, server: EventHubsServer, *streams: str) -> Endpoints:
    """Endpoints on both servers."""
    hubs = {"connection_string": server.connection_string}
    return Endpoints(Settings(streams=streams, stream_timeout=10), kafka=lambda: bench.properties, eventhub=hubs)


@pytest.fixture
def hubs() -> Iterator[EventHubsServer]:
    with EventHubsServer({"ad-budgets": 2, "raw": 1}) as server:
        yield server


def test_each_event_goes_to_its_stream_wherever_that_is(
    streams: Streams, bench: Bench, hubs: EventHubsServer, tmp_path: Path
) -> None:
    budgets = [b'{"advertiser_id":%d,"event_type":"budget","number":%d}' % (n % 5, n) for n in range(100)]
    path = write_lines(tmp_path, click(7), *budgets)
    counts = publish_file(path, mixed(bench, hubs, "ad-clicks", "eventhub:ad-budgets"))
    assert counts == {"ad-clicks": 1, "ad-budgets": 100}
    assert [click(7)] in streams.arrived("ad-clicks")
    assert streams.arrived_in_all() == 1
    arrived = [HubBench(hubs).read(number=number, hub="ad-budgets")[0] for number in range(2)]
    for key in range(5):
        found = [[value for value in values if b'"advertiser_id":%d,' % key in (value or b"")] for values in arrived]
        assert [values for values in found if values] == [budgets[key::5]]


def test_lines_go_byte_for_byte_to_a_hub_that_is_named(bench: Bench, hubs: EventHubsServer, tmp_path: Path) -> None:
    lines = [b"oops", b" ", b"\xff\x00\xfe", b'{"advertiser_id":1}\r', b"x" * MAX_LINE_BYTES]
    path = write_lines(tmp_path, *lines)
    assert publish_file(path, mixed(bench, hubs, "ad-clicks"), stream="eventhub:raw") == {"eventhub:raw": len(lines)}
    assert HubBench(hubs).read(hub="raw")[0] == lines


def test_an_unknown_hub_is_told_before_the_first_line_is_sent(
    streams: Streams, bench: Bench, hubs: EventHubsServer, tmp_path: Path
) -> None:
    reference = b'{"advertiser_id":1,"event_type":"ad"}'
    path = write_lines(tmp_path, click(7), reference)
    with pytest.raises(StreamUnknownError, match="has no hub 'ad-reference'"):
        publish_file(path, mixed(bench, hubs, "ad-clicks", "eventhub:ad-reference"))
    assert streams.arrived_in_all() == 0


def test_a_stream_of_files_is_refused_before_the_first_line_is_sent(
    streams: Streams, bench: Bench, hubs: EventHubsServer, tmp_path: Path
) -> None:
    path = write_lines(tmp_path, click(7), b'{"advertiser_id":1,"event_type":"budget"}')
    with pytest.raises(ConfigurationError, match="put the file itself into the stream's folder"):
        publish_file(path, mixed(bench, hubs, "ad-clicks", "files:ad-budgets"))
    assert streams.arrived_in_all() == 0


def test_a_kind_that_there_is_not_is_refused(bench: Bench, hubs: EventHubsServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="kafka, eventhub, files"):
        publish_file(write_lines(tmp_path, b"a"), mixed(bench, hubs, "ad-clicks"), stream="rabbit:a")


def test_a_hub_that_nothing_says_how_to_reach_is_told(bench: Bench, tmp_path: Path) -> None:
    endpoints = Endpoints(Settings(streams=("eventhub:ad-clicks",)), kafka=lambda: bench.properties)
    with pytest.raises(ConfigurationError, match="Set SPENDGATE_EVENTHUB_CONNECTION"):
        publish_file(write_lines(tmp_path, click(1)), endpoints)

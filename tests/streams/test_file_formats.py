"""The formats of event files: every record once, byte for byte; damage told, never guessed around; memory bounded."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.event_files import (
    CAPTURE_SCHEMA,
    CODECS,
    avro,
    capture,
    captured,
    lines,
    zipped,
    zstd,
)
from tests.strategies import patient

from spendgate.streams import publish_file
from spendgate.streams.capture_avro import read_capture
from spendgate.streams.decompress import CHUNK_BYTES, gunzip, read_plain, unzstd
from spendgate.streams.file_formats import ENDINGS, LONGEST_PATH, complaint, reader_of
from spendgate.streams.file_records import DamageError, Piece, Source
from spendgate.streams.json_lines import FOREIGN, MAX_LINE_BYTES, read_lines

Expand = Callable[[Source], Iterator[bytes]]
Compress = Callable[[bytes], bytes]

MODIFIED_MS = 1_700_000_000_123
SOME_LINES = [b'{"n":%d,"text":"%s"}' % (number, b"x" * (number % 90)) for number in range(3_000)]
EXPANDERS = {"gzip": (zipped, gunzip), "zstd": (zstd, unzstd)}


class Dribble:
    """A source that gives what it likes of what it is asked for, as sockets do."""

    def __init__(self, content: bytes, most: int) -> None:
        self._file = BytesIO(content)
        self._most = most

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._most))


def expanded(content: bytes, expand: Expand) -> bytes:
    return b"".join(expand(BytesIO(content)))


def until_damage(things: Iterable[Any]) -> tuple[list[Any], str | None]:
    """Everything up to the damage, and what is said of it."""
    taken = []
    try:
        for thing in things:
            taken.append(thing)
    except DamageError as error:
        return taken, str(error)
    return taken, None


def records(pieces: Iterable[Piece]) -> tuple[list[tuple[int, bytes | None]], str | None]:
    """(number, value) of all records, and what is said of damage."""
    found, why = until_damage(pieces)
    for piece in found:
        assert len(piece.values) == len(piece.numbers) == len(piece.enqueued_ms)
    return [(number, value) for piece in found for number, value in zip(piece.numbers, piece.values, strict=True)], why


# -- names


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_that_is_documented_has_a_reader_in_either_case(ending: str) -> None:
    assert reader_of(f"a/b{ending}") is not None
    assert complaint(f"a/b{ending.upper()}") is None


@pytest.mark.parametrize("path", ["a.csv", "a.jsonl.bz2", "a.gz", "jsonl", "a.avro.gz", "a.jsonl/b", "a.log"])
def test_any_other_ending_is_complained_of(path: str) -> None:
    assert reader_of(path) is None
    assert "rename it" in str(complaint(path))


def test_a_path_that_the_books_have_no_room_for_is_complained_of() -> None:
    longest = "ä" * (LONGEST_PATH - len(".jsonl")) + ".jsonl"
    assert complaint(longest) is None
    assert "longer than 200" in str(complaint(f"x{longest}"))
    assert "longer than 200" in str(complaint("🦊" * 98 + ".jsonl"))  # two units each


def test_a_name_that_is_not_utf8_is_complained_of() -> None:
    assert "UTF-8" in str(complaint("caf\udce9.jsonl"))


# -- JSON lines


@patient
@given(
    st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=30),
    st.booleans(),
    st.integers(1, 40),
    st.integers(0, 35),
)
def test_each_line_comes_once_as_it_is_however_the_content_is_cut_and_wherever_reading_begins(
    written: list[bytes], ends_with_newline: bool, width: int, start: int
) -> None:
    content = b"\n".join(written) + (b"\n" if ends_with_newline and written else b"")
    if content.startswith((*FOREIGN, b"\xef\xbb\xbf")):
        return
    pieces = list(read_lines((content[at : at + width] for at in range(0, len(content), width)), start, MODIFIED_MS))
    expected = [(number, line) for number, line in enumerate(written) if line not in (b"", b"\r") and number >= start]
    assert records(pieces)[0] == expected
    dropped = 1 if written and not written[-1] and not ends_with_newline else 0
    assert pieces[-1].next_number == len(written) - dropped
    assert {stamp for piece in pieces for stamp in piece.enqueued_ms} <= {MODIFIED_MS}


def test_carriage_returns_stay_and_lines_of_nothing_else_are_empty() -> None:
    assert records(read_lines([b'{"a":1}\r\n\r\n{"b":2}\r\n'], 0, 0))[0] == [(0, b'{"a":1}\r'), (2, b'{"b":2}\r')]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert records(read_lines([b'\xef\xbb\xbf{"a":1}\n{"b":2}'], 0, 0))[0] == [(0, b'{"a":1}'), (1, b'{"b":2}')]
    assert records(read_lines([b"\xef\xbb\xbf\n"], 0, 0))[0] == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (zipped(b"{}"), "gzip"),
        (zstd(b"{}"), "zstd"),
        (capture([b"{}"]), "Avro"),
        (b"PK\x03\x04...", "zip"),
        ('{"a":1}'.encode("utf-16"), "UTF-16"),
    ],
)
def test_a_file_under_a_wrong_name_is_one_error_and_not_a_million_rejections(content: bytes, told: str) -> None:
    found, why = records(read_lines([content], 0, 0))
    assert found == []
    assert told in str(why)


def test_a_line_can_be_as_long_as_publish_takes_and_no_longer() -> None:
    assert MAX_LINE_BYTES == publish_file.MAX_LINE_BYTES
    assert CHUNK_BYTES < MAX_LINE_BYTES
    longest = b"x" * MAX_LINE_BYTES
    content = lines([b"first", longest, b"last"])
    assert records(read_lines(read_plain(BytesIO(content)), 0, 0))[0] == [(0, b"first"), (1, longest), (2, b"last")]
    for content in (lines([b"first", longest + b"x", b"last"]), b"first\n" + longest + b"x"):
        found, why = records(read_lines(read_plain(BytesIO(content)), 0, 0))
        assert found == [(0, b"first")]
        assert "1,000,000 bytes" in str(why)


# -- gzip and zstd


@pytest.mark.parametrize("way", EXPANDERS)
@patient
@given(content=st.binary(max_size=2_000), most=st.integers(1, 500), parts=st.integers(1, 3))
def test_any_content_in_any_number_of_members_comes_back_from_any_source(
    way: str, content: bytes, most: int, parts: int
) -> None:
    compress, expand = EXPANDERS[way]
    cut = len(content) // parts
    members = [content[at * cut : (at + 1) * cut] for at in range(parts - 1)] + [content[(parts - 1) * cut :]]
    file = b"".join(map(compress, members))
    assert b"".join(expand(Dribble(file, most))) == content


@pytest.mark.parametrize("way", EXPANDERS)
def test_large_content_comes_in_chunks_of_bounded_size(way: str) -> None:
    compress, expand = EXPANDERS[way]
    content = lines(SOME_LINES) * 20
    chunks = list(expand(BytesIO(compress(content))))
    assert b"".join(chunks) == content
    assert max(map(len, chunks)) <= CHUNK_BYTES


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("known_size", [True, False])
def test_zstd_frames_of_every_make_are_read(checksum: bool, known_size: bool) -> None:
    content = lines(SOME_LINES) * 5
    file = zstd(content, checksum=checksum, known_size=known_size)
    skipped = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"index"
    assert expanded(skipped + file + skipped + file, unzstd) == content * 2


def test_zstd_of_any_level_and_of_raw_and_repeated_blocks_is_read() -> None:
    noise = zlib.compress(bytes(range(256)) * 3_000, 9) * 40
    for content in (b"", b"a", b"\0" * 1_000_000, noise):
        for level in (-5, 1, 19):
            assert expanded(zstandard.ZstdCompressor(level=level).compress(content), unzstd) == content


def test_zeros_behind_gzip_are_padding() -> None:
    assert expanded(zipped(b"a") + b"\0" * 700_000, gunzip) == b"a"


@pytest.mark.parametrize("way", EXPANDERS)
def test_an_empty_file_is_empty(way: str) -> None:
    assert expanded(b"", EXPANDERS[way][1]) == b""


@pytest.mark.parametrize("way", EXPANDERS)
@patient
@given(data=st.data())
def test_a_file_cut_off_anywhere_gives_a_true_beginning_and_is_told(way: str, data: st.DataObject) -> None:
    compress, expand = EXPANDERS[way]
    content = lines(SOME_LINES[:300])
    file = compress(content)
    cut = data.draw(st.integers(1, len(file) - 1))
    chunks, why = until_damage(expand(BytesIO(file[:cut])))
    assert content.startswith(b"".join(chunks))
    assert why is not None


@pytest.mark.parametrize("way", EXPANDERS)
@patient
@given(data=st.data())
def test_a_changed_byte_is_told(way: str, data: st.DataObject) -> None:
    compress, expand = EXPANDERS[way]
    content = lines(SOME_LINES[:300])
    file = bytearray(compress(content))
    # Of gzip's header, its time, flags for humans and system change nothing in the content.
    at = data.draw(st.integers(10 if way == "gzip" else 0, len(file) - 1))
    file[at] ^= data.draw(st.integers(1, 255))
    chunks, why = until_damage(expand(BytesIO(bytes(file))))
    assert why is not None or b"".join(chunks) == content


@pytest.mark.parametrize("way", EXPANDERS)
def test_something_else_behind_a_member_is_told_after_its_content(way: str) -> None:
    compress, expand = EXPANDERS[way]
    chunks, why = until_damage(expand(BytesIO(compress(b"whole") + b"rubbish")))
    assert b"".join(chunks) == b"whole"
    assert way in str(why)


@pytest.mark.parametrize("way", EXPANDERS)
def test_a_file_that_expands_without_end_takes_no_memory(way: str) -> None:
    compress, expand = EXPANDERS[way]
    bomb = compress(bytes(300_000_000))
    tracemalloc.start()
    try:
        found, why = records(read_lines(expand(BytesIO(bomb)), 0, 0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found, str(why)) == ([], "has a line of more than 1,000,000 bytes")
    assert peak < 20_000_000


def test_a_zstd_frame_that_asks_for_more_memory_than_it_should_is_told() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    file = compressor.compress(b"a" * 1000) + compressor.flush()
    assert "zstd" in str(until_damage(unzstd(BytesIO(file)))[1])


# -- Event Hubs Capture

BODIES: list[bytes | None] = [None if number % 7 == 3 else b'{"n":%d}' % number for number in range(200)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("start", [0, 1, 63, 199, 200])
def test_events_of_a_capture_file_come_from_any_record_on(codec: str, start: int) -> None:
    pieces = list(read_capture(BytesIO(capture(BODIES, codec, block_bytes=1_000)), start))
    assert records(pieces) == (list(enumerate(BODIES))[start:], None)
    assert pieces[-1].next_number == 200
    assert len(pieces) > 10 or start > 100


@pytest.mark.parametrize("content", [capture([]), b""])
def test_a_capture_file_of_a_quiet_window_is_empty(content: bytes) -> None:
    assert [piece.next_number for piece in read_capture(BytesIO(content), 0)] == [0]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("11/16/2016 4:44:11 PM", datetime(2016, 11, 16, 16, 44, 11, tzinfo=UTC)),
        ("1/2/2026 12:00:00 AM", datetime(2026, 1, 2, 0, 0, 0, tzinfo=UTC)),
        ("12/31/2026 12:59:59 PM", datetime(2026, 12, 31, 12, 59, 59, tzinfo=UTC)),
        ("11/25/2026 1:05:09\u202fPM", datetime(2026, 11, 25, 13, 5, 9, tzinfo=UTC)),
        ("2018-07-05T15:11:42.6850000Z", datetime(2018, 7, 5, 15, 11, 42, 685_000, tzinfo=UTC)),
        ("2018-07-05T15:11:42Z", datetime(2018, 7, 5, 15, 11, 42, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_azure_writes_them(text: str, instant: datetime) -> None:
    [piece, _] = read_capture(BytesIO(avro([captured(b"{}", at=text)])), 0)
    assert piece.enqueued_ms == [round(instant.timestamp() * 1000)]


@pytest.mark.parametrize(
    "text",
    ["", "25/11/2026 1:05:09 PM", "11/25/2026 13:05:09 PM", "11/25/2026 0:05:09 AM", "11/25/2026 1:05:09", "now"],
)
def test_a_time_that_azure_would_not_write_is_told_and_not_guessed(text: str) -> None:
    found, why = records(read_capture(BytesIO(avro([captured(b"{}", at=text)])), 0))
    assert found == []
    assert "EnqueuedTimeUtc" in str(why)


def test_messages_that_iot_hub_routes_to_storage_are_read_too() -> None:
    text = {"type": "map", "values": "string"}
    fields = [
        {"name": "EnqueuedTimeUtc", "type": "string"},
        {"name": "Properties", "type": text},
        {"name": "SystemProperties", "type": text},
        {"name": "Body", "type": ["null", "bytes"]},
    ]
    message = {"EnqueuedTimeUtc": "2018-07-05T15:11:42.6850000Z", "Properties": {}, "SystemProperties": {}}
    schema = {"type": "record", "name": "Message", "namespace": "Microsoft.Azure.Devices", "fields": fields}
    assert records(read_capture(BytesIO(avro([message | {"Body": b"{}"}], schema=schema)), 0))[0] == [(0, b"{}")]


def test_an_avro_file_of_something_else_is_told() -> None:
    number = {"type": "record", "name": "Number", "fields": [{"name": "n", "type": "long"}]}
    assert "Body or EnqueuedTimeUtc" in str(until_damage(read_capture(BytesIO(avro([{"n": 1}], schema=number)), 0))[1])
    assert "Body" in str(until_damage(read_capture(BytesIO(avro([1], schema={"type": "long"})), 0))[1])  # type: ignore[list-item]
    fields = [field for field in CAPTURE_SCHEMA["fields"] if field["name"] != "Body"]
    strings = {**CAPTURE_SCHEMA, "fields": [*fields, {"name": "Body", "type": "string"}]}
    found, why = records(read_capture(BytesIO(avro([captured(b"") | {"Body": "text"}], schema=strings)), 0))
    assert (found, "isn't bytes" in str(why)) == ([], True)


@pytest.mark.parametrize("content", [b"not avro", b"O", b"Obj\x02....", zipped(capture(BODIES)), b"Obj\x01\xff"])
def test_a_file_that_is_no_avro_is_told(content: bytes) -> None:
    assert records(read_capture(BytesIO(content), 0))[0] == []
    assert until_damage(read_capture(BytesIO(content), 0))[1] is not None


def test_a_codec_that_capture_does_not_use_is_told() -> None:
    assert "bzip2" in str(until_damage(read_capture(BytesIO(avro([captured(b"")], "bzip2")), 0))[1])


@pytest.mark.parametrize("codec", CODECS)
@patient
@given(data=st.data())
def test_a_capture_file_cut_off_anywhere_gives_whole_blocks_and_is_told(codec: str, data: st.DataObject) -> None:
    file = capture(BODIES, codec, block_bytes=500)
    whole = records(read_capture(BytesIO(file), 0))[0]
    cut = data.draw(st.integers(1, len(file) - 1))
    found, why = records(read_capture(BytesIO(file[:cut]), 0))
    assert found == whole[: len(found)]
    # Where a block ends a file may end: Avro has nothing behind its last block.
    assert why is not None or file[cut - 16 : cut] == file[-16:]


@patient
@given(data=st.data())
def test_a_changed_byte_in_a_block_with_a_checksum_is_told(data: st.DataObject) -> None:
    file = bytearray(capture(BODIES, "snappy", block_bytes=500))
    whole = records(read_capture(BytesIO(bytes(file)), 0))[0]
    header = len(capture([], "snappy"))
    at = data.draw(st.integers(header, len(file) - 1))
    file[at] ^= data.draw(st.integers(1, 255))
    found, why = records(read_capture(BytesIO(bytes(file)), 0))
    assert why is not None
    assert found == whole[: len(found)]


def test_a_block_that_expands_beyond_what_events_can_be_is_told() -> None:
    bomb = avro([captured(bytes(150_000_000))], "deflate")
    found, why = records(read_capture(BytesIO(bomb), 0))
    assert (found, "expanded" in str(why)) == ([], True)
    bomb = avro([captured(bytes(150_000_000))], "snappy")
    assert "impossible size" in str(until_damage(read_capture(BytesIO(bomb), 0))[1])

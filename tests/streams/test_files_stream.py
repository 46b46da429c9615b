"""FilesStream: each file read once, whole and unmixed, whatever is done to the folder meanwhile."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.event_files import CAPTURED_AT, FORMATS, capture, event_file, lines, zipped
from tests.factories import (
    LATENESS,
    NOW,
    THRESHOLDS,
    Bench,
    click,
    click_id,
    clicks_of,
    killed_between_copy_and_commit,
    rejections_of,
    stored,
)

from spendgate.errors import (
    PermanentError,
    StreamChangedError,
    StreamGapError,
)
from spendgate.gaps import accept_gap
from spendgate.ingest import Intake
from spendgate.merge import Merge
from spendgate.pipeline import Pipeline
from spendgate.quality.gate import Gate
from spendgate.settings import Settings
from spendgate.streams.base import PartitionRef, StoredPosition
from spendgate.streams.endpoints import Endpoints
from spendgate.streams.files import FilesStream
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import Batch, RejectedEvent, StreamGap, StreamPosition

NAME = "ad-clicks"
SETTLE = timedelta(seconds=5)
HOUR_AGO = NOW - timedelta(hours=1)


class Place(Protocol):
    """A folder of the stream `NAME` under `url`, on some file system."""

    url: str

    def put(self, path: str, content: bytes, at: datetime = HOUR_AGO) -> None:
        """Write a file that was changed last at that time."""

    def append(self, path: str, content: bytes, at: datetime = NOW - timedelta(minutes=1)) -> None:
        """Write on, in place."""

    def remove(self, path: str) -> None: ...


class Directory:
    """A place on the local file system."""

    def __init__(self, root: Path) -> None:
        self.url = str(root)
        self.folder = root / NAME
        self.folder.mkdir()

    def put(self, path: str, content: bytes, at: datetime = HOUR_AGO) -> None:
        where = self.folder / path
        where.parent.mkdir(parents=True, exist_ok=True)
        fresh = where.with_name(f".{uuid.uuid4()}")
        fresh.write_bytes(content)
        self._date(fresh, at)
        fresh.rename(where)

    def append(self, path: str, content: bytes, at: datetime = NOW - timedelta(minutes=1)) -> None:
        with (self.folder / path).open("ab") as file:
            file.write(content)
        self._date(self.folder / path, at)

    def remove(self, path: str) -> None:
        (self.folder / path).unlink()

    def _date(self, where: Path, at: datetime) -> None:
        nanoseconds = round(at.timestamp() * 1000) * 1_000_000
        os.utime(where, ns=(nanoseconds, nanoseconds))


class Memory:
    """A place in fsspec's memory, which tells times and no tags."""

    def __init__(self) -> None:
        self._root = f"/{uuid.uuid4()}"
        self.url = f"memory:/{self._root}"
        self._fs = MemoryFileSystem()
        self._fs.makedirs(f"{self._root}/{NAME}")

    def put(self, path: str, content: bytes, at: datetime = HOUR_AGO) -> None:
        self._fs.pipe_file(f"{self._root}/{NAME}/{path}", content)
        self._fs.store[f"{self._root}/{NAME}/{path}"].created = at

    def append(self, path: str, content: bytes, at: datetime = NOW - timedelta(minutes=1)) -> None:
        self.put(path, self._fs.cat_file(f"{self._root}/{NAME}/{path}") + content, at)

    def remove(self, path: str) -> None:
        self._fs.rm_file(f"{self._root}/{NAME}/{path}")


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Directory(tmp_path) if request.param == "local" else Memory()


def stream_of(place: Place, now: datetime = NOW, settle: timedelta = SETTLE) -> FilesStream:
    return FilesStream(NAME, place.url, {}, settle=settle, clock=lambda: now)


def paths(refs: list[PartitionRef]) -> list[str]:
    return [ref.partition for ref in refs]


def only(stream: FilesStream) -> PartitionRef:
    [ref] = stream.partitions()
    return ref


def read_on(
    stream: FilesStream, ref: PartitionRef, position: str | None = None, limit: int = 50_000
) -> tuple[list[tuple[str, bytes | None]], str]:
    """(position, value) of what is left of a file, and the position behind it."""
    found: list[tuple[str, bytes | None]] = []
    with stream.read(ref, position) as read:
        end = read.start
        assert read.lost is None
        for batch in read.batches(limit):
            assert len(batch.values) == len(batch.positions) == len(batch.enqueued_ms) <= limit
            found += zip(batch.positions, batch.values, strict=True)
            end = batch.next_position
    return found, end


class Reader:
    """The real Intake over a stream, as a pipeline's slice does it: what is unread, file after file."""

    def __init__(self, warehouse: Warehouse, place: Place, batch_size: int = 50_000) -> None:
        self.warehouse = warehouse
        self.place = place
        self.intake = Intake(warehouse, lambda: NOW, batch_size, LATENESS)

    def unread(self) -> list[PartitionRef]:
        return stream_of(self.place).unread(self.intake.stored_positions(NAME))

    def read(self) -> list[int]:
        """Events of each file that was read."""
        stream = stream_of(self.place)
        return [self.intake.read_partition(stream, ref).events for ref in self.unread()]

    @property
    def positions(self) -> dict[str, tuple[int, str | None]]:
        """(epoch, position) by file."""
        return {row.partition_id: (row.epoch, row.position) for row in stored(self.warehouse, StreamPosition)}

    def merged(self) -> list[str]:
        """Ids of the clicks, after a merge."""
        Gate(self.warehouse, lambda: NOW, THRESHOLDS).judge_staged()
        Merge(self.warehouse, lambda: NOW).merge_staged()
        return sorted(clicks_of(self.warehouse))


@pytest.fixture
def reader(warehouse: Warehouse, place: Place) -> Reader:
    return Reader(warehouse, place)


# -- what is listed


def test_files_are_partitions_in_path_order_and_those_of_others_are_passed_over(place: Place) -> None:
    for path in ("b/2.jsonl", "a.jsonl.gz", "b/10.avro", "b.json", "Z.ndjson.zst"):
        place.put(path, b"")
    for path in (".hidden.jsonl", "_SUCCESS", "_temporary/0/a.jsonl", "b/.x/a.jsonl", "a.jsonl.tmp", "a.jsonl.PART"):
        place.put(path, b"")
    found = stream_of(place).partitions()
    assert paths(found) == ["Z.ndjson.zst", "a.jsonl.gz", "b.json", "b/10.avro", "b/2.jsonl"]
    assert {ref.stream for ref in found} == {NAME}


def test_a_file_that_was_changed_just_now_is_left_for_later(place: Place) -> None:
    place.put("old.jsonl", b"{}", NOW - SETTLE)
    place.put("young.jsonl", b"{}", NOW - SETTLE + timedelta(milliseconds=1))
    assert paths(stream_of(place).partitions()) == ["old.jsonl"]
    assert paths(stream_of(place).unread({})) == ["old.jsonl"]
    assert list(stream_of(place).news({})) == ["old.jsonl"]
    assert paths(stream_of(place, NOW + timedelta(seconds=1)).partitions()) == ["old.jsonl", "young.jsonl"]
    assert len(stream_of(place, settle=timedelta(0)).partitions()) == 2


def test_a_file_of_the_future_is_read_now(place: Place) -> None:
    place.put("a.jsonl", b"{}", NOW + timedelta(days=400))
    assert paths(stream_of(place).unread({})) == ["a.jsonl"]


def test_a_file_of_another_size_or_time_is_another_incarnation(place: Place) -> None:
    seen = set()
    for content, at in ((b"{}", HOUR_AGO), (b"{}", NOW - timedelta(minutes=9)), (b"{} ", HOUR_AGO)):
        place.put("a.jsonl", content, at)
        seen |= {only(stream_of(place)).incarnation, only(stream_of(place)).incarnation}
    assert len(seen) == 3
    assert max(map(len, seen)) <= 100


def test_names_of_every_kind_are_listed_and_read(place: Place) -> None:
    names = [
        "ä ö/日本.jsonl",
        "a b.jsonl",
        "a#b.jsonl",
        "100%.jsonl",
        "%20.jsonl",
        "a?b=c.jsonl",
        "[x]*.jsonl",
        "'\".json",
    ]
    for name in names:
        place.put(name, name.encode())
    stream = stream_of(place)
    found = stream.partitions()
    assert paths(found) == sorted(names)
    for ref in found:
        assert read_on(stream, ref)[0] == [("0", ref.partition.encode())]


def test_unread_are_files_that_are_not_finished_under_their_present_incarnation(place: Place) -> None:
    for name in ("begun", "changed", "done", "new"):
        place.put(f"{name}.jsonl", b"{}")
    at = {ref.partition: ref.incarnation for ref in stream_of(place).partitions()}
    books = {
        "begun.jsonl": StoredPosition(at["begun.jsonl"], "1"),
        "changed.jsonl": StoredPosition("9 9", "1 end"),
        "done.jsonl": StoredPosition(at["done.jsonl"], "1 end"),
        "gone.jsonl": StoredPosition("7 7", "3"),
        "gone at once.jsonl": StoredPosition("8 8", None),
        "gone and done.jsonl": StoredPosition("7 7", "3 end"),
        "0": StoredPosition("1f0c9f5e-6c1b-4b0e-9a51-0d9a3f1b7c22", "1234"),  # of the topic that it was before
    }
    stream = stream_of(place)
    expected = ["begun.jsonl", "changed.jsonl", "new.jsonl", "gone at once.jsonl", "gone.jsonl"]
    assert paths(stream.unread(books)) == expected
    assert stream.unread(books)[-1].incarnation == "7 7"
    assert sorted(stream.news(books)) == sorted(expected)
    assert stream.news(books)["changed.jsonl"] == at["changed.jsonl"]


def test_a_begun_file_that_is_being_written_again_is_not_gone(place: Place) -> None:
    place.put("a.jsonl", b"{}", NOW)
    assert stream_of(place).unread({"a.jsonl": StoredPosition("7 7", "3")}) == []


def test_news_of_a_large_folder_are_looked_for_less_often_and_forgotten_on_close(directory: Directory) -> None:
    stream = stream_of(directory)
    for number in range(2_000):
        (directory.folder / f"{number}.jsonl").touch()
    date = HOUR_AGO.timestamp()
    for entry in os.scandir(directory.folder):
        os.utime(entry.path, (date, date))
    began = time.monotonic()
    assert len(stream.news({})) == 2_000
    took = time.monotonic() - began
    directory.put("late.jsonl", b"{}")
    assert len(stream.news({})) == 2_000
    deadline = time.monotonic() + 60 * took + 1
    while len(stream.news({})) == 2_000:
        assert time.monotonic() < deadline
    directory.put("later.jsonl", b"{}")
    stream.close()
    stream.close()
    assert len(stream.news({})) == 2_002


# -- reading one file


@pytest.mark.parametrize("ending", FORMATS)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_batches_and_resumes_give_each_record_once(directory: Directory, ending: str, data: st.DataObject) -> None:
    bodies = data.draw(st.lists(st.sampled_from([b"{}", b'{"a":1}', b"x" * 60]), max_size=40))
    directory.put(f"a.{ending}", event_file(ending, bodies))
    stream = stream_of(directory)
    ref = only(stream)
    found: list[tuple[str, bytes | None]] = []
    position: str | None = None
    while position is None or not position.endswith(" end"):
        with stream.read(ref, position) as read:
            assert (read.start, read.lost) == (position or "0", None)
            batches = read.batches(data.draw(st.integers(1, 50)))
            for batch in itertools.islice(batches, data.draw(st.integers(1, 3))):
                found += zip(batch.positions, batch.values, strict=True)
                position = batch.next_position
    assert found == [(str(number), body) for number, body in enumerate(bodies)]
    assert position == f"{len(bodies)} end"


@pytest.mark.parametrize("limit", [1, 999, 1_000, 1_001, 50_000])
def test_the_last_batch_says_that_the_file_is_finished(place: Place, limit: int) -> None:
    place.put("a.jsonl", lines(b"%d" % number for number in range(1_000)))
    stream = stream_of(place)
    with stream.read(only(stream), None) as read:
        batches = list(read.batches(limit))
    assert len(batches) == -(-1_000 // limit)
    assert [batch.next_position for batch in batches[:-1]] == [str(limit * (at + 1)) for at in range(len(batches) - 1)]
    assert batches[-1].next_position == "1000 end"


@pytest.mark.parametrize("content", [b"", b"\n\n\r\n"])
def test_a_file_that_holds_nothing_is_finished_by_an_empty_batch(place: Place, content: bytes) -> None:
    place.put("a.jsonl", content)
    stream = stream_of(place)
    with stream.read(only(stream), None) as read:
        [batch] = read.batches(10)
    assert (batch.values, batch.next_position) == ([], f"{content.count(10)} end")


def test_a_finished_file_gives_nothing_even_if_it_is_gone(place: Place) -> None:
    place.put("a.jsonl", b"{}")
    stream = stream_of(place)
    ref = only(stream)
    place.remove("a.jsonl")
    with stream.read(ref, "1 end") as read:
        assert (read.start, read.lost, list(read.batches(10))) == ("1 end", None, [])


def test_lines_are_of_the_files_time_and_captured_events_of_their_own(place: Place) -> None:
    place.put("a.jsonl", b"{}")
    place.put("b.avro", capture([b"{}"]))
    stream = stream_of(place)
    times = []
    for ref in stream.partitions():
        with stream.read(ref, None) as read:
            times += [stamp for batch in read.batches(10) for stamp in batch.enqueued_ms]
    captured_at = datetime.strptime(CAPTURED_AT, "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=UTC)
    assert times == [round(at.timestamp() * 1000) for at in (HOUR_AGO, captured_at)]


def test_large_records_end_a_batch_before_its_limit(directory: Directory) -> None:
    directory.put("a.jsonl", lines([b"x" * 900_000] * 80))
    stream = stream_of(directory)
    with stream.read(only(stream), None) as read:
        sizes = [len(batch.values) for batch in read.batches(50_000)]
    assert sum(sizes) == 80
    assert max(sizes) < 45  # about 32 MB, and a piece


def test_a_file_of_many_ranges_is_fetched_whole() -> None:
    place = Memory()
    content = lines(b"%09d" % number for number in range(2_000_000))  # more than two ranges
    place.put("a.jsonl", content)
    stream = stream_of(place)
    found, end = read_on(stream, only(stream), "1999990")
    assert (len(found), found[-1], end) == (10, ("1999999", b"001999999"), "2000000 end")


def test_a_limit_below_one_is_a_mistake(directory: Directory) -> None:
    directory.put("a.jsonl", b"{}")
    stream = stream_of(directory)
    with stream.read(only(stream), None) as read, pytest.raises(ValueError, match="limit"):
        next(read.batches(0))


@pytest.mark.parametrize("position", ["-1", "1.5", "end", "1  end", ""])
def test_a_position_that_no_file_has_is_told(directory: Directory, position: str) -> None:
    directory.put("a.jsonl", b"{}")
    stream = stream_of(directory)
    with pytest.raises(PermanentError, match="no position"):
        read_on(stream, only(stream), position)


def test_a_position_past_the_end_is_told(place: Place) -> None:
    place.put("a.jsonl", b"{}\n{}")
    stream = stream_of(place)
    assert read_on(stream, only(stream), "2") == ([], "2 end")
    with pytest.raises(PermanentError, match="2 records, less than were read"):
        read_on(stream, only(stream), "3")


# -- exactly once


def test_each_file_is_read_once_however_often_it_is_listed(reader: Reader) -> None:
    for number in range(3):
        reader.place.put(f"{number}.jsonl", click(number))
    reader.place.put("empty.jsonl", b"")
    assert reader.read() == [1, 1, 1, 0]
    assert reader.read() == []
    assert reader.positions == {
        "0.jsonl": (1, "1 end"),
        "1.jsonl": (1, "1 end"),
        "2.jsonl": (1, "1 end"),
        "empty.jsonl": (1, "0 end"),
    }
    assert reader.merged() == [click_id(number) for number in range(3)]


def test_a_late_file_with_an_early_name_is_read(reader: Reader) -> None:
    reader.place.put("2026-11-23.jsonl", click(1))
    assert reader.read() == [1]
    reader.place.put("2026-11-21.jsonl", click(2))
    assert reader.read() == [1]
    assert reader.merged() == [click_id(1), click_id(2)]


def test_a_file_that_grew_is_read_from_its_beginning_as_a_new_epoch(reader: Reader) -> None:
    reader.place.put("a.jsonl", lines([click(1), b"bad"]))
    assert reader.read() == [2]
    reader.place.append("a.jsonl", lines([click(2)]))
    assert reader.read() == [3]
    assert reader.positions == {"a.jsonl": (2, "3 end")}
    assert reader.merged() == [click_id(1), click_id(2)]
    assert rejections_of(reader.warehouse) == {"not_json": 2}


def test_a_rejected_event_tells_its_file_and_line(reader: Reader) -> None:
    reader.place.put("a/b c.jsonl", lines([click(1), b"", b"bad"]))
    reader.read()
    [row] = stored(reader.warehouse, RejectedEvent)
    assert (row.partition_id, row.position, row.epoch, bytes(row.raw)) == ("a/b c.jsonl", "2", 1, b"bad")
    assert row.enqueued_at == HOUR_AGO
    [batch] = stored(reader.warehouse, Batch)
    assert (batch.from_position, batch.to_position, batch.event_count) == ("0", "3 end", 2)


def test_a_reader_that_was_killed_leaves_orphans_and_the_file_unread(warehouse: Warehouse, place: Place) -> None:
    reader = Reader(warehouse, place)
    place.put("a.jsonl", lines(click(number) for number in range(5)))
    bench = Bench(warehouse)
    bench.stream = stream_of(place)  # type: ignore[assignment]  # all that is asked of it is the protocol
    killed_between_copy_and_commit(bench)
    assert reader.positions == {"a.jsonl": (1, None)}
    assert reader.read() == [5]
    assert reader.intake.remove_orphans() > 0
    assert len(reader.merged()) == 5


def test_a_reader_with_an_old_list_changes_nothing(reader: Reader) -> None:
    reader.place.put("a.jsonl", click(1))
    old = reader.unread()
    assert reader.read() == [1]
    stream = stream_of(reader.place)
    assert [reader.intake.read_partition(stream, ref).events for ref in old] == [0]
    reader.place.append("a.jsonl", lines([b"", click(2)]))
    assert reader.read() == [2]
    with pytest.raises(StreamChangedError):
        reader.intake.read_partition(stream, old[0])
    assert reader.positions == {"a.jsonl": (2, "2 end")}


@pytest.mark.parametrize("ending", FORMATS)
def test_a_read_that_breaks_off_goes_on_where_it_stopped(
    warehouse: Warehouse, directory: Directory, ending: str
) -> None:
    directory.put(f"a.{ending}", event_file(ending, [click(number) for number in range(10)]))
    stream = stream_of(directory)
    intake = Intake(warehouse, lambda: NOW, 4, LATENESS)
    first = Intake(warehouse, lambda: NOW, 4, LATENESS)
    counts = first.read_partition(_Breaking(stream, after=2), only(stream))
    assert counts.events == 8
    assert intake.read_partition(stream, only(stream)).events == 2
    assert len(Reader(warehouse, directory).merged()) == 10


class _Breaking:
    """A stream whose reads end after some batches, without an error: the reader was killed between two."""

    def __init__(self, stream: FilesStream, after: int) -> None:
        self._stream = stream
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def read(self, partition: PartitionRef, position: str | None) -> Iterator[Any]:
        with self._stream.read(partition, position) as read:
            yield _Broken(read, self._after)


class _Broken:
    def __init__(self, read: Any, after: int) -> None:
        self._read = read
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._read, name)

    def batches(self, limit: int) -> Iterator[Any]:
        yield from itertools.islice(self._read.batches(limit), self._after)


# -- files that change while they are read


def interrupted(reader: Reader, change: Callable[[], None]) -> None:
    """Read the only file in batches of 2, and do something to it once the first batch was staged."""
    stream = stream_of(reader.place)
    [ref] = reader.unread()
    intake = Intake(reader.warehouse, lambda: NOW, 2, LATENESS)
    intake.read_partition(_Changing(stream, change), ref)  # type: ignore[arg-type]  # as above


class _Changing(_Breaking):
    def __init__(self, stream: FilesStream, change: Callable[[], None]) -> None:
        super().__init__(stream, 0)
        self._change = change

    @contextmanager
    def read(self, partition: PartitionRef, position: str | None) -> Iterator[Any]:
        with self._stream.read(partition, position) as read:
            yield _Changed(read, self._change)


class _Changed(_Broken):
    def __init__(self, read: Any, change: Callable[[], None]) -> None:
        super().__init__(read, 0)
        self._change = change

    def batches(self, limit: int) -> Iterator[Any]:
        for number, batch in enumerate(self._read.batches(limit)):
            yield batch
            if number == 0:
                self._change()


def test_a_file_that_is_written_to_while_it_is_read_is_read_again(reader: Reader) -> None:
    reader.place.put("a.jsonl", lines(click(number) for number in range(5)))
    with pytest.raises(StreamChangedError, match="run again"):
        interrupted(reader, lambda: reader.place.append("a.jsonl", lines([click(5)])))
    assert reader.positions == {"a.jsonl": (1, "2")}
    assert reader.read() == [6]
    assert reader.positions == {"a.jsonl": (2, "6 end")}
    assert reader.merged() == [click_id(number) for number in range(6)]


def test_a_local_file_that_is_replaced_while_it_is_read_is_read_to_its_end_and_then_the_new_one(
    warehouse: Warehouse, directory: Directory
) -> None:
    reader = Reader(warehouse, directory)
    directory.put("a.jsonl", lines(click(number) for number in range(5)))
    interrupted(reader, lambda: directory.put("a.jsonl", lines([click(7)]), NOW - timedelta(minutes=1)))
    assert reader.positions == {"a.jsonl": (1, "5 end")}
    assert reader.read() == [1]
    assert reader.positions == {"a.jsonl": (2, "1 end")}
    assert len(reader.merged()) == 6


def test_a_local_file_that_is_removed_while_it_is_read_loses_nothing(
    warehouse: Warehouse, directory: Directory
) -> None:
    reader = Reader(warehouse, directory)
    directory.put("a.jsonl", lines(click(number) for number in range(5)))
    interrupted(reader, lambda: directory.remove("a.jsonl"))
    assert reader.positions == {"a.jsonl": (1, "5 end")}
    assert reader.unread() == []


def test_an_object_that_is_replaced_while_it_is_read_is_read_again(warehouse: Warehouse) -> None:
    reader = Reader(warehouse, Memory())
    reader.place.put("a.jsonl", lines(click(number) for number in range(5)))
    with pytest.raises(StreamChangedError):
        interrupted(reader, lambda: reader.place.put("a.jsonl", lines([click(7)]), NOW - timedelta(minutes=1)))
    assert reader.read() == [1]
    assert reader.merged() == [click_id(0), click_id(1), click_id(7)]


def test_what_is_left_of_a_file_that_is_gone_is_a_gap_until_a_person_accepts_it(reader: Reader) -> None:
    reader.place.put("a.jsonl", lines(click(number) for number in range(5)))
    stream = stream_of(reader.place)
    intake = Intake(reader.warehouse, lambda: NOW, 2, LATENESS)
    intake.read_partition(_Breaking(stream, after=1), reader.unread()[0])  # type: ignore[arg-type]  # as above
    reader.place.remove("a.jsonl")
    for _ in range(2):
        with pytest.raises(StreamGapError, match=r"ad-clicks/a.jsonl lost the events from 2 to end"):
            reader.read()
    [gap] = stored(reader.warehouse, StreamGap)
    assert (gap.epoch, gap.from_position, gap.to_position) == (1, "2", "end")
    accept_gap(reader.warehouse, gap.id, "ops", NOW)
    assert reader.read() == [0]
    assert reader.positions == {"a.jsonl": (1, "2 end")}
    assert reader.read() == []
    assert reader.merged() == [click_id(0), click_id(1)]


def test_a_file_that_is_gone_before_anything_of_it_was_read_is_a_gap_too(reader: Reader) -> None:
    reader.place.put("a.jsonl", lines([click(1)]))
    [ref] = reader.unread()
    reader.place.remove("a.jsonl")
    with pytest.raises(StreamGapError, match="from 0 to end"):
        reader.intake.read_partition(stream_of(reader.place), ref)
    reader.place.put("a.jsonl", lines([click(1)]), NOW - timedelta(minutes=1))
    assert reader.read() == [1]


# -- files that can't be read


def pipeline_of(warehouse: Warehouse, place: Place, batch_size: int = 50_000) -> Pipeline:
    settings = Settings(streams=(f"files:{NAME}",), files_url=place.url, files_settle_seconds=0, batch_size=batch_size)
    return Pipeline(settings, warehouse, Endpoints(settings, files_url=place.url), lambda: NOW)


def test_a_file_that_is_damaged_is_told_and_the_others_are_read(warehouse: Warehouse, place: Place) -> None:
    whole = zipped(lines(click(number) for number in range(10_000)))
    place.put("a.jsonl.gz", whole[: len(whole) // 2])
    place.put("b.jsonl", lines([click(20_000)]))
    pipeline = pipeline_of(warehouse, place, batch_size=2_000)
    [part] = pipeline.list_slices()
    for _ in range(2):
        with pytest.raises(PermanentError, match=r"a\.jsonl\.gz of the stream ad-clicks is cut off, at record \d+"):
            pipeline.read_slice(part)
    reader = Reader(warehouse, place)
    epoch, position = reader.positions["a.jsonl.gz"]
    assert (epoch, reader.positions["b.jsonl"]) == (1, (1, "1 end"))
    assert 2_000 < int(str(position)) < 10_000
    assert len(reader.merged()) == int(str(position)) + 1
    place.put("a.jsonl.gz", whole, NOW - timedelta(minutes=1))
    assert pipeline.read_slice(part)["events"] == 10_000
    assert reader.positions["a.jsonl.gz"] == (2, "10000 end")
    assert len(reader.merged()) == 10_001
    assert rejections_of(warehouse) == {}


def test_files_that_nothing_reads_are_told_after_the_others_were_read(warehouse: Warehouse, place: Place) -> None:
    place.put("a.csv", b"1,2")
    place.put("b.jsonl", click(1))
    pipeline = pipeline_of(warehouse, place)
    [part] = pipeline.list_slices()
    with pytest.raises(PermanentError, match=r"a\.csv of the stream ad-clicks can't be read, .*rename it"):
        pipeline.read_slice(part)
    assert Reader(warehouse, place).positions == {"b.jsonl": (1, "1 end")}
    assert list(stream_of(place).news({})) == ["b.jsonl"]
    Reader(warehouse, place).merged()
    assert pipeline.follow_news()["intake"]["partitions"] == 0
    place.remove("a.csv")
    assert pipeline.read_slice(part)["partitions"] == 0


def test_a_path_that_is_too_long_is_told_and_the_others_are_read(warehouse: Warehouse, place: Place) -> None:
    place.put(f"{'d' * 150}/{'n' * 50}.jsonl", click(1))
    place.put("z.jsonl", click(2))
    pipeline = pipeline_of(warehouse, place)
    with pytest.raises(PermanentError, match="longer than 200"):
        pipeline.read_slice(pipeline.list_slices()[0])
    assert Reader(warehouse, place).merged() == [click_id(2)]


def test_a_name_that_is_not_utf8_is_told_and_the_others_are_read(warehouse: Warehouse, directory: Directory) -> None:
    (directory.folder / os.fsdecode(b"caf\xe9.jsonl")).write_bytes(click(1))
    directory.put("z.jsonl", click(2))
    pipeline = pipeline_of(warehouse, directory)
    with pytest.raises(PermanentError, match=r"caf\\udce9\.jsonl .*UTF-8"):
        pipeline.read_slice(pipeline.list_slices()[0])
    assert Reader(warehouse, directory).merged() == [click_id(2)]


def test_a_file_that_changes_while_it_is_read_does_not_keep_the_others_from_being_read(
    warehouse: Warehouse, directory: Directory
) -> None:
    place = directory
    place.put("a.jsonl", lines([click(1)]))
    place.put("b.jsonl", lines([click(2)]))
    pipeline = pipeline_of(warehouse, place)
    stream = stream_of(place)
    listed = stream.unread({})
    place.append("a.jsonl", lines([click(3)]))
    reads, failures = pipeline._read(listed)
    assert [read["events"] for read in reads] == [1]
    assert [type(failure) for failure in failures] == [StreamChangedError]

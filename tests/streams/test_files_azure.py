"""FilesStream over Azure's blob service itself, or Azurite: what fsspec's memory can't show.

SPENDGATE_TEST_ABFS is a connection string of either; the tests make a container and remove it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import adlfs
import pytest
from tests.event_files import FORMATS, event_file, lines
from tests.factories import LATENESS, NOW, click, stored

from spendgate.clock import utc_now
from spendgate.errors import StreamAccessError, StreamChangedError, StreamGapError, StreamUnknownError
from spendgate.ingest import Intake
from spendgate.streams.base import PartitionRef
from spendgate.streams.files import FilesStream
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import StreamPosition

NAME = "ad-clicks"
CONNECTION = os.environ.get("SPENDGATE_TEST_ABFS", "")

pytestmark = pytest.mark.skipif(
    not CONNECTION, reason="needs Azure's blob service or Azurite: set SPENDGATE_TEST_ABFS to a connection string"
)


class Container:
    """A container with the stream's folder in it."""

    def __init__(self) -> None:
        self.fs: Any = adlfs.AzureBlobFileSystem(connection_string=CONNECTION)
        self.name = f"test-{uuid.uuid4()}"
        self.fs.mkdir(self.name)

    def put(self, path: str, content: bytes) -> None:
        self.fs.pipe_file(f"{self.name}/{NAME}/{path}", content, overwrite=True)

    def remove(self, path: str) -> None:
        self.fs.rm_file(f"{self.name}/{NAME}/{path}")

    def stream(self, name: str = NAME, connection: str = CONNECTION, settle: int = 0) -> FilesStream:
        options = {"connection_string": connection}
        return FilesStream(name, f"abfs://{self.name}", options, settle=timedelta(seconds=settle), timeout=15.0)


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    made = Container()
    yield made
    made.fs.rm(made.name, recursive=True)


@pytest.fixture
def stream(container: Container) -> Iterator[FilesStream]:
    opened = container.stream()
    yield opened
    opened.close()
    container.fs.rm(f"{container.name}/{NAME}", recursive=True)


def read(stream: FilesStream, ref: PartitionRef, position: str | None = None) -> list[bytes | None]:
    with stream.read(ref, position) as opened:
        return [value for batch in opened.batches(1_000) for value in batch.values]


def test_files_of_every_format_and_name_are_listed_and_read(container: Container, stream: FilesStream) -> None:
    bodies = [b'{"n":%d}' % number for number in range(50)]
    names = [f"ns/hub/0/2026/11/25/10/00/{number}.{ending}" for number, ending in enumerate(FORMATS)]
    names += ["ä ö/日本.jsonl", "a b.jsonl", "a#b.jsonl", "100%.jsonl", "%20.jsonl", "a?b=c.jsonl", "[x]*.jsonl"]
    for name in names:
        ending = next(one for one in sorted(FORMATS, key=len, reverse=True) if name.endswith(one))
        container.put(name, event_file(ending, bodies))
    container.put("_SUCCESS", b"")
    found = stream.partitions()
    assert [ref.partition for ref in found] == sorted(names)
    for ref in found:
        assert read(stream, ref) == bodies
        assert read(stream, ref, "48") == bodies[48:]


def test_a_blob_that_was_written_just_now_is_left_for_later(container: Container, stream: FilesStream) -> None:
    container.put("a.jsonl", b"{}")
    assert len(stream.partitions()) == 1
    assert container.stream(settle=3600).partitions() == []
    with stream.read(stream.partitions()[0], None) as opened:
        [batch] = opened.batches(10)
    assert abs(batch.enqueued_ms[0] / 1000 - utc_now().timestamp()) < 300


def test_a_blob_that_is_replaced_is_another_even_with_the_same_content(
    container: Container, stream: FilesStream
) -> None:
    container.put("a.jsonl", b"{}")
    [before] = stream.partitions()
    container.put("a.jsonl", b"{}")
    [after] = stream.partitions()
    assert before.incarnation != after.incarnation
    with pytest.raises(StreamChangedError):
        read(stream, before)


def test_a_blob_that_is_replaced_while_it_is_read_never_mixes(container: Container, stream: FilesStream) -> None:
    container.put("a.jsonl", lines(b"%09d" % number for number in range(1_000_000)))
    [ref] = stream.partitions()
    with stream.read(ref, None) as opened:
        batches = opened.batches(1_000)
        next(batches)
        container.put("a.jsonl", lines(b"x%08d" % number for number in range(1_000_000)))
        with pytest.raises(StreamChangedError):
            next(batches)


def test_a_blob_that_is_gone_half_read_is_a_gap(
    container: Container, stream: FilesStream, warehouse: Warehouse
) -> None:
    container.put("a.jsonl", lines(click(number) for number in range(10)))
    container.put("b.jsonl", b"")
    intake = Intake(warehouse, lambda: NOW, 4, LATENESS)
    ref, other = stream.partitions()
    container.remove("a.jsonl")
    with pytest.raises(StreamGapError):
        intake.read_partition(stream, ref)
    intake.read_partition(stream, other)
    assert {row.partition_id: row.position for row in stored(warehouse, StreamPosition)} == {
        "a.jsonl": None,
        "b.jsonl": "0 end",
    }
    assert [one.partition for one in stream.unread(intake.stored_positions(NAME))] == ["a.jsonl"]


def test_a_folder_or_container_that_is_not_there_is_unknown(container: Container) -> None:
    with pytest.raises(StreamUnknownError, match="no folder"):
        container.stream("nothing").partitions()
    nowhere = FilesStream(NAME, "abfs://no-such-container", {"connection_string": CONNECTION}, settle=timedelta(0))
    with pytest.raises(StreamUnknownError, match="no folder"):
        nowhere.partitions()


def test_a_wrong_key_is_refused_without_telling_it(container: Container) -> None:
    key = next(part for part in CONNECTION.split(";") if part.startswith("AccountKey=")).removeprefix("AccountKey=")
    wrong = ("A" if key[0] != "A" else "B") + key[1:]
    with pytest.raises(StreamAccessError, match="HTTP status 403") as caught:
        container.stream(connection=CONNECTION.replace(key, wrong)).partitions()
    assert wrong not in str(caught.value)

"""What every kind of stream keeps, whatever it is read from: one suite over all of them.

Through the whole intake: settings as a person sets them, the pipeline's slices, a real warehouse. What is special to
one kind is in its own test file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.factories import click, click_id, stored
from tests.forked import Forked
from tests.streams import azure_storage, read_process
from tests.streams.kinds import KINDS, Kind

from spendgate.clock import utc_now
from spendgate.errors import (
    SpendGateError,
    StreamAccessError,
    StreamGapError,
    StreamUnavailableError,
    StreamUnknownError,
    TransientError,
)
from spendgate.gaps import accept_gap, stored_gaps
from spendgate.local import services
from spendgate.pipeline import Pipeline, total_intake
from spendgate.settings import Settings
from spendgate.streams.base import BoundedRead, PartitionRef, RecordBatch, Stream
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import Batch, StagedClick, StreamPosition

AT = utc_now() - timedelta(hours=1)
# Told within, whatever is wrong.
SOON = 20.0
MILLION = 1_000_000
KILLS = 4
EVENTS = 4_000
SECRETS = ("hunter2", azure_storage.KEY)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__.removesuffix("Kind"))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    """One server of each kind for all tests; none where this machine can't run it."""
    kind: Kind = request.param(tmp_path_factory.mktemp("kind"))
    try:
        kind.start()
        yield kind
    finally:
        kind.close()


class BrokenOff:
    """A stream whose reads break off behind their first batch."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def read(self, partition: PartitionRef, position: str | None) -> Iterator[Any]:
        with self._stream.read(partition, position) as read:
            yield _FirstBatch(read)


class _FirstBatch:
    def __init__(self, read: BoundedRead) -> None:
        self._read = read
        self.start, self.lost, self.commit = read.start, read.lost, read.commit

    def batches(self, limit: int) -> Iterator[RecordBatch]:
        yield next(self._read.batches(limit))
        raise StreamUnavailableError("The stream broke off.")


class Reader:
    """Reads one stream of a server into one warehouse."""

    def __init__(self, server: Kind, stream: str, warehouse: Warehouse) -> None:
        self.server = server
        self.name = stream
        self.warehouse = warehouse

    def settings(self, **changes: Any) -> Settings:
        return Settings(**{**self.server.settings(self.name), **changes})

    def pipeline(self, settings: Settings | None = None) -> Pipeline:
        settings = settings or self.settings()
        return Pipeline(settings, self.warehouse, services.endpoints(settings))

    def stream(self) -> Stream:
        return self.pipeline().endpoints.stream(self.name)

    def read(self, settings: Settings | None = None) -> dict[str, Any]:
        """One run of the intake."""
        pipeline = self.pipeline(settings)
        return total_intake([pipeline.read_slice(part) for part in pipeline.list_slices()])

    def start(self, home: Path, **changes: Any) -> Forked:
        """One run of the intake in a process of its own, which says "reading" when it begins."""
        url = self.warehouse.engine.url.render_as_string(hide_password=False)
        settings = self.settings(home=home, warehouse_url=url, **changes)
        return Forked(read_process.main, variables=settings.as_environment())

    def read_apart(self, home: Path, **changes: Any) -> None:
        """As `read`, in a process of its own."""
        with self.start(home, **changes) as process:
            said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said

    def read_first_batch(self, size: int) -> None:
        """Stage one batch of each partition, and break off as if the server had gone."""
        intake = self.pipeline(self.settings(batch_size=size)).intake(self.name)
        stream = BrokenOff(self.stream())
        for partition in stream.unread({}):
            with suppress(StreamUnavailableError):
                intake.read_partition(stream, partition)

    def put(self, *numbers: int) -> None:
        self.server.put(self.name, [click(number, AT) for number in numbers])

    def staged(self) -> list[str]:
        """Ids of the clicks that count, in the order in which they were staged, each as often as it is there."""
        rows = select(StagedClick.c.click_id).where(StagedClick.c.batch_id.in_(select(Batch.c.batch_id)))
        with self.warehouse.transaction() as transaction:
            ordered = rows.order_by(StagedClick.c.batch_id, StagedClick.c.ordinal)
            return [str(found) for found in transaction.run(ordered).scalars()]

    def news(self) -> int:
        """How many partitions hold something unread."""
        stream = self.stream()
        try:
            return len(stream.news(self.pipeline().intake().stored_positions(self.name)))
        finally:
            stream.close()

    def epochs(self) -> set[int]:
        return {row.epoch for row in stored(self.warehouse, StreamPosition)}


@pytest.fixture
def reader(server: Kind, warehouse: Warehouse) -> Reader:
    return Reader(server, server.make_stream(), warehouse)


def ids(*numbers: int) -> list[str]:
    return [click_id(number) for number in numbers]


def test_what_is_there_is_read_in_order(reader: Reader) -> None:
    reader.put(*range(10))
    assert reader.read()["events"] == 10
    assert reader.staged() == ids(*range(10))


def test_a_read_goes_on_where_the_last_one_ended(reader: Reader) -> None:
    reader.put(*range(7))
    reader.read()
    reader.put(*range(7, 12))
    assert reader.read()["events"] == 5
    assert reader.staged() == ids(*range(12))


def test_nothing_new_is_nothing_read(reader: Reader) -> None:
    reader.put(1)
    reader.read()
    assert reader.read()["events"] == 0
    assert reader.staged() == ids(1)


def test_an_empty_stream_is_read_without_complaint(reader: Reader) -> None:
    assert reader.read()["events"] == 0
    reader.put(1)
    assert reader.read()["events"] == 1


def test_a_read_ends_where_the_stream_ended_when_it_began(reader: Reader) -> None:
    reader.put(*range(300))
    stream = reader.stream()
    (partition,) = [one for one in stream.unread({}) if one.partition in stream.news({})]
    stream.close()
    values: list[bytes | None] = []
    with stream.read(partition, None) as read:
        for batch in read.batches(100):
            values += batch.values
            reader.put(*range(1_000, 1_010))
    assert values == [click(number, AT) for number in range(300)]


def test_there_is_news_until_all_is_read(reader: Reader) -> None:
    assert reader.news() == 0
    reader.put(1)
    assert reader.news() == 1
    reader.read()
    assert reader.news() == 0
    reader.put(2)
    assert reader.news() == 1


def test_a_bad_message_is_a_rejection_with_its_bytes_and_stops_nothing(reader: Reader) -> None:
    reader.server.put(reader.name, [click(1, AT), b"\xffnot json", click(2, AT)])
    assert reader.read()["rejected"] == {"not_json": 1}
    assert reader.staged() == ids(1, 2)


def test_batches_keep_to_their_size(reader: Reader) -> None:
    reader.put(*range(25))
    reader.read(reader.settings(batch_size=10))
    assert sorted(row.event_count for row in stored(reader.warehouse, Batch)) == [5, 10, 10]
    assert reader.staged() == ids(*range(25))


def test_events_that_are_gone_before_they_were_read_are_a_gap_until_somebody_accepts_it(reader: Reader) -> None:
    if not reader.server.can_lose:
        pytest.skip(f"{type(reader.server).__name__}: this server never removes anything")
    reader.put(*range(10))
    reader.read_first_batch(4)
    assert reader.staged() == ids(*range(4))
    kept = reader.server.lose(reader.name, 8)
    with pytest.raises(StreamGapError, match="accept the loss"):
        reader.read()
    with pytest.raises(StreamGapError, match="accept the loss"):
        reader.read()
    columns, rows = stored_gaps(reader.warehouse)
    accept_gap(reader.warehouse, rows[0][columns.index("id")], "maria", utc_now())
    reader.read()
    assert len(rows) == 1
    assert reader.staged() == ids(*range(4), *kept)
    reader.put(99)
    reader.read()
    assert reader.staged()[-1:] == ids(99)


def test_a_stream_made_anew_is_read_from_its_beginning_as_a_new_epoch(reader: Reader) -> None:
    reader.put(1, 2)
    reader.read()
    reader.server.make_anew(reader.name, [click(number, AT) for number in (3, 4, 5)])
    assert reader.read()["events"] == 3
    assert reader.staged() == ids(1, 2, 3, 4, 5)
    assert max(reader.epochs()) == 2


def timed(action: Callable[[], object]) -> tuple[SpendGateError, float]:
    """What the action fails with, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(SpendGateError) as raised:
        action()
    return raised.value, time.monotonic() - began


def assert_told(error: SpendGateError, seconds: float) -> None:
    assert seconds < SOON
    assert "\n" not in str(error)
    assert len(str(error)) < 600


def test_refused_credentials_are_told_soon_in_one_sentence_and_not_tried_again(reader: Reader) -> None:
    refused = reader.server.refused_settings(reader.name)
    if refused is None:
        pytest.skip(f"{type(reader.server).__name__}: this server asks nobody who he is")
    error, seconds = timed(lambda: reader.read(Settings(**refused)))
    assert isinstance(error, StreamAccessError)
    assert_told(error, seconds)
    assert not any(secret in str(error) for secret in SECRETS)


def test_an_unknown_stream_is_told_soon_in_one_sentence_and_not_tried_again(reader: Reader) -> None:
    unknown = Reader(reader.server, "no-such-stream", reader.warehouse)
    error, seconds = timed(unknown.read)
    assert isinstance(error, StreamUnknownError)
    assert_told(error, seconds)
    assert "no-such-stream" in str(error)


def test_a_server_that_is_nowhere_is_told_soon_in_one_sentence(reader: Reader) -> None:
    nowhere = reader.server.nowhere_settings(reader.name)
    error, seconds = timed(lambda: reader.pipeline(Settings(**nowhere)).endpoints.stream(reader.name).partitions())
    assert isinstance(error, StreamUnavailableError | StreamUnknownError)
    assert_told(error, seconds)


def test_a_server_that_went_away_and_came_back_is_read_on(reader: Reader) -> None:
    reader.put(*range(5))
    reader.read()
    reader.server.stop()
    try:
        error, seconds = timed(lambda: reader.read(reader.settings(stream_timeout=3)))
        assert_told(error, seconds)
        assert isinstance(error, TransientError) or reader.server.away_is_permanent
    finally:
        reader.server.start()
    reader.server.come_back(reader.name)
    reader.put(*range(5, 9))
    reader.read()
    assert reader.staged() == ids(*range(9))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_reader_that_is_killed_again_and_again_counts_every_event_once(reader: Reader, tmp_path: Path) -> None:
    reader.put(*range(EVENTS))
    for kill in range(KILLS):
        with reader.start(tmp_path, batch_size=EVENTS // 20) as process:
            assert process.stdout.readline() == "reading\n"
            time.sleep(0.05 + 0.2 * kill)
            process.kill()
    reader.read_apart(tmp_path, batch_size=EVENTS // 20)
    assert sorted(reader.staged()) == sorted(ids(*range(EVENTS)))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.untraced
def test_a_million_events_are_staged_once_each(reader: Reader, tmp_path: Path) -> None:
    reader.server.put_many(reader.name, MILLION)
    reader.read_apart(tmp_path)
    counted = select(func.count(), func.count(func.distinct(StagedClick.c.click_id)))
    counted = counted.where(StagedClick.c.batch_id.in_(select(Batch.c.batch_id)))
    with reader.warehouse.transaction() as transaction:
        assert tuple(transaction.run(counted).one()) == (MILLION, MILLION)

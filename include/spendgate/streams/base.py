"""What ingestion asks of any stream.

A stream has partitions; a partition is read from a position to the end it had when the read began.
A position is the text of the next thing to read; only the stream that made it can compare two of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class PartitionRef:
    """One partition of a stream, and the identity of the stream's present incarnation.

    `incarnation` changes when the stream is deleted and made again (Kafka: the topic id; Event Hubs: when the hub
    was made; files, each of which is a partition: size and time of the file).
    """

    stream: str
    partition: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """Where the books say that a partition's next read begins; `position` None: at its beginning."""

    incarnation: str
    position: str | None


# By partition, of one stream.
StoredPositions = Mapping[str, StoredPosition]


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consecutive records of one partition, as parallel sequences of one length.

    `values` are the raw bytes (None: a record without a value), `positions` where each record is,
    `enqueued_ms` when the broker took it (milliseconds since 1970, UTC), and `next_position` where the
    next read begins: it can be past the last record by control records or compacted ones, and a batch
    can be empty and still move on.
    """

    values: list[bytes | None]
    positions: Sequence[str]
    enqueued_ms: list[int]
    next_position: str


class BoundedRead(Protocol):
    """A read of one partition from where it was opened to the end that it had then."""

    @property
    def start(self) -> str:
        """The position the read begins at: the one asked for, or the first available if none was."""

    @property
    def lost(self) -> tuple[str, str] | None:
        """(asked, first available) if retention removed records between the two, else None."""

    def batches(self, limit: int) -> Iterator[RecordBatch]:
        """Batches of at most `limit` records, in order, up to the end.

        Raises:
            StreamUnavailableError: the broker went away or stayed silent.
        """

    def commit(self, position: str) -> None:
        """Tell the broker how far we are, for lag monitors' sake only; a failure is logged, not raised."""


class Stream(Protocol):
    """A named stream of one broker, hub or directory."""

    @property
    def name(self) -> str: ...

    def partitions(self) -> list[PartitionRef]:
        """All partitions, in order.

        Raises:
            StreamUnknownError: the broker has no such stream.
            StreamUnavailableError: the broker can't be reached.
            StreamAccessError: the broker refuses us.
        """

    def unread(self, stored: StoredPositions) -> list[PartitionRef]:
        """The partitions that may hold something to read, in the order in which they are to be read.

        Of files, which come and go, those that were read to their end are left out, and those that were read in
        part and are gone since are named: reading one tells what is lost. Raises as `partitions`.
        """

    def news(self, stored: StoredPositions) -> Mapping[str, str]:
        """Partitions that hold something not yet read, and how far each reaches (a text that grows with it).

        A cheap look, for waking up only. A stream object may keep its connection between two looks, until `close`;
        one object is looked at by one thread at a time. Raises as `partitions`.
        """

    def close(self) -> None:
        """Give up what `news` kept; may be called twice. Reads keep nothing beyond their block."""

    def read(self, partition: PartitionRef, position: str | None) -> AbstractContextManager[BoundedRead]:
        """Open a bounded read at `position`, or at the first available record if it is None."""


class FlagSink(Protocol):
    """Where flags are published to."""

    @property
    def topic(self) -> str:
        """The name of the topic or hub."""

    def ensure_topic(self) -> str:
        """Make the topic, compacted, if it isn't there and can be made; returns its identity (another one if it was
        made anew).

        Raises:
            StreamUnknownError, StreamUnavailableError, StreamAccessError, ConfigurationError
        """

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Send (key, value) pairs, in order for each key, and return when all are acknowledged.

        Raises:
            StreamUnavailableError: not all were acknowledged; those that were can't be told from the others.
            StreamUnknownError, StreamAccessError, ConfigurationError
        """


class MessageWriter(Protocol):
    """Sends messages to existing streams of one kind; a context manager. Any failure discards what isn't sent yet."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def require(self, streams: Iterable[str], /) -> None:
        """Make sure that the streams exist.

        Raises:
            StreamUnknownError, StreamUnavailableError, StreamAccessError
        """

    def write(self, stream: str, messages: Iterable[tuple[bytes | None, bytes]], /) -> None:
        """Take (key, value) pairs in, in order for each key, and send them sooner or later. Raises as `flush`."""

    def flush(self) -> None:
        """Return when everything that was taken in is acknowledged.

        Raises:
            StreamUnavailableError, StreamUnknownError, StreamAccessError
            PermanentError: a message is larger than the stream takes.
        """


def place(asked: int | None, first: int) -> tuple[int, tuple[str, str] | None]:
    """Where a read begins that was asked to begin at `asked`, when `first` is the first that is available.

    Returns:
        (start, lost): lost is (asked, first) if retention removed what lay at `asked`, else None.
    """
    if asked is None:
        return first, None
    if asked < first:
        return first, (str(asked), str(first))
    return asked, None

"""What ingestion asks of any stream.

A stream has partitions; a partition is read from a position to the end it had when the read began.
A position is the text of the next thing to read; only the stream that made it can compare two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PartitionRef:
    """One partition of a stream, and the identity of the stream's present incarnation.

    `incarnation` changes when the stream is deleted and made again (Kafka: the topic id).
    """

    stream: str
    partition: str
    incarnation: str


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
    """A named stream of one broker."""

    @property
    def name(self) -> str: ...

    def partitions(self) -> list[PartitionRef]:
        """All partitions, in order.

        Raises:
            StreamUnknownError: the broker has no such stream.
            StreamUnavailableError: the broker can't be reached.
            StreamAccessError: the broker refuses us.
        """

    def read(self, partition: PartitionRef, position: str | None) -> AbstractContextManager[BoundedRead]:
        """Open a bounded read at `position`, or at the first available record if it is None."""

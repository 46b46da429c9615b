"""Azure Event Hubs over AMQP as a stream of bounded reads.

A position is a sequence number as text. An offset is never looked at: with geo-replication it is no number. Where a
partition ends is asked of the management node when the read begins, so that a producer that keeps writing can't keep
us reading. The service has no word for the end of a partition, and starts a reader whose position retention has
overtaken at the first event it has, without an error; both are told by sequence numbers (`eventhub_reader`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from spendgate.errors import PermanentError, StreamUnavailableError
from spendgate.streams.base import (
    BoundedRead,
    PartitionRef,
    RecordBatch,
    StoredPosition,
    StoredPositions,
    place,
)
from spendgate.streams.eventhub_management import Ends, Hub, Management, confirm_incarnation
from spendgate.streams.eventhub_namespace import Namespace
from spendgate.streams.eventhub_reader import Piece, Reader

# A batch ends early at this size: 50,000 events of 1 MB would be 50 GB.
_BATCH_BYTES = 32 * 1024 * 1024
# After a failure of the service its answers may lag for a moment, so "past the end" has to last this long.
_PAST_END_SECONDS = 2.0
# The service answers 50 questions a second about a namespace, for all who ask; a look is taken every two seconds.
_ANSWERS_PER_LOOK = 16
# How often a look asks whether the hub still is the one it was, and which partitions it has.
_HUB_SECONDS = 10.0


class EventHubStream:
    """A hub as a Stream. Positions are sequence numbers as decimal text; the incarnation is when the hub was made.

    `options` are those of docs/streams.md; `timeout` (seconds) bounds every wait for the service.

    Raises:
        ConfigurationError: an option is wrong.
    """

    def __init__(self, name: str, options: Mapping[str, Any], *, timeout: float) -> None:
        self._name = name
        self._namespace = Namespace(options, timeout)
        self._namespace.require_hub(name)
        self._watch: _Watch | None = None

    @property
    def name(self) -> str:
        return self._name

    def partitions(self) -> list[PartitionRef]:
        """All partitions by number.

        Raises:
            StreamUnknownError, StreamUnavailableError, StreamAccessError
        """
        management = Management(self._namespace, self._name)
        try:
            hub = management.hub()
        finally:
            management.close()
        return [PartitionRef(self._name, ident, hub.incarnation) for ident in hub.partitions]

    def unread(self, stored: StoredPositions) -> list[PartitionRef]:
        """Every partition: opening one tells whether it holds more. Raises as `partitions`."""
        return self.partitions()

    def news(self, stored: StoredPositions) -> dict[str, str]:
        """Partitions whose end lies past the stored position, with that end.

        Keeps one connection. Asks about 16 partitions a look at most, those it knows least of; of the others it
        says what it saw last. Raises as `partitions`.
        """
        if self._watch is None:
            self._watch = _Watch(self._name, Management(self._namespace, self._name))
        try:
            return self._watch.news(stored)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection that `news` kept."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    @contextmanager
    def read(self, partition: PartitionRef, position: str | None) -> Iterator[BoundedRead]:
        """Open a bounded read at `position`, or at the first available event if it is None.

        Raises:
            StreamUnavailableError: no answer in time, or the hub was made again since `partition` was listed.
            StreamUnknownError, StreamAccessError: as `partitions`.
            PermanentError: the position isn't a sequence number, or lies past the partition's end. The latter is no
                gap: the service lost events that it had given us, or is another one than it was.
        """
        asked = _parse_number(partition.stream, partition.partition, position)
        management = Management(self._namespace, self._name)
        read = EventHubRead(self._namespace, management, partition)
        try:
            read.open(asked)
            yield read
        finally:
            read.close()
            management.close()


class EventHubRead:
    """A BoundedRead of one partition; made by `EventHubStream.read`."""

    def __init__(self, namespace: Namespace, management: Management, partition: PartitionRef) -> None:
        self._namespace = namespace
        self._management = management
        self._listed = partition
        self._lost: tuple[str, str] | None = None
        self._start = 0
        self._next = 0  # the next sequence number to hand out
        self._end = 0  # the end of this read: nothing at or past it is handed out
        self._reader: Reader | None = None
        self._left: Piece | None = None  # of a piece that didn't fit into a batch

    @property
    def start(self) -> str:
        return str(self._start)

    @property
    def lost(self) -> tuple[str, str] | None:
        return self._lost

    def open(self, asked: int | None) -> None:
        """Find the partition's two ends; see `EventHubStream.read` for the errors."""
        confirm_incarnation(self._management, self._listed)
        ends = self._ends_past(asked or 0)
        self._start, self._lost = place(asked, ends.first)
        self._next, self._end = self._start, ends.end

    def batches(self, limit: int) -> Iterator[RecordBatch]:
        """Batches of at most `limit` events (and about 32 MB), in order, up to the end.

        Raises:
            StreamUnavailableError: no event came for `timeout`, retention overtook the read, or the hub was made
                again meanwhile; the next run sees either for itself.
            StreamUnknownError, StreamAccessError: the hub, or our right to it, went away meanwhile.
        """
        if limit < 1:
            raise ValueError("limit must be at least 1")
        while self._next < self._end:
            yield self._next_batch(limit)
        self.close()  # nothing more is read: why keep a connection

    def _next_batch(self, limit: int) -> RecordBatch:
        if self._reader is None:
            self._reader = Reader(self._namespace, self._listed, self._next, self._end)
            self._reader.start()
        begun = self._next
        try:
            batch, hole = self._collect(self._reader, limit)
            self._confirm(hole)
        except BaseException:
            # What was collected isn't handed out: whoever asks for batches again begins with it.
            self.close()
            self._next = begun
            raise
        return batch

    def commit(self, position: str) -> None:
        """Nothing: Event Hubs keeps no positions of its readers, and we keep ours in the warehouse."""

    def close(self) -> None:
        """End the reader; takes a few seconds at most."""
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
            self._left = None

    def _collect(self, reader: Reader, limit: int) -> tuple[RecordBatch, int | None]:
        """The next batch, and where its first hole is."""
        values: list[bytes | None] = []
        numbers: list[int] = []
        enqueued_ms: list[int] = []
        size = 0
        hole: int | None = None
        while self._next < self._end and len(numbers) < limit and size < _BATCH_BYTES:
            piece = self._left or reader.take(self._namespace.timeout)
            self._left = None
            room = limit - len(numbers)
            if len(piece) > room:
                piece, self._left = piece.split(room), piece
            values += piece.values
            numbers += piece.numbers
            enqueued_ms += piece.enqueued_ms
            size += piece.size
            hole = piece.hole if hole is None else hole
            self._next = piece.end
        return RecordBatch(values, list(map(str, numbers)), enqueued_ms, str(self._next)), hole

    def _confirm(self, hole: int | None) -> None:
        """Raise unless what was collected is all that there was, of the hub that we were told of.

        A link that breaks is opened again at a hub that was made anew as if it were the old one; its age doesn't come
        back, so with it unchanged now all that was read is of one incarnation.
        """
        confirm_incarnation(self._management, self._listed)
        if hole is not None and self._management.partition(self._listed.partition).first > hole:
            raise StreamUnavailableError(
                f"Retention overtook the read of hub {self._listed.stream!r}, partition {self._listed.partition}, at "
                f"sequence number {hole}: run again, and the lost events will be on the books as a gap."
            )

    def _ends_past(self, position: int) -> Ends:
        """Where the partition begins and ends, its end not before `position`.

        Raises:
            PermanentError: it stays before it.
        """
        deadline = time.monotonic() + min(_PAST_END_SECONDS, self._namespace.timeout / 2)
        while True:
            ends = self._management.partition(self._listed.partition)
            if position <= ends.end:
                return ends
            if time.monotonic() > deadline:
                raise PermanentError(
                    f"Hub {self._listed.stream!r}, partition {self._listed.partition}, ends at sequence number "
                    f"{ends.end}, before the stored position {position}: the service lost events that were read "
                    "before, or isn't the one they came from; check SPENDGATE_EVENTHUB_CONNECTION or the connection "
                    "spendgate_eventhub, or correct etl.StreamPosition by hand."
                )
            time.sleep(0.2)


class _Watch:
    """Looks at the ends of a hub's partitions again and again, over one connection."""

    def __init__(self, name: str, management: Management) -> None:
        self._name = name
        self._management = management
        self._hub: Hub | None = None
        self._hub_asked = 0.0
        self._ends: dict[str, Ends] = {}  # the one asked about last comes last

    def news(self, stored: StoredPositions) -> dict[str, str]:
        """As `EventHubStream.news`."""
        hub = self._look_at_hub()
        seen = [ident for ident in self._ends if ident in hub.partitions]
        unseen = [ident for ident in hub.partitions if ident not in self._ends]
        for ident in (unseen + seen)[:_ANSWERS_PER_LOOK]:
            self._ends.pop(ident, None)
            self._ends[ident] = self._management.partition(ident)
        return {
            ident: str(self._ends[ident].end)
            for ident in hub.partitions
            if ident in self._ends and self._ends[ident].end > self._next_to_read(hub, ident, stored.get(ident))
        }

    def _next_to_read(self, hub: Hub, ident: str, known: StoredPosition | None) -> int:
        position = known.position if known and known.incarnation == hub.incarnation else None
        at = _parse_number(self._name, ident, position)
        return self._ends[ident].first if at is None else at

    def close(self) -> None:
        self._management.close()

    def _look_at_hub(self) -> Hub:
        if self._hub is None or time.monotonic() - self._hub_asked >= _HUB_SECONDS:
            hub = self._management.hub()
            if self._hub is not None and hub.incarnation != self._hub.incarnation:
                self._ends.clear()
            self._hub, self._hub_asked = hub, time.monotonic()
        return self._hub


def _parse_number(hub: str, partition: str, position: str | None) -> int | None:
    if position is None:
        return None
    if not (position.isascii() and position.isdigit()):
        raise PermanentError(
            f"The stored position {position!r} of hub {hub!r}, partition {partition}, is not a sequence number: "
            "correct it in etl.StreamPosition."
        )
    return int(position)

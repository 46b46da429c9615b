"""Kafka (and whatever speaks its protocol) as a stream of bounded reads.

Where a partition ends is asked twice, because some brokers' "latest offset" is the base offset of their last
batch plus one, short of the records in that batch:

1. ListOffsets gives `high`: on Apache Kafka the true end (the last stable offset under read_committed).
2. The first fetch carries the partition's high watermark, which no broker we know gets wrong.

The greater of the two is the read's end: a fixed number, so a producer that keeps writing can't keep us
reading. Offsets below the end needn't all come as messages (control records, compaction, aborted or still
open transactions), so a read is over when a message at or past the end arrives, or when the broker reports
that nothing more can be fetched at or past `high`.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast, overload

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from spendgate.errors import (
    PermanentError,
    SpendGateError,
    StreamAccessError,
    StreamUnavailableError,
    StreamUnknownError,
)
from spendgate.streams.base import BoundedRead, PartitionRef, RecordBatch, StoredPositions, place
from spendgate.streams.kafka_cluster import PASSING, Admin, Cluster

log = logging.getLogger(__name__)

# Defaults that the caller's properties may override.
_FETCH: Mapping[str, Any] = {
    "client.id": "spendgate",
    "isolation.level": "read_committed",
    # An empty fetch, which is how the end of a partition shows, is answered after this long.
    "fetch.wait.max.ms": 50,
    "fetch.min.bytes": 1,
    "max.partition.fetch.bytes": 1048576,
    # When its queue is full librdkafka stops fetching for a second, unless told otherwise; between two of our
    # batches the queue is always full, so that second would be most of the read.
    "fetch.queue.backoff.ms": 5,
    # What librdkafka may hold for us. A record costs it about 0.5 kB beside its bytes, so 100,000 small
    # ones are 50 MB; large ones are stopped by the second number, plus one fetch.
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 32 * 1024,
}

# What a bounded read rests on, whatever the caller's properties say.
_BOUNDED: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    # An offset that retention removed must be an error: any reset would skip records silently.
    "auto.offset.reset": "error",
    "allow.auto.create.topics": False,
}

# consume() waits this long for a full chunk, deaf to signals: short enough for Ctrl-C, and for the tail. (Intake reads
# in a thread beside it: there Ctrl-C waits for the batch that is being read.)
_SLICE_SECONDS = 0.05
# Chunks of 1,000 are read faster than of 10,000 (1.65 against 1.45 million messages/s): they stay in cache.
_CHUNK_RECORDS = 1_000
_FIRST_CHUNK_RECORDS = 50
_CHUNK_BYTES = 4 * 1024 * 1024
# A batch ends early at this size: 50,000 records of 1 MB would be 50 GB.
_BATCH_BYTES = 32 * 1024 * 1024
# After a change of leader the watermark can lag for a moment, so "past the end" has to last this long.
_PAST_END_SECONDS = 2.0
# A lag monitor's offset isn't worth a longer wait.
_COMMIT_SECONDS = 5.0


class KafkaStream:
    """A topic as a Stream. Positions are offsets as decimal text; the incarnation is the topic id.

    `properties` are librdkafka's, with `bootstrap.servers`; `timeout` (seconds) bounds every wait for the
    broker: metadata, the first record, and any silence between two records.
    """

    def __init__(self, name: str, properties: Mapping[str, Any], *, group: str, timeout: float) -> None:
        self._name = name
        self._cluster = Cluster(properties, timeout)
        self._group = group
        self._watch: _Watch | None = None

    @property
    def name(self) -> str:
        return self._name

    def partitions(self) -> list[PartitionRef]:
        """All partitions by number; their incarnation is "" if the broker knows no topic ids.

        Raises:
            StreamUnknownError, StreamUnavailableError, StreamAccessError, ConfigurationError
        """
        topic = self._cluster.describe(self._name)
        return [PartitionRef(self._name, str(number), topic.topic_id) for number in topic.partitions]

    def unread(self, stored: StoredPositions) -> list[PartitionRef]:
        """Every partition: only opening one tells whether it holds more. Raises as `partitions`."""
        return self.partitions()

    def news(self, stored: StoredPositions) -> dict[str, str]:
        """Partitions whose end by ListOffsets lies past the stored position, with that end.

        An end that is short of the truth (see the module) still lies past what was read before the last batch came.
        Raises as `partitions`.
        """
        if self._watch is None:
            self._watch = _Watch(self._cluster, self._name, self._group)
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
        """Open a bounded read at `position`, or at the first available record if it is None.

        Raises:
            StreamUnavailableError: no answer in time; or the topic was re-created since `partition` was
                listed, or retention overtook the position just now (the next run sees either for itself).
            StreamUnknownError, StreamAccessError: as `partitions`.
            PermanentError: the position isn't an offset, or lies past the partition's end. The latter is no
                gap: the broker lost records that it had given us, or is another broker than it was.
        """
        admin = Admin(self._cluster)
        confirm_incarnation(admin, partition)
        complaints: list[KafkaError] = []
        with self._cluster.checking_properties():
            consumer = Consumer(self._cluster.configure(complaints, _FETCH, {**_BOUNDED, "group.id": self._group}))
        try:
            read = KafkaRead(self._cluster, admin, consumer, complaints, self._group, partition)
            read.open(_parse_offset(partition, position))
            yield read
        finally:
            consumer.close()


class _Watch:
    """Clients that are kept to look at the ends of a topic's partitions again and again."""

    def __init__(self, cluster: Cluster, topic: str, group: str) -> None:
        self._cluster = cluster
        self._topic = topic
        self._complaints: list[KafkaError] = []
        self._admin = Admin(cluster)
        with cluster.checking_properties():
            self._consumer = Consumer(cluster.configure(self._complaints, _FETCH, {**_BOUNDED, "group.id": group}))

    def news(self, stored: StoredPositions) -> dict[str, str]:
        """As `KafkaStream.news`."""
        self._complaints.clear()
        topic = self._admin.describe(self._topic)
        found: dict[str, str] = {}
        for number in topic.partitions:
            known = stored.get(str(number))
            at = known.position if known and known.incarnation == topic.topic_id else None
            low, high = self._ends(number)
            if high > (low if at is None else int(at)):
                found[str(number)] = str(high)
        return found

    def close(self) -> None:
        self._consumer.close()

    def _ends(self, number: int) -> tuple[int, int]:
        try:
            ends: tuple[int, int] = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, number), timeout=self._cluster.timeout
            )
        except KafkaException as error:
            self._consumer.poll(0)  # hands out what is still to be said to `complaints`
            raise self._cluster.failure(error.args[0], self._complaints, self._topic) from error
        return ends


class KafkaRead:
    """A BoundedRead of one partition by a consumer that belongs to it; made by `KafkaStream.read`."""

    def __init__(
        self,
        cluster: Cluster,
        admin: Admin,
        consumer: Consumer,
        complaints: list[KafkaError],
        group: str,
        partition: PartitionRef,
    ) -> None:
        self._cluster = cluster
        self._admin = admin
        self._consumer = consumer
        self._complaints = complaints
        self._group = group
        self._listed = partition
        self._topic = partition.stream
        self._partition = int(partition.partition)
        self._lost: tuple[str, str] | None = None
        self._start = 0
        self._next = 0  # the next offset to hand out
        self._high = 0  # the end by ListOffsets: nothing below it may be left unread
        self._end = 0  # the end of this read: nothing at or past it is handed out
        self._finished = False
        self._primed: tuple[list[Message], int | None] | None = None
        self._chunk = _FIRST_CHUNK_RECORDS

    @property
    def start(self) -> str:
        return str(self._start)

    @property
    def lost(self) -> tuple[str, str] | None:
        return self._lost

    def open(self, asked: int | None) -> None:
        """Find the partition's two ends and place the consumer; see `KafkaStream.read` for the errors."""
        low, self._high = self._watermarks()
        self._start, self._lost = place(asked, low)
        self._next = self._start
        self._consumer.assign([TopicPartition(self._topic, self._partition, self._start)])
        self._end = max(self._high, self._await_first_fetch())
        self._finished = self._next >= self._end

    def batches(self, limit: int) -> Iterator[RecordBatch]:
        """Batches of at most `limit` records (and about 32 MB), in order, up to the end.

        Raises:
            StreamUnavailableError: the broker was silent for `timeout`, retention overtook the read, or the
                topic was made again meanwhile; the next run sees either for itself.
            StreamUnknownError, StreamAccessError: the topic, or our right to it, went away meanwhile.
        """
        if limit < 1:
            raise ValueError("limit must be at least 1")
        while not self._finished:
            batch = self._read_batch(limit)
            if batch is not None:
                # librdkafka goes on in a topic that was made again as if it were the one we began in. Ids don't
                # come back, so with this one still in force, all that was read is of this incarnation.
                confirm_incarnation(self._admin, self._listed)
                yield batch
        self._consumer.unassign()  # what librdkafka fetched past the end is memory nobody needs

    def commit(self, position: str) -> None:
        """Set the group's offset, for lag monitors only: waits at most 5 s, logs a failure.

        A request of its own, since the consumer's own commit waits 45 s for a broker that is gone.
        """
        target = TopicPartition(self._topic, self._partition, int(position))
        try:
            future = self._admin.client.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(self._group, [target])],
                request_timeout=min(_COMMIT_SECONDS, self._cluster.timeout),
            )[self._group]
            for one in self._admin.wait(future, self._topic).topic_partitions:
                if one.error is not None:
                    raise self._cluster.failure(one.error, self._complaints, self._topic)
        except SpendGateError as error:
            log.warning(
                "Group %s has no committed offset for %s/%d; only lag monitors miss it: %s",
                self._group,
                self._topic,
                self._partition,
                error,
            )

    def _watermarks(self) -> tuple[int, int]:
        """(first available offset, end) by ListOffsets, under our isolation level."""
        deadline = time.monotonic() + self._cluster.timeout
        partition = TopicPartition(self._topic, self._partition)
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                low, high = self._consumer.get_watermark_offsets(partition, timeout=left)
            except KafkaException as error:
                self._consumer.poll(0)  # hands out what is still to be said to `complaints`
                failure = self._cluster.failure(error.args[0], self._complaints, self._topic)
                # The topic was there a moment ago, so anything but a refusal may be a leader not yet elected.
                if isinstance(failure, StreamAccessError) or time.monotonic() >= deadline:
                    raise failure from error
                time.sleep(0.1)
            else:
                return low, high

    def _await_first_fetch(self) -> int:
        """The high watermark that came with the first fetch; what came beside it waits in `_primed`."""
        begun = time.monotonic()
        while True:
            records, eof = self._take(1)
            end = self._fetched_end()
            if records or eof is not None:
                self._primed = (records, eof)
                return end
            waited = time.monotonic() - begun
            # Some brokers answer a fetch past the end with nothing at all, for ever.
            if 0 <= end < self._next and waited > min(_PAST_END_SECONDS, self._cluster.timeout / 2):
                raise self._past_end(max(end, self._high))
            if waited > self._cluster.timeout:
                raise self._cluster.silence(self._complaints, self._topic)

    def _fetched_end(self) -> int:
        """The high watermark of the latest fetch; negative before the first."""
        partition = TopicPartition(self._topic, self._partition)
        end: int = self._consumer.get_watermark_offsets(partition, cached=True)[1]
        return end

    def _read_batch(self, limit: int) -> RecordBatch | None:
        """The next batch; None if the read is over and didn't move."""
        begun = self._next
        values: list[bytes | None] = []
        offsets: list[int] = []
        enqueued_ms: list[int] = []
        size = 0
        heard = time.monotonic()
        while not self._finished and len(values) < limit and size < _BATCH_BYTES:
            records, eof = self._take(min(self._chunk, limit - len(values), self._end - self._next))
            records, found = self._advance(records, eof)
            if records:
                values += map(Message.value, records)
                offsets += found
                enqueued_ms += [stamp for _, stamp in map(Message.timestamp, records)]
                taken = sum(map(len, records))
                size += taken
                self._chunk = max(1, min(_CHUNK_RECORDS, _CHUNK_BYTES * len(records) // (taken + 1)))
            if records or eof is not None:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._cluster.timeout:
                raise self._cluster.silence(self._complaints, self._topic)
        if self._next == begun:
            return None
        return RecordBatch(values, _Offsets(offsets), enqueued_ms, str(self._next))

    def _take(self, count: int) -> tuple[list[Message], int | None]:
        """Up to `count` records, and the offset at which the broker had nothing more, if it said so."""
        if self._primed is not None:
            primed, self._primed = self._primed, None
            return primed
        messages = self._consumer.consume(count, _SLICE_SECONDS)
        if not any(map(Message.error, messages)):
            return messages, None
        records: list[Message] = []
        eof: int | None = None
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                eof = message.offset()
            else:
                self._weigh(error)
        return records, eof

    def _advance(self, records: list[Message], eof: int | None) -> tuple[list[Message], list[int]]:
        """Move past `records` and `eof`; the records below the read's end, and their offsets."""
        offsets = cast(list[int], list(map(Message.offset, records)))  # only errors come without
        if offsets:
            self._next = offsets[-1] + 1
        if eof is not None:
            self._next = max(self._next, eof)
            self._finished = eof >= self._high
        if self._next >= self._end:
            self._next = self._end
            self._finished = True
            kept = bisect_left(offsets, self._end)
            return records[:kept], offsets[:kept]
        return records, offsets

    def _weigh(self, error: KafkaError) -> None:
        """Raise unless the read may go on in spite of `error`."""
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            _, high = self._watermarks()
            if self._next > max(high, self._fetched_end()):
                raise self._past_end(high)
            raise StreamUnavailableError(
                f"Retention overtook the read of {self._topic!r}, partition {self._partition}, at offset "
                f"{self._next}: run again, and the lost records will be on the books as a gap."
            )
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return  # reading needs no group: only the committed offset does, and `commit` tells of that
        if error.code() in PASSING or error.retriable():
            self._complaints.append(error)
            return
        raise self._cluster.failure(error, self._complaints, self._topic)

    def _past_end(self, end: int) -> PermanentError:
        return PermanentError(
            f"Stream {self._topic!r}, partition {self._partition}, ends at offset {end}, before the stored "
            f"position {self._next}: the broker lost records that were read before, or isn't the one they "
            "came from; check SPENDGATE_KAFKA_BOOTSTRAP, or correct etl.StreamPosition by hand."
        )


class _Offsets(Sequence[str]):
    """Offsets as the text that positions are, made when asked for: a million strings cost 0.1 s."""

    def __init__(self, offsets: list[int]) -> None:
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(map(str, self._offsets[index]))
        return str(self._offsets[index])


def confirm_incarnation(admin: Admin, partition: PartitionRef) -> None:
    """Raise if the topic is no longer the one that `partition` was listed of: offsets of one incarnation mean
    nothing in another.

    Raises:
        StreamUnavailableError, StreamUnknownError, StreamAccessError
    """
    topic = admin.describe(partition.stream)
    if topic.topic_id != partition.incarnation:
        raise StreamUnavailableError(
            f"Stream {partition.stream!r} was deleted and made again while we looked at it: run again."
        )
    if partition.partition not in map(str, topic.partitions):
        raise StreamUnknownError(
            f"Stream {partition.stream!r} has {len(topic.partitions)} partitions and no {partition.partition}: "
            "correct etl.StreamPosition."
        )


def _parse_offset(partition: PartitionRef, position: str | None) -> int | None:
    if position is None:
        return None
    if not (position.isascii() and position.isdigit()):
        raise PermanentError(
            f"The stored position {position!r} of stream {partition.stream!r}, partition "
            f"{partition.partition}, is not a Kafka offset: correct it in etl.StreamPosition."
        )
    return int(position)

"""What the service keeps: hubs, their partitions, and events by sequence number."""

from __future__ import annotations

import re
import time
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from tests.eventhubs.amqp import (
    BATCH_FORMAT,
    DATA,
    DELIVERY_ANN,
    HEADER,
    MESSAGE_ANN,
    Buffer,
    boolean,
    decode,
    described,
    long,
    map_of,
    pairs,
    sections,
    stamp,
    string,
    symbol,
)

_SELECTOR = re.compile(r"amqp\.annotation\.(x-opt-[\w-]+)\s*(>=?)\s*'([^']*)'")
_KEY = "x-opt-partition-key"
# The service's spelling of "never": the year 1.
_NEVER_MS = -62135596800000

Pairs = list[tuple[str, bytes]]


class RefusedError(Exception):
    """What the service answers instead of what was asked for."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.condition = condition
        self.description = description


def now_ms() -> int:
    return int(time.time() * 1000)


class Partition:
    """Events in order. Sequence numbers begin at 0; what retention or compaction took leaves no other trace."""

    def __init__(self, hub: str, ident: str, opaque_offsets: bool) -> None:
        self.hub, self.id, self._opaque = hub, ident, opaque_offsets
        self.begin, self.last = 0, -1
        self.readers: list[Any] = []
        self._size = 0  # bytes ever written
        # A million events have to fit into a test: numbers take eight bytes each.
        self._numbers = array("q")
        self._offsets = array("q")  # where each event starts, in bytes
        self._times = array("q")
        self._keys: list[str | None] = []
        self._headers: list[bytes] = []
        self._rests: list[bytes] = []  # what follows, with its annotations

    def __len__(self) -> int:
        return len(self._numbers)

    # -- written

    def append(self, raw: Buffer, key: str | None) -> None:
        header, rest = b"", []
        notes: list[tuple[Buffer, Buffer]] = []
        for code, start, value, end in sections(raw):
            if code == HEADER:
                header = bytes(raw[start:end])
            elif code == MESSAGE_ANN:
                notes = pairs(raw, value)
            elif code != DELIVERY_ANN:
                rest.append(raw[start:end])
        own_key = dict(notes).get(symbol(_KEY))
        if own_key is None and key is not None:
            notes.append((symbol(_KEY), string(key)))
        self.last += 1
        self._numbers.append(self.last)
        self._offsets.append(self._size)
        self._times.append(max(now_ms(), self._times[-1] if self._times else 0))
        self._keys.append(key if own_key is None else str(decode(own_key)))
        notes += [
            (symbol("x-opt-sequence-number"), long(self.last)),
            (symbol("x-opt-offset"), string(self._offset(-1))),
            (symbol("x-opt-enqueued-time"), stamp(self._times[-1])),
        ]
        self._headers.append(header)
        self._rests.append(described(MESSAGE_ANN, map_of(notes)) + b"".join(rest))
        self._size += len(raw) + 24

    def trim(self, first: int) -> None:
        """Forget the events before sequence number `first`, as retention does."""
        self._keep(lambda index: self._numbers[index] >= first)
        self.begin = max(self.begin, min(first, self.last + 1))

    def compact(self) -> None:
        """Of the events of one key keep the last, as compaction does; events without a key stay."""
        newest = {key: index for index, key in enumerate(self._keys)}
        self._keep(lambda index: self._keys[index] is None or newest[self._keys[index]] == index)

    def drop(self, numbers: Collection[int]) -> None:
        """Forget these events, wherever they are."""
        self._keep(lambda index: self._numbers[index] not in numbers)

    def _keep(self, wanted: Callable[[int], bool]) -> None:
        kept = [index for index in range(len(self)) if wanted(index)]
        for name in ("_offsets", "_times", "_keys", "_headers", "_rests", "_numbers"):
            column = getattr(self, name)
            left = [column[index] for index in kept]
            setattr(self, name, array("q", left) if isinstance(column, array) else left)

    # -- read

    def event_keys(self) -> list[str | None]:
        """The partition keys of the events that are kept."""
        return list(self._keys)

    def after(self, number: int) -> tuple[int, bytes, bytes] | None:
        """Of the first event at or past a sequence number its own number, its header, and the rest."""
        index = bisect_left(self._numbers, number)
        return (self._numbers[index], self._headers[index], self._rests[index]) if index < len(self) else None

    def find(self, selector: str | None) -> int:
        """The sequence number that a reader with this filter starts at."""
        if not selector:
            return self.begin
        match = _SELECTOR.search(selector)
        if not match:
            raise RefusedError("com.microsoft:argument-error", f"Unsupported selector: {selector}")
        name, operator, value = match.groups()
        if value == "@latest":
            return self.last + 1
        if value == "-1":
            return self.begin
        if name == "x-opt-enqueued-time":
            return self._number(bisect_right(self._times, int(value) - (operator == ">=")))
        if name == "x-opt-sequence-number":
            self._check(int(value) <= self.last + 1, name, value, str(self.last))
            return max(int(value) + (operator == ">"), self.begin)
        place = int(value.split(":")[1] if self._opaque else value)
        self._check(place <= self._size, name, value, self._offset(-1) if len(self) else str(self._size))
        return self._number(bisect_right(self._offsets, place - (operator == ">=")))

    def _check(self, valid: bool, name: str, value: str, known: str) -> None:
        if not valid:
            raise RefusedError(
                "com.microsoft:argument-error",
                f"The supplied {name[6:]} '{value}' is invalid. The last one in the system is '{known}'.",
            )

    def _number(self, index: int) -> int:
        return self._numbers[index] if index < len(self) else self.last + 1

    def _offset(self, index: int) -> str:
        """A string, as in the service; with geo-replication it is no number."""
        place = self._offsets[index]
        return f"0:{place}:{self._numbers[index]}" if self._opaque else str(place)

    def info(self) -> Pairs:
        return [
            ("name", string(self.hub)),
            ("type", string("com.microsoft:partition")),
            ("partition", string(self.id)),
            ("begin_sequence_number", long(self.begin)),
            ("last_enqueued_sequence_number", long(self.last)),
            ("last_enqueued_offset", string(self._offset(-1) if len(self) else "-1")),
            ("last_enqueued_time_utc", stamp(self._times[-1] if len(self) else _NEVER_MS)),
            ("is_partition_empty", boolean(not len(self))),
        ]

    def metric(self) -> bytes:
        """What a receiver that asked for runtime metrics gets beside each event."""
        return described(
            DELIVERY_ANN,
            map_of(
                [
                    (symbol("last_enqueued_sequence_number"), long(self.last)),
                    (symbol("last_enqueued_offset"), string(self._offset(-1))),
                    (symbol("last_enqueued_time_utc"), stamp(self._times[-1])),
                    (symbol("runtime_info_retrieval_time_utc"), stamp(now_ms())),
                ]
            ),
        )


@dataclass
class Hub:
    """One event hub; `groups` are its consumer groups in lower case."""

    name: str
    partitions: list[Partition]
    created: int
    groups: set[str] = field(default_factory=lambda: {"$default"})
    _robin: int = 0

    def partition(self, ident: str) -> Partition:
        if not ident.isdigit() or int(ident) >= len(self.partitions):
            raise RefusedError(
                "com.microsoft:argument-out-of-range",
                "The specified partition is invalid for an EventHub partition sender or receiver. "
                f"It should be between 0 and {len(self.partitions) - 1}.",
            )
        return self.partitions[int(ident)]

    def take(self, raw: Buffer, message_format: int, partition: Partition | None) -> Partition:
        """Store a message, or the messages of a batch; where they went."""
        parsed = sections(raw)
        notes = [decode(raw, value) for code, _, value, _ in parsed if code == MESSAGE_ANN]
        key = str(notes[0][_KEY]) if notes and notes[0].get(_KEY) is not None else None
        if partition is None:
            self._robin += 1
            place = self._robin if key is None else zlib.crc32(key.encode())
            partition = self.partitions[place % len(self.partitions)]
        if message_format == BATCH_FORMAT:
            for event in [decode(raw, value) for code, _, value, _ in parsed if code == DATA]:
                partition.append(event, key)
        else:
            partition.append(raw, key)
        return partition

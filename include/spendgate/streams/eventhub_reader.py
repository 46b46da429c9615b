"""Receiving a partition's events: a thread that keeps a link open, and hands over what comes in small pieces.

The service pushes events and says nothing at the end; links break, and a link that was opened again may bring events
a second time. So the reader knows which sequence number comes next and where to stop: what lies below is dropped, and
after a failure the link is opened again at exactly the next one.

Sequence numbers that don't come are a hole. Before one is believed the link is opened again; only if the service then
starts behind it once more is it handed over, with the piece that it lies before, for the read to ask whether
retention made it. On a link that has proved to have holes, compacted ones, further holes are handed over at once:
compaction leaves thousands, and a link keeps its order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from spendgate.errors import SpendGateError, TransientError
from spendgate.streams.base import PartitionRef
from spendgate.streams.eventhub_namespace import Namespace
from spendgate.streams.eventhub_transport import Message, Receiver, Wires, body_of, enqueued_ms_of, number_of

log = logging.getLogger(__name__)

# Events that the service may send ahead. With 20 ms to the service, 300 are read at 6,500/s, 1,000 at 9,500/s and
# 3,000 at 10,200/s; of events of 1 MB the client holds 44 MB with 300, 88 MB with 1,000 and 170 MB with 3,000.
_PREFETCH = 1_000
# The client keeps a tag of every event until its link is closed: 76 bytes each, measured.
_LINK_EVENTS = 300_000
# What is handed over in one piece, and what may wait to be taken: with a batch under way this is all we hold.
_PIECE_BYTES = 4 * 1024 * 1024
_WAITING_BYTES = 16 * 1024 * 1024
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0
_STOP_SECONDS = 2.0


@dataclass(slots=True)
class Piece:
    """Consecutive events as parallel lists, and `end`, the sequence number after them.

    `hole`: the first number that didn't come, if any before `end` didn't.
    """

    values: list[bytes | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    enqueued_ms: list[int] = field(default_factory=list)
    size: int = 0
    end: int = 0
    hole: int | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def split(self, count: int) -> Piece:
        """Cut off the first `count` events, which are returned with a hole of the whole."""
        at = self.numbers[count - 1] + 1
        values, self.values = self.values[:count], self.values[count:]
        numbers, self.numbers = self.numbers[:count], self.numbers[count:]
        stamps, self.enqueued_ms = self.enqueued_ms[:count], self.enqueued_ms[count:]
        size = sum(len(value or b"") for value in values)
        self.size -= size
        return Piece(values, numbers, stamps, size, at, self.hole)


class _OpenAgainError(Exception):
    """The link has to be opened again, at the next sequence number."""


class Reader(threading.Thread):
    """Receives a partition from sequence number `start` up to `end`, which isn't read any more."""

    def __init__(self, namespace: Namespace, partition: PartitionRef, start: int, end: int) -> None:
        super().__init__(name=f"eventhub-reader-{partition.stream}-{partition.partition}", daemon=True)
        self._namespace = namespace
        self._hub = partition.stream
        self._partition = partition.partition
        self._next = start
        self._end = end
        self._doubted: int | None = None  # a hole there made us open the link again
        self._has_holes = False
        self._pieces: deque[Piece] = deque()
        self._waiting = 0  # bytes in `_pieces`
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._trouble: SpendGateError | None = None  # the latest failure since an event came
        self._failed: SpendGateError | None = None  # what ended the thread
        self._wires: Wires | None = None

    # -- for the thread that reads

    def take(self, timeout: float) -> Piece:
        """The next piece.

        Raises:
            StreamUnavailableError: nothing came for `timeout` seconds.
            StreamUnknownError, StreamAccessError: what the service said to that.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._failed, timeout)
            if self._pieces:
                piece = self._pieces.popleft()
                self._waiting -= piece.size
                self._changed.notify_all()
                return piece
        raise self._failed or self._trouble or self._namespace.silence(self._hub, f"it owes event {self._next}")

    def stop(self) -> None:
        """End the thread: within moments, and if the client doesn't answer by shutting its sockets."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        if not self.is_alive():
            return
        self.join(_STOP_SECONDS)
        if self.is_alive():
            self._cut()
            self.join(_STOP_SECONDS)

    def _cut(self) -> None:
        if self._wires is not None:
            self._wires.cut()

    # -- the thread

    def run(self) -> None:
        """Keep a link open until everything came, or nothing more can come."""
        pause = _FIRST_PAUSE_SECONDS
        while self._next < self._end and not self._stopping.is_set():
            before = self._next
            try:
                self._follow_link()
            except _OpenAgainError:
                continue
            except TransientError as error:
                self._trouble = error
            except SpendGateError as error:
                self._fail(error)
                return
            pause = _FIRST_PAUSE_SECONDS if self._next > before else min(_LONGEST_PAUSE_SECONDS, pause * 2)
            self._stopping.wait(pause)

    def _follow_link(self) -> None:
        """Receive over one link, until everything came or it had its share of events."""
        self._wires = Wires()
        receiver: Receiver | None = None
        try:
            client = self._namespace.consumer(self._hub, self._wires)
            receiver = Receiver(client, self._namespace.group, self._partition, self._next, _PREFETCH)
            self._receive(receiver)
        except _OpenAgainError:
            raise
        except Exception as error:
            raise self._namespace.failure(error, self._hub, reading=True) from error
        finally:
            if receiver is not None:
                with suppress(Exception):  # it is given up, whatever it still has to say
                    receiver.close()

    def _receive(self, receiver: Receiver) -> None:
        first = self._next
        heard = time.monotonic()
        while self._next < min(self._end, first + _LINK_EVENTS) and not self._stopping.is_set():
            messages = receiver.receive()
            if messages:
                self._hand_over(messages)
                heard = time.monotonic()
            elif time.monotonic() - heard > self._namespace.timeout / 3:
                raise _OpenAgainError  # a session that the service has ended looks like this

    def _hand_over(self, messages: Iterable[Message]) -> None:
        piece = Piece(end=self._next)
        for message in messages:
            number = number_of(message)
            if number < self._next:
                continue
            if number > self._next:
                self._note_hole(piece)
            if number >= self._end:
                self._next = self._end
                break
            value = body_of(message)
            piece.values.append(value)
            piece.numbers.append(number)
            piece.enqueued_ms.append(enqueued_ms_of(message))
            piece.size += len(value or b"")
            self._next = number + 1
            if piece.size >= _PIECE_BYTES:
                self._put(piece)
                piece = Piece(end=self._next)
        self._put(piece)

    def _note_hole(self, piece: Piece) -> None:
        if not self._has_holes and self._doubted != self._next:
            self._put(piece)
            self._doubted = self._next
            raise _OpenAgainError
        self._has_holes = True
        if piece.hole is None:
            piece.hole = self._next

    def _put(self, piece: Piece) -> None:
        """Hand over a piece that moves on, when there is room for it."""
        if self._next == piece.end:
            return
        piece.end = self._next
        with self._changed:
            self._changed.wait_for(lambda: self._waiting < _WAITING_BYTES or self._stopping.is_set())
            self._pieces.append(piece)
            self._waiting += piece.size
            self._trouble = None
            self._changed.notify_all()

    def _fail(self, error: SpendGateError) -> None:
        with self._changed:
            self._failed = error
            self._changed.notify_all()

"""A folder of files as a stream of bounded reads; each file is a partition.

So a file is read once, however often it is listed, and one that comes late under an early name isn't missed. A file's
incarnation is its size with its time or entity tag: one that grew or was replaced is read again from its beginning, as
a new epoch, which changes nothing downstream but for rejected events.

Positions are `1234`, the number of the next record, and `1234 end` once the file was read to its end, so that the books
alone tell which files are finished. A batch is handed out only if its file is the version that was listed, asked after
the batch was read: no record is made of bytes of two versions, and no file is finished that grew meanwhile.

A file that was begun and is gone, unfinished, is a gap: what was left of it is lost.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from spendgate.clock import Clock, utc_now
from spendgate.errors import ConfigurationError, PermanentError
from spendgate.streams.base import BoundedRead, PartitionRef, RecordBatch, StoredPositions
from spendgate.streams.file_folders import Folder, FoundFile, OpenFile
from spendgate.streams.file_formats import Reader, complaint, reader_of
from spendgate.streams.file_records import DamageError, Piece
from spendgate.streams.local_files import LocalFolder

_POSITION = re.compile(r"([0-9]+)( end)?")
_END = " end"

# A batch ends early at this size (and a piece of a file, which is 64 MB at most and mostly below one).
_BATCH_BYTES = 32 * 1024 * 1024
# Looking takes at most one part of so many of the time, so that a folder of a million files, or a store that asks for
# money for each listing, isn't listed twice a second: a folder listed in 25 ms is, one that takes 1 s is each 20 s.
_LOOK_SHARE = 20
_NO_SUCH_NAME = "its name isn't UTF-8 or it is a link to nothing: rename it, mend it or remove it"


class FilesStream:
    """The folder `name` under `url`, a directory or a URL that fsspec knows, as a Stream.

    Args:
        name: of the stream, and of its folder.
        url: absolute path, file:// or another of fsspec's URLs.
        options: of the file system.
        settle: a file that was changed less than this ago may still be written and is left for later.
        timeout: seconds to wait for an answer of an object store.
    """

    def __init__(
        self,
        name: str,
        url: str,
        options: Mapping[str, Any],
        *,
        settle: timedelta,
        timeout: float = 15.0,
        clock: Clock = utc_now,
    ) -> None:
        self._name = name
        self._url = url
        self._options = options
        self._settle_ms = settle // timedelta(milliseconds=1)
        self._timeout = timeout
        self._clock = clock
        self._opened: Folder | None = None
        self._seen = _Unread([], [])
        self._look_again = 0.0

    @property
    def name(self) -> str:
        return self._name

    def partitions(self) -> list[PartitionRef]:
        """The files that can be read, in path order.

        Raises:
            StreamUnknownError, StreamUnavailableError, StreamAccessError, ConfigurationError
        """
        refs = map(self._ref, self._settled(self._folder().look()))
        return [ref for ref in refs if ref.incarnation]

    def unread(self, stored: StoredPositions) -> list[PartitionRef]:
        """Files that aren't finished, in path order, then those that were begun and are gone.

        Among them are those that can't be read for their name: reading one tells what to do. Raises as `partitions`.
        """
        return self._refs(_find_unread(self._folder().look(), stored), stored)

    def news(self, stored: StoredPositions) -> dict[str, str]:
        """Files that aren't finished, or were begun and are gone, with their incarnation.

        A folder that takes long to list is listed less often, and what was unread then stands in. Raises as
        `partitions`.
        """
        if time.monotonic() >= self._look_again:
            begun = time.monotonic()
            self._seen = _find_unread(self._folder().look(), stored)
            ended = time.monotonic()
            self._look_again = ended + (ended - begun) * (_LOOK_SHARE - 1)
        return {ref.partition: ref.incarnation for ref in self._refs(self._seen, stored) if ref.incarnation}

    def close(self) -> None:
        """Give up what `news` saw, and the file system."""
        self._opened = None
        self._seen = _Unread([], [])
        self._look_again = 0.0

    @contextmanager
    def read(self, partition: PartitionRef, position: str | None) -> Iterator[BoundedRead]:
        """Open a bounded read of a file at `position`, or at its beginning if it is None.

        Raises:
            StreamChangedError: it is another file than was listed; the next run sees it.
            PermanentError: it can't be read.
            StreamUnknownError, StreamUnavailableError, StreamAccessError, ConfigurationError: as `partitions`.
        """
        what = f"{partition.partition} of the stream {self._name}"
        start, finished = _parse(what, position)
        if finished:
            yield _finished(str(position))
            return
        reader = reader_of(partition.partition)
        if reader is None or not partition.incarnation:
            why = complaint(partition.partition) or _NO_SUCH_NAME
            raise PermanentError(f"{what} can't be read, since {why}.")
        file = self._folder().open(partition.partition, partition.incarnation)
        if file is None:
            yield _gone(start)
            return
        try:
            yield FileRead(what, file, reader, start)
        finally:
            file.close()

    def _folder(self) -> Folder:
        if self._opened is None:
            self._opened = _open_folder(self._url, self._options, self._name, self._timeout)
        return self._opened

    def _settled(self, found: list[FoundFile]) -> list[FoundFile]:
        now_ms = round(self._clock().timestamp() * 1000)
        # By a clock that goes ahead of ours a file may be of the future: that tells nothing about when it was written,
        # and it mustn't wait until then.
        return [file for file in found if abs(now_ms - file.modified_ms) >= self._settle_ms]

    def _refs(self, unread: _Unread, stored: StoredPositions) -> list[PartitionRef]:
        """What of it is still unread, as partitions."""
        files = [file for file in unread.files if not _is_read(file, stored)]
        gone = [path for path in unread.gone if path in stored and not _is_finished(stored[path].position)]
        return [
            *map(self._ref, self._settled(files)),
            *(PartitionRef(self._name, path, stored[path].incarnation) for path in gone),
        ]

    def _ref(self, file: FoundFile) -> PartitionRef:
        """The file as a partition; its incarnation is "" if nothing can read it."""
        # A name that isn't UTF-8 goes into no table and no log: it is spelled with escapes.
        path = file.path.encode("utf-8", "backslashreplace").decode()
        return PartitionRef(self._name, path, file.identity if complaint(file.path) is None else "")


@dataclass(frozen=True, slots=True)
class _Unread:
    """What a look at a folder found unread: files, and the paths of those that were begun and are gone."""

    files: list[FoundFile]
    gone: list[str]


def _find_unread(found: list[FoundFile], stored: StoredPositions) -> _Unread:
    there = {file.path for file in found}
    gone = (
        path
        for path, known in stored.items()
        # A stream that was a topic before has the topic's partitions in the books, too.
        if path not in there and not _is_finished(known.position) and reader_of(path) is not None
    )
    return _Unread([file for file in found if not _is_read(file, stored)], sorted(gone))


def _is_read(file: FoundFile, stored: StoredPositions) -> bool:
    known = stored.get(file.path)
    return known is not None and known.incarnation == file.identity and _is_finished(known.position)


class FileRead:
    """A BoundedRead of one file, from record `start` to its end; made by `FilesStream.read`."""

    def __init__(self, what: str, file: OpenFile, reader: Reader, start: int) -> None:
        self._what = what
        self._file = file
        self._reader = reader
        self._start = start

    @property
    def start(self) -> str:
        return str(self._start)

    @property
    def lost(self) -> tuple[str, str] | None:
        return None

    def batches(self, limit: int) -> Iterator[RecordBatch]:
        """Batches of at most `limit` records (and about 32 MB), in order; the last one's position says that it is.

        Raises:
            StreamChangedError: the file was written to meanwhile; the next run sees it as another one.
            StreamUnavailableError, StreamAccessError: its store is away, or refuses us.
            PermanentError: it is damaged; what lies before the damage was handed out.
        """
        if limit < 1:
            raise ValueError("limit must be at least 1")
        for batch, why in self._read(limit):
            self._file.require_unchanged()
            if why is not None:
                raise PermanentError(
                    f"{self._what} {why}, at record {batch.next_position}; what stands before was read. Replace the "
                    "file by a whole one, or move it away and accept the gap (docs/runbook.md, stream gap)."
                )
            yield batch

    def commit(self, position: str) -> None:
        """Nobody but the books keeps positions of files."""

    def _read(self, limit: int) -> Iterator[tuple[RecordBatch, str | None]]:
        """Batches that aren't checked yet; with the last one, which is empty then, why the file can't be read on."""
        held = _Held(self._start)
        try:
            for piece in self._reader(self._file, self._start, self._file.modified_ms):
                held.add(piece)
                while len(held.values) > limit:
                    yield held.take(limit), None
                if held.size >= _BATCH_BYTES:
                    yield held.take(limit), None
        except DamageError as error:
            if held.values:
                yield held.take(limit), None
            yield held.take(limit), str(error)
            return
        if held.next_number < self._start:
            yield held.take(limit), f"has {held.next_number:,} records, less than were read of it"
            return
        last = held.take(limit)
        yield replace(last, next_position=last.next_position + _END), None


class _Held:
    """Records of a file that were read and not handed out yet."""

    def __init__(self, start: int) -> None:
        self.values: list[bytes | None] = []
        self.size = 0
        self.next_number = start
        self._numbers: list[int] = []
        self._enqueued_ms: list[int] = []

    def add(self, piece: Piece) -> None:
        self.values += piece.values
        self._numbers += piece.numbers
        self._enqueued_ms += piece.enqueued_ms
        self.size += piece.size
        self.next_number = piece.next_number

    def take(self, limit: int) -> RecordBatch:
        """The first `limit` records, or all that are there; what reads on begins behind them."""
        values, self.values = self.values[:limit], self.values[limit:]
        numbers, self._numbers = self._numbers[:limit], self._numbers[limit:]
        enqueued_ms, self._enqueued_ms = self._enqueued_ms[:limit], self._enqueued_ms[limit:]
        # What is held over is less than a piece.
        self.size = sum(len(value) for value in self.values if value is not None)
        next_number = numbers[-1] + 1 if self.values else self.next_number
        return RecordBatch(values, list(map(str, numbers)), enqueued_ms, str(next_number))


class _Settled:
    """A BoundedRead of a file that has nothing to read: it is finished, or gone."""

    def __init__(self, start: str, lost: tuple[str, str] | None, end: str | None) -> None:
        self._start = start
        self._lost = lost
        self._end = end

    @property
    def start(self) -> str:
        return self._start

    @property
    def lost(self) -> tuple[str, str] | None:
        return self._lost

    def batches(self, limit: int) -> Iterator[RecordBatch]:
        """An empty batch that moves the position to the file's end, if it isn't there."""
        if self._end is not None:
            yield RecordBatch([], [], [], self._end)

    def commit(self, position: str) -> None:
        """As `FileRead.commit`."""


def _finished(position: str) -> _Settled:
    return _Settled(position, None, None)


def _gone(start: int) -> _Settled:
    """What was left of a file that nobody can read any more is lost; a person accepts that, then it is finished."""
    return _Settled(str(start), (str(start), "end"), f"{start}{_END}")


def _is_finished(position: str | None) -> bool:
    return position is not None and position.endswith(_END)


def _parse(what: str, position: str | None) -> tuple[int, bool]:
    """The number of the next record, and whether the file is finished."""
    if position is None:
        return 0, False
    match = _POSITION.fullmatch(position)
    if match is None:
        raise PermanentError(f"{position!r} is no position in {what}: correct etl.StreamPosition by hand.")
    return int(match[1]), match[2] is not None


def _open_folder(url: str, options: Mapping[str, Any], name: str, timeout: float) -> Folder:
    scheme, colon, path = url.partition("://")
    if colon and scheme not in ("file", "local"):
        # fsspec and its file systems take a second to load, which nobody pays who reads directories.
        from spendgate.streams.store_files import open_store

        return open_store(url, options, name, timeout=timeout)
    directory = os.path.expanduser(path if colon else url)
    if not os.path.isabs(directory):
        raise ConfigurationError(
            f"Set SPENDGATE_FILES_URL to an absolute path: {url} is another directory for every process."
        )
    return LocalFolder(os.path.join(directory, name))

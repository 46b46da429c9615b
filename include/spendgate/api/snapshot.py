"""All flags as one statement saw them, kept as the bytes that are answered.

A flag is a few hundred bytes of JSON, in pieces of a thousand; an index says where each begins. So a hundred thousand
flags take 25 MB, not the 150 that their rows would; the list of all of them is the pieces one after another, and every
answer sends these very pieces: however many ask and however slowly they read, nothing is there twice.
"""

from __future__ import annotations

import mmap
import threading
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate, chain, islice
from typing import Any

import msgspec
from sqlalchemy import Row

from spendgate.api.flags import Flag, FlagList, as_stale, read_flag, unknown_flag
from spendgate.warehouse.engine import as_utc

# As many as are read from the warehouse, are bytes in one piece, and wait in a connection's buffer at a time.
FLAGS_A_PIECE = 1_000
# Of a 20 MB list: 5 makes it 2% smaller than 1, and takes three times as long.
GZIP_LEVEL = 1
# gzip's own framing, in zlib's words.
_GZIP_WINDOW = 31
_LEAST_ZIPPED_PIECE = 128 * 1024
# Lists of selected fields that are kept as bytes: who asks for some asks for the same again.
MOST_SELECTIONS = 2
# Changes of more than half of so many flags are sent as the whole list, which is there already.
FEW_FLAGS = 1_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Flag)
_list_decoder = msgspec.json.Decoder(list[Flag])


def micros(instant: datetime) -> int:
    """Whole microseconds since 1970."""
    return (instant - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=64)
def _stored_micros(stored: datetime) -> int:
    return micros(as_utc(stored))


def zip_parts(parts: Iterable[Part]) -> tuple[bytes, ...]:
    """The same, gzipped: parts of one stream."""
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=_GZIP_WINDOW)
    made: list[bytes] = []
    waiting: list[bytes] = []
    for part in parts:
        waiting.append(compressor.compress(part))
        if sum(map(len, waiting)) >= _LEAST_ZIPPED_PIECE:
            made.append(b"".join(waiting))
            waiting.clear()
    waiting.append(compressor.flush())
    return (*made, b"".join(waiting))


# Of a body. A view is of pages that are the system's again as soon as nobody sends them; on the heap what slow readers
# free late would stay.
Part = bytes | memoryview


@dataclass(slots=True)
class Rendered:
    """The whole list as bytes; right until `until` (as `micros`), when the next flag becomes stale."""

    etag: str
    parts: tuple[Part, ...]
    until: int | None
    _zipped: tuple[bytes, ...] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def zipped_at_hand(self) -> tuple[bytes, ...] | None:
        """The list gzipped, if it was made already."""
        return self._zipped

    def zipped(self) -> tuple[bytes, ...]:
        """The list gzipped, made once."""
        with self._lock:
            if self._zipped is None:
                self._zipped = zip_parts(self.parts)
            return self._zipped


@lru_cache(maxsize=32)
def _selection(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Reads of flags only these fields, in this order, each as the bytes that it is."""
    return msgspec.json.Decoder(list[msgspec.defstruct("Selected", [(name, msgspec.Raw) for name in names])])  # type: ignore[misc]  # made at run time


@dataclass(slots=True)
class Snapshot:
    """All flags of one instant, by advertiser; made by `pack`."""

    state: tuple[Any, ...]
    version: int
    max_age: timedelta
    _ids: array[int]  # ascending
    _starts: array[int]  # where each begins in its piece
    _decided: array[int]  # as_of, as `micros`
    _pieces: list[Part]
    _oldest: int | None
    _rendered: dict[tuple[str, ...], Rendered] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def pack(cls, state: tuple[Any, ...], pages: Iterator[Sequence[Row[Any]]], max_age: timedelta) -> Snapshot:
        """Rows of sql/api/list_flags, in pages of any length, as bytes."""
        ids, starts, decided = array("l"), array("l"), array("q")
        pieces: list[Part] = []
        version, rows = 0, chain.from_iterable(pages)
        while some := list(islice(rows, FLAGS_A_PIECE)):
            version = int(some[-1].last_change)
            told = [_encoder.encode(read_flag(row)) + b"," for row in some]
            ids.extend(row.advertiser_id for row in some)
            starts.extend(accumulate(map(len, told[:-1]), initial=0))
            decided.extend(_stored_micros(row.as_of) for row in some)
            pieces.append(_hold(told))
        if pieces:
            pieces[-1] = pieces[-1][:-1]
        return cls(state, version, max_age, ids, starts, decided, pieces, min(decided, default=None))

    def __len__(self) -> int:
        return len(self._ids)

    def flag(self, advertiser_id: int, now: datetime) -> bytes:
        """The flag to go by, as JSON."""
        index = self._find(advertiser_id)
        if index is None:
            return _encoder.encode(unknown_flag(advertiser_id))
        return self._flag(index, self._fresh_from(now))

    def has_stale(self, now: datetime) -> bool:
        """Whether any flag is too old to go by."""
        return self._oldest is not None and self._oldest < self._fresh_from(now)

    def some(self, advertisers: Iterable[int], now: datetime, *, complete: bool, names: tuple[str, ...] = ()) -> bytes:
        """A list of these advertisers' flags, of those that have one, in the order of their ids."""
        fresh_from = self._fresh_from(now)
        found: list[bytes] = []
        for advertiser in sorted(advertisers):
            index = self._find(advertiser)
            if index is not None:
                found.append(self._flag(index, fresh_from))
        flags = b",".join(found)
        head, tail = self._frame(complete)
        return b"".join((head, _select(flags, names) if names else flags, tail))

    def is_most(self, advertisers: set[int]) -> bool:
        """Whether a list of these would be long, and most of the whole one."""
        return len(advertisers) > FEW_FLAGS and 2 * len(advertisers) > len(self)

    def rendered_at_hand(self, now: datetime, names: tuple[str, ...] = ()) -> Rendered | None:
        """The whole list, of all fields or these, if it was made into bytes already and is still right."""
        made = self._rendered.get(names)
        return made if made is not None and (made.until is None or self._fresh_from(now) <= made.until) else None

    def rendered(self, now: datetime, names: tuple[str, ...] = ()) -> Rendered:
        """The whole list as bytes, of all fields or these, made once."""
        with self._lock:
            made = self.rendered_at_hand(now, names)
            if made is None:
                made = self._render(now, names)
                selections = [key for key in self._rendered if key]
                if names and names not in selections and len(selections) >= MOST_SELECTIONS:
                    del self._rendered[selections[0]]
                self._rendered[names] = made
            return made

    def _fresh_from(self, now: datetime) -> int:
        return micros(now - self.max_age)

    def _find(self, advertiser_id: int) -> int | None:
        index = bisect_left(self._ids, advertiser_id)
        return index if index < len(self._ids) and self._ids[index] == advertiser_id else None

    def _flag(self, index: int, fresh_from: int) -> bytes:
        piece, place = divmod(index, FLAGS_A_PIECE)
        start = self._starts[index]
        last = place == FLAGS_A_PIECE - 1 or index == len(self._ids) - 1
        end = None if last else self._starts[index + 1]
        told = bytes(self._pieces[piece][start:end]).removesuffix(b",")
        return told if self._decided[index] >= fresh_from else _encoder.encode(as_stale(_decoder.decode(told)))

    def _frame(self, complete: bool) -> tuple[bytes, bytes]:
        told = _encoder.encode(FlagList(self.version, complete, []))
        return told[:-2], told[-2:]

    def _render(self, now: datetime, names: tuple[str, ...]) -> Rendered:
        fresh_from = self._fresh_from(now)
        pieces: Iterable[Part] = self._pieces
        stale, until = 0, self._oldest
        if self.has_stale(now):
            stale = sum(decided < fresh_from for decided in self._decided)
            until = min((decided for decided in self._decided if decided >= fresh_from), default=None)
            pieces = [self._with_stale(number, fresh_from) for number in range(len(self._pieces))]
        if names:
            pieces = [_select(piece, names) for piece in pieces]
        head, tail = self._frame(True)
        etag = '"' + "-".join(str(part) for part in (*self.state, self.version, stale, *names)) + '"'
        return Rendered(etag, (head, *pieces, tail), until)

    def _with_stale(self, number: int, fresh_from: int) -> Part:
        """A piece with its stale flags saying so; itself when there are none."""
        first = number * FLAGS_A_PIECE
        decided = self._decided[first : first + FLAGS_A_PIECE]
        piece = self._pieces[number]
        if min(decided) >= fresh_from:
            return piece
        flags = _list_decoder.decode(_as_list(piece))
        told = [flag if at >= fresh_from else as_stale(flag) for flag, at in zip(flags, decided, strict=True)]
        return _as_piece(told, piece)


def _hold(parts: Sequence[bytes]) -> Part:
    """These bytes, in pages of their own."""
    pages = mmap.mmap(-1, sum(map(len, parts)), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for part in parts:
        pages.write(part)
    return memoryview(pages).toreadonly()


def _as_list(piece: Part) -> bytes:
    return b"".join((b"[", piece[:-1] if _goes_on(piece) else piece, b"]"))


def _as_piece(flags: Sequence[Any], like: Part) -> bytes:
    return _encoder.encode(flags)[1:-1] + (b"," if _goes_on(like) else b"")


def _goes_on(piece: Part) -> bool:
    return bytes(piece[-1:]) == b","


def _select(piece: Part, names: tuple[str, ...]) -> bytes:
    return _as_piece(_selection(names).decode(_as_list(piece)), piece)

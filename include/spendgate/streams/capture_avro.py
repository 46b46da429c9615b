"""Records of Avro files as Event Hubs Capture writes them: body and time of each event, a record an event.

The container (blocks, their compression and checksums) is walked here, and fastavro decodes what the blocks hold: by
itself it takes a file that ends inside a block's length for a whole one, doesn't look at checksums, and expands a block
to any size. So fastavro is given the same file without compression, block by block.

Formats: Apache Avro 1.12, "Object Container Files"; schema and times as in Azure's "Explore captured Avro files".
IoT Hub's routed messages have the two fields that are needed here too.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import fastavro
from cramjam import DecompressionError, snappy

from spendgate.streams.file_records import DamageError, ExactReader, Piece, Source

BODY = "Body"
ENQUEUED = "EnqueuedTimeUtc"

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
# Capture's blocks hold some hundred events, and an event is 1 MB at most (20 MB on dedicated clusters).
_MOST_BLOCK_BYTES = 64 * 1024 * 1024
_MOST_HEADER_BYTES = 1024 * 1024
_LONGEST_LONG = 10
_BODY_TYPES = frozenset({bytes, type(None)})

# As .NET writes a time for Americans: `11/16/2016 4:44:11 PM`, month first. Later versions of it put another blank
# before the half of the day.
_AMERICAN = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d\d):(\d\d)\s([AP])M")
# As IoT Hub does: `2018-07-05T15:11:42.6850000Z`.
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


def read_capture(source: Source, start: int) -> Iterator[Piece]:
    """The events of a file from record `start` on, a piece a block, then an empty one that tells how many there are.

    A block is handed out whole or, if anything in it is damaged, not at all.

    Raises:
        DamageError: the file is damaged, or none of Capture's; and whatever `source` raises. Everything before was
            handed out.
    """
    file = ExactReader(source)
    if not (magic := file.take_up_to(len(_MAGIC))):
        yield Piece([], [], [], 0, 0)
        return
    if magic != _MAGIC:
        raise DamageError("is no Avro file")
    container = _Container(file, start)
    try:
        blocks = fastavro.block_reader(container)  # type: ignore[arg-type]  # it calls nothing but `read` and `tell`
    except Exception as error:  # fastavro's errors have nothing in common
        raise DamageError(f"has a schema that can't be read ({type(error).__name__})") from error
    _require_capture(blocks.writer_schema)
    times: dict[object, int] = {}
    for block in blocks:
        values, enqueued_ms = _decode(block, times)
        skipped = max(0, start - container.first)
        numbers = range(container.first, container.next)[skipped:]
        size = sum(len(value) for value in values if value is not None)
        yield Piece(values[skipped:], numbers, enqueued_ms[skipped:], container.next, size)
    yield Piece([], [], [], container.next, 0)


class _Container:
    """The file as fastavro is to see it: a header that names no compression, then the blocks, expanded.

    Blocks that lie before `start` are left out. `first` is the number of the first record of the latest block, `next`
    the one behind its last.
    """

    def __init__(self, file: ExactReader, start: int) -> None:
        self._file = file
        self._start = start
        meta = _read_header(file)
        self._codec = meta.get(b"avro.codec", b"null").decode("ascii", "replace")
        if self._codec not in ("null", "deflate", "snappy"):
            raise DamageError(f"is compressed by {self._codec}, not by deflate or snappy")
        self._sync = file.take(_SYNC_BYTES)
        schema = _sized(b"avro.schema") + _sized(meta.get(b"avro.schema", b""))
        self._view = BytesIO(_MAGIC + _long(1) + schema + _long(0) + self._sync)
        self.first = 0
        self.next = 0

    def read(self, size: int) -> bytes:
        """Bytes of the header or of one block, across which fastavro never asks; none at the end."""
        taken = self._view.read(size)
        if not taken and size and self._load():
            taken = self._view.read(size)
        return taken

    def tell(self) -> int:
        """fastavro notes where its blocks are; nobody asks it."""
        return 0

    def _load(self) -> bool:
        """Make the next block that has records for us the view; False at the end of the file."""
        while beginning := self._file.take_up_to(1):
            count = _read_long(self._file, beginning)
            size = _read_long(self._file)
            if count < 0 or not 0 <= size <= _MOST_BLOCK_BYTES:
                raise DamageError("has a block of impossible size")
            content = self._file.take(size)
            if self._file.take(_SYNC_BYTES) != self._sync:
                raise DamageError("has a block that doesn't end where it should")
            self.first, self.next = self.next, self.next + count
            if self.next > self._start:
                self._view = BytesIO(_long(count) + _sized(_expand(content, self._codec)) + self._sync)
                return True
        return False


def _decode(block: Any, times: dict[object, int]) -> tuple[list[bytes | None], list[int]]:
    """Bodies and times (milliseconds since 1970, UTC) of a block; `times` are those that were read already."""
    try:
        pairs = [(record[BODY], record[ENQUEUED]) for record in block]
    except Exception as error:  # as above
        raise DamageError(f"has a block that can't be decoded ({type(error).__name__})") from error
    if block.bytes_.read(1):
        raise DamageError("has a block that holds more than its records")
    values = [value for value, _ in pairs]
    if not {type(value) for value in values} <= _BODY_TYPES:
        raise DamageError(f"has a {BODY} that isn't bytes: it is no file of Event Hubs Capture")
    for text in {text for _, text in pairs} - times.keys():
        times[text] = _parse_time(text)
    return values, [times[text] for _, text in pairs]


def _require_capture(schema: Any) -> None:
    fields = schema.get("fields", ()) if isinstance(schema, dict) else ()
    names = {field.get("name") for field in fields}
    if missing := [name for name in (BODY, ENQUEUED) if name not in names]:
        raise DamageError(f"has no field {' or '.join(missing)}: it is no file of Event Hubs Capture")


def _parse_time(text: object) -> int:
    """Milliseconds since 1970 of a time as Azure writes it."""
    try:
        if match := _AMERICAN.fullmatch(str(text)):
            month, day, year, hour, minute, second = map(int, match.groups()[:6])
            if not 1 <= hour <= 12:
                raise ValueError("hour")
            hour = hour % 12 + (12 if match[7] == "P" else 0)
            return round(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()) * 1000
        if match := _ISO.fullmatch(str(text)):
            whole = round(datetime.fromisoformat(f"{match[1]}+00:00").timestamp())
            return whole * 1000 + int(((match[2] or "") + "000")[:3])
    except ValueError as error:
        raise DamageError(f"has an {ENQUEUED} that is no time: {str(text)[:40]!r}") from error
    raise DamageError(f"has an {ENQUEUED} that is no time: {str(text)[:40]!r}")


# --- The container -----------------------------------------------------------------------------------------


def _read_header(file: ExactReader) -> dict[bytes, bytes]:
    """The metadata of an Avro file, from behind its magic number up to its synchronization marker."""
    meta: dict[bytes, bytes] = {}
    while count := _read_long(file):
        if count < 0:  # then the size of the entries in bytes stands before them
            _read_long(file)
        for _ in range(abs(count)):
            key = _read_sized(file)
            meta[key] = _read_sized(file)
    return meta


def _read_sized(file: ExactReader) -> bytes:
    size = _read_long(file)
    if not 0 <= size <= _MOST_HEADER_BYTES:
        raise DamageError("has a header of impossible size")
    return file.take(size)


def _read_long(file: ExactReader, beginning: bytes = b"") -> int:
    """A zigzag number of variable length, whose first byte may have been read already."""
    result = 0
    for shift in range(0, 7 * _LONGEST_LONG, 7):
        (byte,) = beginning or file.take(1)
        beginning = b""
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (result >> 1) ^ -(result & 1)
    raise DamageError("has a number of impossible length")


def _long(number: int) -> bytes:
    rest = number << 1
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _sized(content: bytes) -> bytes:
    return _long(len(content)) + content


def _expand(content: bytes, codec: str) -> bytes:
    if codec == "deflate":
        return _inflate(content)
    return _unsnap(content) if codec == "snappy" else content


def _inflate(content: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        expanded = inflater.decompress(content, _MOST_BLOCK_BYTES)
    except zlib.error as error:
        raise DamageError(f"has a block that can't be expanded ({error})") from error
    if not inflater.eof:  # some writers leave a checksum behind it, which Avro doesn't know
        raise DamageError("has a block that can't be expanded to its end")
    return expanded


def _unsnap(content: bytes) -> bytes:
    body, checksum = content[:-4], content[-4:]
    try:
        if snappy.decompress_raw_len(body) > _MOST_BLOCK_BYTES:
            raise DamageError("has a block of impossible size")
        expanded = bytes(snappy.decompress_raw(body))
    except DecompressionError as error:
        raise DamageError(f"has a block that can't be expanded ({error})") from error
    if zlib.crc32(expanded).to_bytes(4, "big") != checksum:
        raise DamageError("has a block with a wrong checksum")
    return expanded

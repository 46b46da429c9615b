"""Records of JSON lines: each line but empty ones, byte for byte without its newline.

A record's number is that of its line, empty lines counted, from 0. The last line needs no newline. A carriage return
before the newline stays: to JSON it is a blank. A byte order mark at the beginning is no part of the first line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from spendgate.streams.file_records import DamageError, Piece

# What `publish` and Kafka take at most (spendgate.streams.publish_file). Chunks are smaller than that, so a line that
# is too long lies at an end of one, and it is told of before it fills the memory.
MAX_LINE_BYTES = 1_000_000

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What no line of JSON begins with: a file under a wrong name is one error, not a million rejected events.
FOREIGN = {
    b"\x1f\x8b": "is compressed by gzip: add .gz to its name",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: add .zst to its name",
    b"Obj\x01": "is Avro: let its name end in .avro",
    b"PK\x03\x04": "is a zip archive: unpack it",
    b"\xff\xfe": "is UTF-16: convert it to UTF-8",
    b"\xfe\xff": "is UTF-16: convert it to UTF-8",
}


def read_lines(chunks: Iterable[bytes], start: int, enqueued_ms: int) -> Iterator[Piece]:
    """The lines of a file from line `start` on, then an empty piece that tells how many lines there are.

    Args:
        chunks: the file's content, each less than `MAX_LINE_BYTES`.
        start: number of the first line to hand out.
        enqueued_ms: of every line, milliseconds since 1970, UTC.

    Raises:
        DamageError: a line is too long, or the file is something else; and whatever `chunks` raises. Everything
            before was handed out.
    """
    number = 0
    rest = b""
    for chunk in chunks:
        if not number and not rest:
            _refuse_foreign(chunk)
        content = rest + chunk if rest else chunk
        lines = content.split(b"\n")
        rest = lines.pop()
        if lines:
            _require_bounded(lines[0])
            if number + len(lines) > start:
                yield _piece(lines, number, start, enqueued_ms, len(content))
            number += len(lines)
        _require_bounded(rest)
    if rest:
        if number >= start:
            yield _piece([rest], number, start, enqueued_ms, len(rest))
        number += 1
    yield Piece([], [], [], number, 0)


def _piece(lines: list[bytes], number: int, start: int, enqueued_ms: int, size: int) -> Piece:
    numbers: Sequence[int] = range(number, number + len(lines))
    end = numbers[-1] + 1
    if not number:
        lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
    if start > number:
        lines, numbers = lines[start - number :], numbers[start - number :]
    if b"" in lines or b"\r" in lines:
        numbers = [at for at, line in zip(numbers, lines, strict=True) if line not in (b"", b"\r")]
        lines = [line for line in lines if line not in (b"", b"\r")]
    return Piece([*lines], numbers, [enqueued_ms] * len(lines), end, size)


def _require_bounded(line: bytes) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise DamageError(f"has a line of more than {MAX_LINE_BYTES:,} bytes")


def _refuse_foreign(chunk: bytes) -> None:
    for beginning, remedy in FOREIGN.items():
        if chunk.startswith(beginning):
            raise DamageError(remedy)

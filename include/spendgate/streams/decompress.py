"""The content of a file in chunks of bounded size, whatever it expands to: plain, gzip, zstd.

A file may be several compressed ones behind each other, as `cat` and log rotation make them. One that is cut off, or
whose checksum is wrong, raises DamageError after everything that was read before; zeros behind the last gzip member are
padding, as tar and tapes leave it.

Formats: RFC 1952 (gzip), RFC 8878 (zstd).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import zstandard

from spendgate.streams.file_records import READ_BYTES, DamageError, ExactReader, Source

# Handed on at once. Three times as much is split into lines half as fast (0.7 against 1.7 million/s): the allocator
# gives pieces of that size back to the system each time.
CHUNK_BYTES = 256 * 1024

_GZIP_MEMBER = 31  # zlib's way to ask for gzip's header, trailer and checksum

_ZSTD_MAGIC = 0xFD2FB528
_SKIPPED_MAGIC = 0x184D2A50  # its last 4 bits are the writer's
_ZSTD_BLOCK_BYTES = 128 * 1024
# What zstd itself allows unless told otherwise; `--long=31` asks for 2 GB of memory.
_ZSTD_WINDOW_BYTES = 128 * 1024 * 1024


def read_plain(source: Source) -> Iterator[bytes]:
    """The content as it stands."""
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


def gunzip(source: Source) -> Iterator[bytes]:
    """The content of a file of gzip members."""
    data = source.read(READ_BYTES)
    while data:
        inflater = zlib.decompressobj(_GZIP_MEMBER)
        while not inflater.eof:
            try:
                chunk = inflater.decompress(data, CHUNK_BYTES)
            except zlib.error as error:
                raise DamageError(f"isn't whole gzip ({error})") from error
            if chunk:
                yield chunk
            data = inflater.unconsumed_tail
            # A full chunk may have left something in the inflater although it took all of its input.
            if not data and len(chunk) < CHUNK_BYTES and not inflater.eof:
                data = source.read(READ_BYTES)
                if not data:
                    raise DamageError("is cut off")
        data = _skip_padding(inflater.unused_data, source)


def _skip_padding(data: bytes, source: Source) -> bytes:
    while not (data := data.lstrip(b"\0")):
        if not (data := source.read(READ_BYTES)):
            return b""
    return data


def unzstd(source: Source) -> Iterator[bytes]:
    """The content of a file of zstd frames.

    The file is walked block by block: the library doesn't say whether a frame was whole, and a block is the most that
    it should expand at once.
    """
    file = ExactReader(source)
    while magic := file.take_up_to(4):
        number = int.from_bytes(magic, "little")
        if number == _ZSTD_MAGIC:
            yield from _frame(file, magic)
        elif number & ~0xF == _SKIPPED_MAGIC:
            for _ in _pieces(file, int.from_bytes(file.take(4), "little")):
                pass
        else:
            raise DamageError("isn't whole zstd (no frame begins where one should)")


def _frame(file: ExactReader, magic: bytes) -> Iterator[bytes]:
    """The content of one frame whose magic number was read."""
    frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
    try:
        frame.decompress(magic)
        descriptor = file.take(1)
        frame.decompress(descriptor + file.take(_rest_of_header(descriptor[0])))
        last = False
        while not last:
            header = file.take(3)
            number = int.from_bytes(header, "little")
            last = bool(number & 1)
            size = number >> 3
            if size > _ZSTD_BLOCK_BYTES:
                raise DamageError("isn't whole zstd (a block is larger than one can be)")
            is_run = number >> 1 & 3 == 1
            if chunk := frame.decompress(header + file.take(1 if is_run else size)):
                yield chunk
        if descriptor[0] & 4:
            frame.decompress(file.take(4))
    except zstandard.ZstdError as error:
        raise DamageError(f"isn't whole zstd ({error})") from error
    if not frame.eof:
        raise DamageError("isn't whole zstd (a frame doesn't end where it should)")


def _rest_of_header(descriptor: int) -> int:
    """Bytes of a frame's header behind its descriptor: window, dictionary, size of the content."""
    is_single = bool(descriptor & 0x20)
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content = (1 if is_single else 0, 2, 4, 8)[descriptor >> 6]
    return (0 if is_single else 1) + dictionary + content


def _pieces(file: ExactReader, size: int) -> Iterator[bytes]:
    while size > 0:
        piece = file.take(min(size, READ_BYTES))
        yield piece
        size -= len(piece)

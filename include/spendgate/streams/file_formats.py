"""Which format a file's name stands for, and whether a file of that name can be read at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from spendgate.streams.capture_avro import read_capture
from spendgate.streams.decompress import gunzip, read_plain, unzstd
from spendgate.streams.file_records import Piece, Source
from spendgate.streams.json_lines import read_lines

# (source, number of the first record to hand out, milliseconds of the file's last change): pieces, the last of which
# tells how many records there are. Raises as `read_lines` and `read_capture`.
Reader = Callable[[Source, int, int], Iterator[Piece]]
_Expand = Callable[[Source], Iterator[bytes]]

_LINES = (".jsonl", ".ndjson", ".json")
_COMPRESSED: dict[str, _Expand] = {"": read_plain, ".gz": gunzip, ".zst": unzstd}
_CAPTURE = ".avro"
ENDINGS = (*(f"{lines}{way}" for way in _COMPRESSED for lines in _LINES), _CAPTURE)

# etl.StreamPosition keeps a file's path in so many UTF-16 units.
LONGEST_PATH = 200


def reader_of(path: str) -> Reader | None:
    """What reads a file of that name; None: nothing does."""
    name = path.lower()
    if name.endswith(_CAPTURE):
        return _read_capture
    for ending, expand in _COMPRESSED.items():
        if name.endswith(tuple(lines + ending for lines in _LINES)):
            return partial(_read_lines, expand)
    return None


def _read_capture(source: Source, start: int, _modified_ms: int) -> Iterator[Piece]:
    return read_capture(source, start)


def _read_lines(expand: _Expand, source: Source, start: int, modified_ms: int) -> Iterator[Piece]:
    return read_lines(expand(source), start, modified_ms)


def complaint(path: str) -> str | None:
    """Why a file of that name can't be read, as the end of a sentence; None: it can.

    Args:
        path: relative to the stream's folder.
    """
    try:
        units = len(path.encode("utf-16-le")) // 2
    except UnicodeEncodeError:
        return "its name isn't UTF-8: rename it"
    if units > LONGEST_PATH:
        return f"its path in the stream's folder is longer than {LONGEST_PATH} characters: move it or rename it"
    if reader_of(path) is None:
        return f"its name ends in none of {', '.join(ENDINGS)}: rename it, or move it out of the folder"
    return None

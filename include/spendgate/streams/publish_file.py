"""Sends JSON-lines events to their streams: what `./spendgate publish` does.

The order of effects: (1) lines that don't come from a regular file are spooled to a temporary one, (2) every
line is checked and the streams are looked up, (3) only then the first line is sent, (4) the call returns when
the broker has acknowledged the last one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from spendgate.errors import ConfigurationError
from spendgate.settings import StreamKind
from spendgate.streams.base import MessageWriter
from spendgate.streams.endpoints import Endpoints

# Where each event type goes unless a stream is named (docs/data-contract.md).
STREAM_OF_TYPE: Mapping[str, str] = {
    "click": "ad-clicks",
    "budget": "ad-budgets",
    "advertiser": "ad-reference",
    "ad": "ad-reference",
}

# Apache Kafka's default limit is 1 MiB for a batch with its headers; this leaves room for those.
MAX_LINE_BYTES = 1_000_000
_CHUNK_BYTES = 1024 * 1024
_MAX_SHOWN = 40

# Called with (bytes sent, bytes in all).
Progress = Callable[[int, int], None]
# Messages (key, value) by stream, in order within one.
_Routed = Mapping[str, list[tuple[bytes | None, bytes]]]
_Route = Callable[[list[bytes]], _Routed]

_Key = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Event(msgspec.Struct):
    event_type: str
    advertiser_id: _Key


class _Keyed(msgspec.Struct):
    advertiser_id: _Key


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_keyed = msgspec.json.Decoder(_Keyed).decode
# The second is for a line of a million brackets, the third for bad UTF-8.
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def publish_file(
    source: Path | BinaryIO,
    endpoints: Endpoints,
    *,
    stream: str | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Send the lines of a file (or of an open one, such as standard input) to their streams.

    Without `stream` each line, a JSON object, goes to the stream of its `event_type`, keyed by its
    `advertiser_id`; blank lines are skipped. With it every non-empty line goes there byte for byte (only the
    newline is taken off), valid or not, keyed by advertiser_id where that can be read. Lines of one key keep
    their order.

    Returns:
        The number of messages by stream.

    Raises:
        ConfigurationError: no such file, a line that can't be sent, or a stream of files; nothing was sent.
        StreamUnknownError: one of the streams doesn't exist; nothing was sent.
        StreamUnavailableError, StreamAccessError: some of the lines may have been sent.
    """
    with _open(source) as (file, name):
        return _publish(file, name, endpoints, stream, progress)


def publish_lines(
    lines: Iterable[bytes],
    endpoints: Endpoints,
    *,
    stream: str | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """As `publish_file`, for lines (without their newlines) that a program makes."""
    with _spool("the lines", lambda file: file.writelines(line + b"\n" for line in lines)) as file:
        return _publish(file, "the lines", endpoints, stream, progress)


def _publish(
    file: BinaryIO,
    name: str,
    endpoints: Endpoints,
    stream: str | None,
    progress: Progress | None,
) -> dict[str, int]:
    route: _Route = _route_by_type if stream is None else partial(_route_to, stream)
    counts: Counter[str] = Counter()
    total = 0
    for routed, size in _routed_chunks(file, name, route):
        counts.update({target: len(messages) for target, messages in routed.items()})
        total += size
    file.seek(0)
    with ExitStack() as opened:
        writers = _Writers(endpoints, opened)
        writers.require(counts if stream is None else [stream])
        sent = 0
        # Only as far as was checked: the file may have grown meanwhile.
        for routed, size in _routed_chunks(file, name, route, total):
            for target, messages in routed.items():
                writers.write(target, messages)
            sent += size
            if progress is not None:
                progress(sent, total)
        writers.flush()
    return dict(counts)


class _Writers:
    """A writer for each kind that lines go to; `opened` closes them."""

    def __init__(self, endpoints: Endpoints, opened: ExitStack) -> None:
        self._endpoints = endpoints
        self._opened = opened
        self._by_kind: dict[StreamKind, MessageWriter] = {}

    def require(self, streams: Iterable[str]) -> None:
        for stream in streams:
            writer, name = self._writer(stream)
            writer.require([name])

    def write(self, stream: str, messages: Iterable[tuple[bytes | None, bytes]]) -> None:
        writer, name = self._writer(stream)
        writer.write(name, messages)

    def flush(self) -> None:
        for writer in self._by_kind.values():
            writer.flush()

    def _writer(self, stream: str) -> tuple[MessageWriter, str]:
        kind, name = self._endpoints.kind(stream)
        if kind not in self._by_kind:
            self._by_kind[kind] = self._opened.enter_context(self._endpoints.writer(kind))
        return self._by_kind[kind], name


def _route_by_type(lines: list[bytes]) -> _Routed:
    routed: defaultdict[str, list[tuple[bytes | None, bytes]]] = defaultdict(list)
    for line in lines:
        if line and not line.isspace():
            event = _decode_event(line)
            routed[STREAM_OF_TYPE[event.event_type]].append((b"%d" % event.advertiser_id, line))
    return routed


def _route_to(stream: str, lines: list[bytes]) -> _Routed:
    return {stream: [(_find_key(line), line) for line in lines if line]}


def _find_key(line: bytes) -> bytes | None:
    try:
        return b"%d" % _decode_keyed(line).advertiser_id
    except _UNREADABLE:
        return None


def _routed_chunks(file: BinaryIO, name: str, route: _Route, limit: int | None = None) -> Iterator[tuple[_Routed, int]]:
    """The file's lines by stream, a chunk at a time, and how many bytes of the file the chunk took.

    Raises:
        ConfigurationError: a line can't be routed or is too long; names the line's number.
    """
    number = 1
    for lines, size in _line_chunks(file, name, limit):
        if len(max(lines, key=len)) > MAX_LINE_BYTES:
            too_long = next(at for at, line in enumerate(lines) if len(line) > MAX_LINE_BYTES)
            raise _refused(name, number + too_long, f"it is longer than {MAX_LINE_BYTES} bytes", "shorten it")
        try:
            routed = route(lines)
        except (*_UNREADABLE, KeyError) as error:
            raise _first_unroutable(name, number, lines, route) from error
        yield routed, size
        number += len(lines)


def _line_chunks(file: BinaryIO, name: str, limit: int | None) -> Iterator[tuple[list[bytes], int]]:
    """Complete lines (the last one may lack its newline), about 1 MB at a time, and their size in the file."""
    left = limit
    rest = b""
    while True:
        try:
            chunk = file.read(_CHUNK_BYTES if left is None else min(_CHUNK_BYTES, left))
        except OSError as error:
            raise ConfigurationError(f"{name} can't be read: {error.strerror or error}.") from error
        if left is not None:
            left -= len(chunk)
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield (rest + head).split(b"\n"), len(rest) + len(head) + 1
            rest = tail
        else:
            rest += chunk
        # A line that is too long needn't be read to its end to be refused, and mustn't fill the memory.
        if rest and (not chunk or len(rest) > MAX_LINE_BYTES):
            yield [rest], len(rest)
            rest = b""
        if not chunk:
            return


def _first_unroutable(name: str, number: int, lines: list[bytes], route: _Route) -> ConfigurationError:
    for at, line in enumerate(lines, number):
        try:
            route([line])
        except KeyError as error:
            kind = str(error.args[0])[:_MAX_SHOWN]
            why = f"its event_type {kind!r} is none of {', '.join(STREAM_OF_TYPE)}"
        except msgspec.ValidationError as error:
            why = str(error)
        except _UNREADABLE:
            why = "it isn't a JSON object in UTF-8"
        else:
            continue
        return _refused(name, at, why, "correct it, or send every line as it is with --stream")
    raise AssertionError("a chunk that can't be routed has a line that can't be")


def _refused(name: str, number: int, why: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"Nothing was sent, since line {number} of {name} can't be ({why}): {remedy}.")


@contextmanager
def _open(source: Path | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    """A file that can be read twice, and what to call it."""
    if not isinstance(source, Path):
        with _spool("standard input", partial(shutil.copyfileobj, source, length=_CHUNK_BYTES)) as spooled:
            yield spooled, "standard input"
        return
    try:
        file = source.open("rb")
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no file {source}: name one, or - for standard input.") from error
    except IsADirectoryError as error:
        raise ConfigurationError(f"{source} is a directory: name a file of JSON lines.") from error
    except OSError as error:
        raise ConfigurationError(f"{source} can't be read: {error.strerror or error}.") from error
    with file:
        if source.is_file():
            yield file, str(source)
        else:  # a pipe: what was read once is gone
            with _spool(str(source), partial(shutil.copyfileobj, file, length=_CHUNK_BYTES)) as spooled:
                yield spooled, str(source)


@contextmanager
def _spool(name: str, fill: Callable[[BinaryIO], object]) -> Iterator[BinaryIO]:
    """A temporary file, filled and at its beginning; gone afterwards."""
    with tempfile.TemporaryFile() as file:
        try:
            fill(file)
            file.seek(0)
        except OSError as error:
            raise ConfigurationError(
                f"{name} can't be copied to {tempfile.gettempdir()} ({error.strerror or error}): "
                "make room there, or set TMPDIR to a larger directory."
            ) from error
        yield file

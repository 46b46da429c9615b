"""Event files as others write them: JSON lines, compressed ones, and those of Event Hubs Capture."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

import fastavro
import zstandard

# As Azure publishes it ("Explore captured Avro files"); Properties may be null in files of today.
CAPTURE_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "EventData",
    "namespace": "Microsoft.ServiceBus.Messaging",
    "fields": [
        {"name": "SequenceNumber", "type": "long"},
        {"name": "Offset", "type": "string"},
        {"name": "EnqueuedTimeUtc", "type": "string"},
        {
            "name": "SystemProperties",
            "type": {"type": "map", "values": ["long", "double", "string", "bytes"]},
        },
        {
            "name": "Properties",
            "type": {"type": "map", "values": ["long", "double", "string", "bytes", "null"]},
        },
        {"name": "Body", "type": ["null", "bytes"]},
    ],
}
CAPTURED_AT = "11/23/2026 11:59:58 AM"
CODECS = ("null", "deflate", "snappy")
FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "avro")


def captured(body: bytes | None, number: int = 0, at: str = CAPTURED_AT) -> dict[str, Any]:
    """An event as Capture records it."""
    return {
        "SequenceNumber": number,
        "Offset": str(number * 300),
        "EnqueuedTimeUtc": at,
        "SystemProperties": {"x-opt-partition-key": "1", "x-opt-kafka-key": b"1"},
        "Properties": {"shard": 1, "ratio": 0.5, "nothing": None},
        "Body": body,
    }


def avro(
    records: Iterable[dict[str, Any]],
    codec: str = "null",
    schema: dict[str, Any] = CAPTURE_SCHEMA,
    block_bytes: int = 16_000,
) -> bytes:
    """An Avro file; a block ends after `block_bytes`."""
    file = BytesIO()
    fastavro.writer(file, schema, records, codec=codec, sync_interval=block_bytes)
    return file.getvalue()


def capture(bodies: Iterable[bytes | None], codec: str = "null", block_bytes: int = 16_000) -> bytes:
    """A file of Event Hubs Capture."""
    return avro((captured(body, number) for number, body in enumerate(bodies)), codec, block_bytes=block_bytes)


def lines(bodies: Iterable[bytes]) -> bytes:
    """Bodies as lines, the last one with its newline."""
    return b"".join(body + b"\n" for body in bodies)


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, 6, mtime=0)


def zstd(content: bytes, *, checksum: bool = True, known_size: bool = True) -> bytes:
    """A zstd frame, as `zstd FILE` writes it, or (of unknown size) `zstd < FILE`."""
    compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=known_size)
    if known_size:
        return compressor.compress(content)
    stream = compressor.compressobj()
    return stream.compress(content) + stream.flush()


def event_file(ending: str, bodies: Sequence[bytes]) -> bytes:
    """The content of a file of one of `FORMATS`."""
    if ending == "avro":
        return capture(bodies, "deflate", block_bytes=100)
    content = lines(bodies)
    return {"jsonl": content, "jsonl.gz": zipped(content), "jsonl.zst": zstd(content)}[ending]

"""The messages of one batch, as they came, in one compressed block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

_SCHEMA = pa.schema([("raw", pa.large_binary()), ("position", pa.string()), ("enqueued_ms", pa.int64())])
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, slots=True)
class Message:
    """One message with its stream coordinates; `enqueued_ms` is milliseconds since 1970 UTC."""

    raw: bytes | None
    position: str
    enqueued_ms: int


def pack_messages(values: Sequence[bytes | None], positions: Sequence[str], enqueued_ms: Sequence[int]) -> bytes:
    """All messages of a batch, in order, as a compressed Arrow stream."""
    columns = [
        pa.array(values, pa.large_binary()),
        pa.array(positions, pa.string()),
        pa.array(enqueued_ms, pa.int64()),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA, options=_OPTIONS) as writer:
        writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def unpack_messages(packed: bytes, ordinals: Iterable[int]) -> list[Message]:
    """The messages with the given ordinals, in that order."""
    with pa.ipc.open_stream(packed) as reader:
        rows = reader.read_all().take(pa.array(list(ordinals), pa.int64())).to_pylist()
    return [Message(row["raw"], row["position"], row["enqueued_ms"]) for row in rows]

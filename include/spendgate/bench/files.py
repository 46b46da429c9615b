"""bench ingest --stream files: from files to merged rows, beside what reading the same files costs alone.

The bare read is what the formats' own libraries do, in lists as long as our batches: fsspec opens and expands a file
and its lines are taken; fastavro reads the blocks of a Capture file. Ours gives positions and times besides, checks
what blocks and checksums tell, and looks at each file again before it hands out a batch.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import fastavro
import fsspec

from spendgate.bench.ingest import BATCH, Figures, Rows, bench_clicks, measure_whole
from spendgate.clock import utc_now
from spendgate.errors import PermanentError
from spendgate.settings import Settings
from spendgate.show import tell
from spendgate.streams.files import FilesStream

STREAM = "bench-clicks"
# A third of the clicks in files of each: what people export, what they keep, what Event Hubs captures.
ENDINGS = ("jsonl", "jsonl.gz", "avro")
FILES_EACH = 2
ROUNDS = 2

_CAPTURE: dict[str, Any] = {
    "type": "record",
    "name": "EventData",
    "namespace": "Microsoft.ServiceBus.Messaging",
    "fields": [
        {"name": "SequenceNumber", "type": "long"},
        {"name": "Offset", "type": "string"},
        {"name": "EnqueuedTimeUtc", "type": "string"},
        {"name": "SystemProperties", "type": {"type": "map", "values": ["long", "double", "string", "bytes"]}},
        {"name": "Properties", "type": {"type": "map", "values": ["long", "double", "string", "bytes", "null"]}},
        {"name": "Body", "type": ["null", "bytes"]},
    ],
}


def measure_files(settings: Settings, clicks: int) -> tuple[Figures, Rows]:
    """Figures (JSON keys) and table rows of one run of `clicks` clicks."""
    root = settings.home / "files"
    settings = settings.model_copy(
        update={"streams": (f"files:{STREAM}",), "files_url": str(root), "files_settle_seconds": 0.0}
    )
    tell(f"writing {clicks:,} clicks to files")
    write_files(root / STREAM, clicks)
    bare: dict[str, tuple[int, float]] = {}
    ours: dict[str, tuple[int, float]] = {}
    for ending in ENDINGS:
        # By turns, and the better of each: a machine that does something else besides does it to both.
        rounds = [(_timed(_read_bare, root, ending), _timed(_read_ours, root, ending)) for _ in range(ROUNDS)]
        bare[ending] = min((one for one, _ in rounds), key=itemgetter(1))
        ours[ending] = min((one for _, one in rounds), key=itemgetter(1))
    for ending in ENDINGS:
        if bare[ending][0] != ours[ending][0]:
            raise PermanentError(f"The two ways to read {ending} disagree: the benchmark measured something else.")
    whole, memory, _ = measure_whole(settings, clicks, 1)
    bare_seconds = sum(seconds for _, seconds in bare.values())
    our_seconds = sum(seconds for _, seconds in ours.values())
    figures = {
        "events_per_s": clicks / whole,
        "bare_read_per_s": clicks / bare_seconds,
        "read_per_s": clicks / our_seconds,
        "ratio_to_bare_read": bare_seconds / our_seconds,
        "ratio_whole_to_bare_read": bare_seconds / whole,
        "peak_task_mb": memory,
    }
    rows: Rows = []
    for ending in ENDINGS:
        events, seconds = bare[ending]
        rows.append(_row(f"bare read of .{ending}", seconds, events, seconds))
        rows.append(_row(f"our read of .{ending}", ours[ending][1], events, seconds))
    rows += [
        _row("bare read of all", bare_seconds, clicks, bare_seconds),
        _row("our read of all", our_seconds, clicks, bare_seconds),
        _row("whole path: read, decode, stage, merge", whole, clicks, bare_seconds),
        ["peak memory of a task", "", f"{memory:.0f} MB", ""],
    ]
    return figures, rows


def write_files(folder: Path, clicks: int) -> None:
    """Files of every format, all clicks spread over them."""
    folder.mkdir(parents=True)
    bodies = (value for _, value in bench_clicks(clicks))
    each = -(-clicks // (len(ENDINGS) * FILES_EACH))
    for number in range(len(ENDINGS) * FILES_EACH):
        ending = ENDINGS[number % len(ENDINGS)]
        path = folder / f"{number}.{ending}"
        if ending == "avro":
            with path.open("wb") as file:
                fastavro.writer(file, _CAPTURE, _captured(islice(bodies, each)), codec="deflate", sync_interval=64_000)
            continue
        content = b"".join(body + b"\n" for body in islice(bodies, each))
        path.write_bytes(gzip.compress(content, 6) if ending == "jsonl.gz" else content)


def _captured(bodies: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    at = f"{utc_now():%m/%d/%Y %I:%M:%S %p}"
    system = {"x-opt-partition-key": "1"}
    for number, body in enumerate(bodies):
        event = {"SequenceNumber": number, "Offset": str(number * 300), "EnqueuedTimeUtc": at, "Body": body}
        yield {**event, "SystemProperties": system, "Properties": {}}


def _timed(read: Callable[[Path, str], int], root: Path, ending: str) -> tuple[int, float]:
    began = time.perf_counter()
    events = read(root, ending)
    return events, time.perf_counter() - began


def _read_bare(root: Path, ending: str) -> int:
    events = 0
    for path in sorted((root / STREAM).glob(f"[0-9].{ending}")):
        with fsspec.open(str(path), "rb", compression="infer") as file:
            if ending == "avro":
                events += sum(len(_bodies(block)) for block in fastavro.block_reader(file))
                continue
            while lines := list(islice(file, BATCH)):
                events += len(lines)
    return events


def _bodies(block: Iterable[Any]) -> list[bytes]:
    return [record["Body"] for record in block]


def _read_ours(root: Path, ending: str) -> int:
    events = 0
    stream = FilesStream(STREAM, str(root), {}, settle=timedelta(0))
    for partition in stream.partitions():
        if partition.partition.partition(".")[2] == ending:
            with stream.read(partition, None) as read:
                events += sum(len(batch.values) for batch in read.batches(BATCH))
    return events


def _row(what: str, seconds: float, events: int, bare: float) -> list[object]:
    return [what, f"{seconds:.2f}", f"{events / seconds:,.0f}/s", f"{bare / seconds:.2f} of the bare read's rate"]

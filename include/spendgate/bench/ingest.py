"""bench ingest: from a topic to merged rows in ads.ClickEvent, beside what reading, decoding and writing cost alone.

The floor (`spendgate.bench.floor`) is writing alone: on SQL Server a bare bulk copy of the same rows.
"""

from __future__ import annotations

import importlib
import multiprocessing
import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from statistics import median

from sqlalchemy import text

from spendgate.airflow_main import LOADED_BEFORE
from spendgate.bench.floor import LABELS, measure_floor
from spendgate.clock import utc_now
from spendgate.columns import decode_batch
from spendgate.errors import PermanentError
from spendgate.local import services
from spendgate.pipeline import Pipeline, Slice
from spendgate.settings import Settings
from spendgate.show import tell
from spendgate.streams.base import RecordBatch
from spendgate.streams.kafka import KafkaStream
from spendgate.streams.kafka_producer import KafkaTopics, KafkaWriter
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse

PARTITIONS = 6
ADVERTISERS = 10_000
TOPIC = "bench-clicks"
BATCH = 50_000
ROUNDS = 3
# Of fewer, fixed costs are most of it, and rounds tell nothing.
MANY_CLICKS = 100_000
LATENESS = timedelta(days=31)
Figures = dict[str, float]
Rows = list[list[object]]


def measure_ingest(settings: Settings, clicks: int) -> tuple[Figures, Rows]:
    """Figures (JSON keys) and table rows of `clicks` clicks: medians of rounds in which all take their turn.

    One sample of the floor alone differs from the next by a sixth.
    """
    settings = settings.model_copy(update={"streams": (TOPIC,)})
    backend = services.warehouse_url(settings).get_backend_name()
    kafka = services.kafka_properties(settings)
    KafkaTopics(kafka, timeout=30).ensure_topics([TOPIC], PARTITIONS)
    tell(f"publishing {clicks:,} clicks")
    with KafkaWriter(kafka, timeout=60) as writer:
        writer.write(TOPIC, bench_clicks(clicks))
        writer.flush()

    samples: list[tuple[float, ...]] = []
    rounds = ROUNDS if clicks >= MANY_CLICKS else 1
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        read = _measure_read(settings)
        decode, floor = _measure_decode_and_floor(settings, clicks)
        one, memory, gate = measure_whole(settings, clicks, 1)
        two, *_ = measure_whole(settings, clicks, 2)
        samples.append((read, decode, floor, one, two, gate, memory))
    read, decode, floor, one, two, gate, _ = map(median, zip(*samples, strict=True))
    memory = max(sample[-1] for sample in samples)
    # What the floor is depends on the engine, and so does what it is called.
    name = "bulk" if backend == "mssql" else "floor"
    figures = {
        "events_per_s": clicks / one,
        "events_per_s_two": clicks / two,
        f"{name}_per_s": clicks / floor,
        "read_per_s": clicks / read,
        "decode_per_s": clicks / decode,
        f"ratio_to_{name}": floor / one,
        f"ratio_to_{name}_two": floor / two,
        "gate_s": gate,
        "peak_task_mb": memory,
    }
    rows: Rows = [
        _row("reading alone", read, clicks, floor),
        _row("decoding alone", decode, clicks, floor),
        _row(LABELS[backend], floor, clicks, floor),
        _row("whole path, one partition at a time", one, clicks, floor),
        _row("whole path, two side by side", two, clicks, floor),
        _row("the gate besides, in neither (bench gate)", gate, clicks, floor),
        ["peak memory of a task", "", f"{memory:.0f} MB", ""],
    ]
    return figures, rows


def _row(what: str, seconds: float, clicks: int, floor: float) -> list[object]:
    return [what, f"{seconds:.2f}", f"{clicks / seconds:,.0f}/s", f"{floor / seconds:.2f} of the floor's rate"]


def bench_clicks(clicks: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of plain clicks of about 200 bytes, all of yesterday, the same every time but for the date."""
    rnd = random.Random(1)
    day = (utc_now() - timedelta(days=1)).date().isoformat()
    for _ in range(clicks):
        advertiser = rnd.randint(1, ADVERTISERS)
        click_id = uuid.UUID(int=rnd.getrandbits(128), version=4)
        at = f"{rnd.randint(0, 23):02}:{rnd.randint(0, 59):02}:{rnd.randint(0, 59):02}.{rnd.randint(0, 999):03}"
        yield (
            b"%d" % advertiser,
            (
                f'{{"event_type":"click","click_id":"{click_id}","advertiser_id":{advertiser},'
                f'"ad_id":{advertiser * 5 + rnd.randint(0, 4)},"click_time":"{day}T{at}Z",'
                f'"amount":"{rnd.randint(0, 3)}.{rnd.randint(0, 9999):04}","is_valid":true,"source":"bench"}}'
            ).encode(),
        )


def _stream(settings: Settings) -> KafkaStream:
    return KafkaStream(TOPIC, services.kafka_properties(settings), group="bench", timeout=30)


def _measure_read(settings: Settings) -> float:
    stream = _stream(settings)
    began = time.perf_counter()
    for partition in stream.partitions():
        with stream.read(partition, None) as read:
            for _ in read.batches(BATCH):
                pass
    return time.perf_counter() - began


def _measure_decode_and_floor(settings: Settings, clicks: int) -> tuple[float, float]:
    """Seconds to decode all messages from memory, and seconds of the floor over the decoded rows."""
    stream = _stream(settings)
    batches: list[RecordBatch] = []
    for partition in stream.partitions():
        with stream.read(partition, None) as read:
            batches += read.batches(BATCH)
    began = time.perf_counter()
    tables = [decode_batch(b.values, b.enqueued_ms, batch_id=1, lateness=LATENESS).clicks for b in batches]
    decode = time.perf_counter() - began
    del batches
    warehouse = fresh_warehouse(settings)
    floor, stored = measure_floor(warehouse, tables)
    warehouse.close()
    _require(stored, clicks)
    return decode, floor


def fresh_warehouse(settings: Settings) -> Warehouse:
    """The warehouse with empty tables, and nothing left to do from before."""
    warehouse = Warehouse(services.warehouse_url(settings))
    schema.migrate(warehouse, "base")
    schema.migrate(warehouse)
    if warehouse.dialect == "postgresql":
        with warehouse.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CHECKPOINT"))
    return warehouse


def _require(stored: int, clicks: int) -> None:
    if stored != clicks:
        raise PermanentError(f"{stored:,} of {clicks:,} clicks were stored: the benchmark measured something else.")


_open: dict[str, Pipeline] = {}


def _open_pipeline(settings: Settings, clicks: int) -> None:
    """Make a worker process what an Airflow task's process is: Airflow and our code loaded, one pipeline open.

    A try of few clicks, which tells nothing of memory either, does without Airflow.
    """
    if clicks >= MANY_CLICKS:
        for name in LOADED_BEFORE:
            importlib.import_module(name)
    warehouse = Warehouse(services.warehouse_url(settings))
    _open["pipeline"] = Pipeline(settings, warehouse, services.endpoints(settings))


def _warm_up(_number: int) -> list[Slice]:
    time.sleep(0.5)
    return _open["pipeline"].list_slices()


def _read_slice(part: Slice) -> tuple[int, float]:
    events = int(_open["pipeline"].read_slice(part)["events"])
    return events, _peak_memory()


def _judge_batches(_nothing: None) -> float:
    began = time.perf_counter()
    _open["pipeline"].judge_batches()
    return time.perf_counter() - began


def _merge_events(_nothing: None) -> tuple[int, float]:
    merged = int(_open["pipeline"].merge_events()["inserted"])
    return merged, _peak_memory()


def _peak_memory() -> float:
    """Most memory that this process ever had, in MB. Not getrusage's, which starts with our parent's."""
    with Path("/proc/self/status").open(encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def measure_whole(settings: Settings, clicks: int, side_by_side: int) -> tuple[float, float, float]:
    """Seconds from the topic to merged rows, peak memory of a task's process in MB, and the gate's seconds.

    The gate, which has a benchmark of its own, isn't in the first: the floor knows nothing like it.
    """
    warehouse = fresh_warehouse(settings)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(side_by_side, context, _open_pipeline, (settings, clicks)) as pool:
        slices, *_ = pool.map(_warm_up, range(side_by_side))
        began = time.perf_counter()
        reads = list(pool.map(_read_slice, slices))
        gate = pool.submit(_judge_batches, None).result()
        _, memory = pool.submit(_merge_events, None).result()
        seconds = time.perf_counter() - began - gate
    with warehouse.transaction(read_only=True) as transaction:
        stored = transaction.connection.execute(text("SELECT COUNT(*) FROM ads.ClickEvent")).scalar_one()
    warehouse.close()
    _require(sum(events for events, _ in reads), clicks)
    _require(stored, clicks)
    return seconds, max(memory, *(peak for _, peak in reads)), gate

"""bench ingest --stream eventhub: from a hub to merged rows in ads.ClickEvent, beside the client's own bare read.

The hub is on the tests' server, in a process of its own: what is measured is our side of the connection. The bare read
is what azure-eventhub does with a callback that only counts, over all partitions at once, with its own settings; the
faster of two such reads, one before and one after the others.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from azure.eventhub import EventHubConsumerClient
from pydantic import SecretStr

from spendgate.bench.ingest import BATCH, PARTITIONS, TOPIC, Figures, Rows, bench_clicks, measure_whole
from spendgate.errors import ServiceError
from spendgate.local import services
from spendgate.settings import ROOT, Settings, StreamKind
from spendgate.show import tell

# The client decodes in Python: a million events would take minutes, and say nothing else.
MOST_CLICKS = 200_000
_START_SECONDS = 30.0
_BARE_SECONDS = 300.0
_KEY = "bench"


def measure_eventhub(settings: Settings, clicks: int) -> tuple[Figures, Rows]:
    """Figures (JSON keys) and table rows of one run of `clicks` clicks, or of as many as are sensible.

    Raises:
        ServiceError: the tests' server doesn't start, or a read doesn't end.
    """
    clicks = min(clicks, MOST_CLICKS)
    with _server() as connection:
        settings = settings.model_copy(
            update={"streams": (f"{StreamKind.EVENTHUB}:{TOPIC}",), "eventhub_connection": SecretStr(connection)}
        )
        tell(f"publishing {clicks:,} clicks")
        publish = _publish(settings, clicks)
        bare = _read_barely(connection, clicks)
        own = _read(settings)
        one, memory, _ = measure_whole(settings, clicks, 1)
        two, *_ = measure_whole(settings, clicks, 2)
        bare = min(bare, _read_barely(connection, clicks))
    figures = {
        "events_per_s": clicks / one,
        "events_per_s_two": clicks / two,
        "read_per_s": clicks / own,
        "bare_read_per_s": clicks / bare,
        "publish_per_s": clicks / publish,
        "ratio_to_bare_read": bare / one,
        "ratio_to_bare_read_two": bare / two,
        "peak_task_mb": memory,
    }
    rows: Rows = [
        _row("publishing", publish, clicks, bare),
        _row("the client's bare read", bare, clicks, bare),
        _row("reading alone", own, clicks, bare),
        _row("whole path, one partition at a time", one, clicks, bare),
        _row("whole path, two side by side", two, clicks, bare),
        ["peak memory of a task", "", f"{memory:.0f} MB", ""],
    ]
    return figures, rows


def _row(what: str, seconds: float, clicks: int, bare: float) -> list[object]:
    return [what, f"{seconds:.2f}", f"{clicks / seconds:,.0f}/s", f"{bare / seconds:.2f} of the bare read's rate"]


def _publish(settings: Settings, clicks: int) -> float:
    began = time.perf_counter()
    with services.endpoints(settings).writer(StreamKind.EVENTHUB) as writer:
        writer.write(TOPIC, bench_clicks(clicks))
        writer.flush()
    return time.perf_counter() - began


def _read(settings: Settings) -> float:
    stream = services.endpoints(settings).stream(TOPIC)
    began = time.perf_counter()
    for partition in stream.partitions():
        with stream.read(partition, None) as read:
            for _ in read.batches(BATCH):
                pass
    return time.perf_counter() - began


def _read_barely(connection: str, clicks: int) -> float:
    """Seconds that the plain client takes for all events, connecting included."""
    client = EventHubConsumerClient.from_connection_string(connection, "$Default", eventhub_name=TOPIC)
    counted = 0

    def count(_context: object, events: object) -> None:
        nonlocal counted
        counted += len(events)  # type: ignore[arg-type]  # a list, whatever the stub's overloads make of it
        if counted >= clicks:
            client.close()

    # The client has no word for the end, nor for a read that stands still.
    watchdog = threading.Timer(_BARE_SECONDS, client.close)
    watchdog.start()
    began = time.perf_counter()
    try:
        client.receive_batch(count, starting_position="-1")
    finally:
        watchdog.cancel()
    seconds = time.perf_counter() - began
    if counted != clicks:
        raise ServiceError(f"The client alone read {counted:,} of {clicks:,} events: the benchmark says nothing.")
    return seconds


def _first_line(process: subprocess.Popen[str]) -> str:
    """What a process says first; nothing if it says nothing in time."""
    if process.stdout is None or not select.select([process.stdout], [], [], _START_SECONDS)[0]:
        return ""
    return process.stdout.readline()


@contextmanager
def _server() -> Iterator[str]:
    """The connection string of the tests' server, with a hub of six partitions."""
    module = "tests.eventhubs.server"
    command = [sys.executable, "-m", module, "--hub", f"{TOPIC}:{PARTITIONS}", "--key", f"Root={_KEY}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            words = _first_line(process).split()
            if len(words) != 3:
                raise ServiceError(f"The tests' server for Event Hubs doesn't start: try python -m {module} in {ROOT}.")
            yield (
                f"Endpoint=sb://{words[1]}:{words[2]};SharedAccessKeyName=Root;SharedAccessKey={_KEY};"
                "UseDevelopmentEmulator=true"
            )
        finally:
            process.kill()

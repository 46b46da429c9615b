"""Benchmarks: figures as ratios to a limit that is measured in the same run, on services of their own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spendgate.bench.eventhub import measure_eventhub
from spendgate.bench.files import measure_files
from spendgate.bench.freshness import measure_freshness
from spendgate.bench.ingest import measure_ingest
from spendgate.bench.spend import measure_spend
from spendgate.errors import ConfigurationError
from spendgate.local import services
from spendgate.settings import Settings
from spendgate.show import say, show_table, tell

NAMES = ("freshness", "ingest", "spend")
# What `ingest` reads, by kind of stream.
INGEST = {"kafka": measure_ingest, "eventhub": measure_eventhub, "files": measure_files}


def run_benchmark(name: str, *, clicks: int, days: int, tries: int, as_json: bool, stream: str = "kafka") -> None:
    """Run one benchmark in a temporary home and print its table, with `as_json` one JSON object at the end.

    Raises:
        ConfigurationError: there is no such benchmark.
    """
    if name not in NAMES:
        raise ConfigurationError(f"There is no benchmark {name!r}; there are {', '.join(NAMES)}.")
    if stream not in INGEST:
        raise ConfigurationError(f"There is no benchmark of {stream}; there are {', '.join(INGEST)}.")
    with _services() as settings:
        if name == "freshness":
            figures, rows = measure_freshness(settings, tries)
        elif name == "ingest":
            figures, rows = INGEST[stream](settings, clicks)
        else:
            figures, rows = measure_spend(settings, clicks, days)
    show_table(["what", "seconds", "rate", "against"], rows, title=f"bench {name}")
    if as_json:
        say(json.dumps({key: round(value, 4) for key, value in figures.items()}))


@contextmanager
def _services() -> Iterator[Settings]:
    """A warehouse and a broker in a home that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="spendgate-bench-") as folder:
        settings = Settings(home=Path(folder), warehouse_url=None, kafka_bootstrap=None)
        try:
            services.up(settings, airflow=False, report=tell)
            yield settings
        finally:
            services.down(settings, tell)

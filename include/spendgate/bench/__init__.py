"""Benchmarks: figures as ratios to a limit that is measured in the same run, on services of their own.

The intake can be measured on another warehouse: in an empty database, which is empty again afterwards.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import inspect

from spendgate.bench.eventhub import measure_eventhub
from spendgate.bench.files import measure_files
from spendgate.bench.freshness import measure_freshness
from spendgate.bench.gate import measure_gate
from spendgate.bench.ingest import measure_ingest
from spendgate.bench.spend import measure_spend
from spendgate.errors import ConfigurationError
from spendgate.local import services
from spendgate.settings import Settings
from spendgate.show import say, show_table, tell
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse

NAMES = ("api", "freshness", "gate", "ingest", "spend")
# What `ingest` reads, by kind of stream.
INGEST = {"kafka": measure_ingest, "eventhub": measure_eventhub, "files": measure_files}


def run_benchmark(
    name: str,
    *,
    clicks: int,
    days: int,
    tries: int,
    as_json: bool,
    stream: str = "kafka",
    warehouse: str | None = None,
    flags: int = 100_000,
    soak: float = 0.0,
    unzipped: bool = False,
) -> None:
    """Run one benchmark in a temporary home and print its table, with `as_json` one JSON object at the end.

    `warehouse` is the URL of an empty database to use in place of a warehouse of its own.

    Raises:
        ConfigurationError: there is no such benchmark, or the database isn't empty.
    """
    if name not in NAMES:
        raise ConfigurationError(f"There is no benchmark {name!r}; there are {', '.join(NAMES)}.")
    if stream not in INGEST:
        raise ConfigurationError(f"There is no benchmark of {stream}; there are {', '.join(INGEST)}.")
    if warehouse is not None and name != "ingest":
        raise ConfigurationError(f"--warehouse is for bench ingest alone; leave it out for {name}.")
    with _warehouse(warehouse) as url, _services(url) as settings:
        if name == "api" and soak:
            from spendgate.bench.api_soak import measure_soak

            figures, rows = measure_soak(settings, flags, soak, unzipped=unzipped)
        elif name == "api":
            from spendgate.bench.api import measure_api

            figures, rows = measure_api(settings, flags)
        elif name == "freshness":
            figures, rows = measure_freshness(settings, tries)
        elif name == "gate":
            figures, rows = measure_gate(settings, clicks)
        elif name == "ingest":
            figures, rows = INGEST[stream](settings, clicks)
        else:
            figures, rows = measure_spend(settings, clicks, days)
    show_table(["what", "seconds", "rate", "against"], rows, title=f"bench {name}")
    if as_json:
        say(json.dumps({key: round(value, 4) for key, value in figures.items()}))


@contextmanager
def _warehouse(url: str | None) -> Iterator[SecretStr | None]:
    """`url` while the benchmark fills it, which must be an empty database, and is one again afterwards."""
    if url is None:
        yield None
        return
    warehouse = Warehouse(url, setting="--warehouse")
    try:
        with warehouse.transaction(read_only=True) as transaction:
            if inspect(transaction.connection).get_table_names(schema="ads"):
                raise ConfigurationError(
                    "The database that --warehouse names holds SpendGate's tables, which the benchmark would drop; "
                    "make an empty one for it."
                )
        try:
            yield SecretStr(url)
        finally:
            schema.migrate(warehouse, "base")
    finally:
        warehouse.close()


@contextmanager
def _services(warehouse_url: SecretStr | None) -> Iterator[Settings]:
    """A broker, and a warehouse unless one is given, in a home that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="spendgate-bench-") as folder:
        settings = Settings(home=Path(folder), warehouse_url=warehouse_url, kafka_bootstrap=None)
        try:
            services.up(settings, airflow=False, report=tell)
            yield settings
        finally:
            services.down(settings, tell)

"""The benchmarks run, store every click and give their figures; what the figures are is never a test's business."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
from sqlalchemy import URL

from spendgate.bench import run_benchmark
from spendgate.errors import ConfigurationError
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from tests.untraced import untraced

CLICKS = 3_000


@pytest.fixture(autouse=True)
def no_tracer_in_children() -> Iterator[None]:
    """What children measure is measured elsewhere too, and each of them loads Airflow."""
    with mock.patch.dict(os.environ, untraced(), clear=True):
        yield


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """The JSON object in the last line."""
    found: dict[str, float] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.mark.slow
def test_bench_ingest_gives_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmark("ingest", clicks=CLICKS, days=1, tries=1, as_json=True)
    found = figures(capsys)
    assert found.keys() >= {"events_per_s", "ratio_to_floor", "ratio_to_floor_two", "peak_task_mb"}
    assert min(found.values()) > 0


@pytest.mark.slow
@pytest.mark.mssql
@pytest.mark.parametrize("server_url", ["mssql"], indirect=True)
def test_bench_ingest_on_sql_server_compares_with_a_bare_bulk_copy_and_cleans_up(
    make_database: Callable[[], URL], capsys: pytest.CaptureFixture[str]
) -> None:
    url = make_database().render_as_string(hide_password=False)
    for _ in range(2):  # the second time, too, the database is empty
        run_benchmark("ingest", clicks=CLICKS, days=1, tries=1, as_json=True, warehouse=url)
        found = figures(capsys)
        assert found.keys() >= {"events_per_s", "bulk_per_s", "ratio_to_bulk", "ratio_to_bulk_two"}
        assert min(found.values()) > 0


def test_a_warehouse_that_is_in_use_is_not_benchmarked(any_warehouse: Warehouse) -> None:
    url = any_warehouse.engine.url.render_as_string(hide_password=False)
    with pytest.raises(ConfigurationError, match="make an empty one"):
        run_benchmark("ingest", clicks=CLICKS, days=1, tries=1, as_json=True, warehouse=url)
    schema.require_current(any_warehouse)


@pytest.mark.slow
def test_bench_ingest_of_files_gives_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmark("ingest", clicks=CLICKS, days=1, tries=1, as_json=True, stream="files")
    found = figures(capsys)
    assert found.keys() >= {"events_per_s", "bare_read_per_s", "ratio_to_bare_read"}
    assert min(found.values()) > 0


@pytest.mark.slow
def test_bench_ingest_of_event_hubs_gives_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmark("ingest", clicks=CLICKS, days=1, tries=1, as_json=True, stream="eventhub")
    found = figures(capsys)
    assert found.keys() >= {"events_per_s", "bare_read_per_s", "ratio_to_bare_read", "peak_task_mb"}
    assert min(found.values()) > 0


def test_an_unknown_kind_of_stream_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="kafka, eventhub, files"):
        run_benchmark("ingest", clicks=1, days=1, tries=1, as_json=False, stream="nope")


@pytest.mark.slow
def test_bench_spend_gives_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmark("spend", clicks=CLICKS, days=2, tries=1, as_json=True)
    found = figures(capsys)
    assert found.keys() >= {"ratio_to_scan", "ratio_of_history", "incremental_1_day_s", "incremental_2_days_s"}
    assert min(found.values()) > 0


def test_an_unknown_benchmark_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="api, freshness, gate, ingest, spend"):
        run_benchmark("nope", clicks=1, days=1, tries=1, as_json=False)

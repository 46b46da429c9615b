"""The one place where SpendGate meets Airflow: connections, failures, run parameters, the headless run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Asset, BaseHook, Connection, DagRunState, Param, get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException
from sqlalchemy import URL

from spendgate.clock import format_instant, parse_instant
from spendgate.errors import ConfigurationError, PermanentError, SpendGateError
from spendgate.local import services
from spendgate.pipeline import Pipeline
from spendgate.settings import ROOT, Settings, load_settings
from spendgate.warehouse.engine import Warehouse

log = logging.getLogger("spendgate")

WAREHOUSE_CONNECTION = "spendgate_warehouse"
KAFKA_CONNECTION = "spendgate_kafka"

STAGED_EVENTS = Asset("spendgate-staged-events", uri="spendgate://staging/events")

# Only what may go away by itself is tried again: `failing_permanently` fails the rest at once.
RETRIES: dict[str, Any] = {
    "retries": 4,
    "retry_delay": timedelta(seconds=15),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
}

AS_OF = Param(
    None,
    type=["null", "string"],
    format="date-time",
    title="Decide as of",
    description="Instant at which flags are decided (RFC 3339 with an offset); empty: now.",
)

# What the tasks of a headless run, all in this process, reported and failed with.
_REPORTS: dict[str, dict[str, Any]] = {}
_FAILURES: list[SpendGateError] = []

_DRIVERS = {"mssql": "mssql+mssqlpython", "postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}


@contextmanager
def open_pipeline() -> Iterator[Pipeline]:
    """The pipeline of this task: Airflow's connections where they are defined, the settings otherwise.

    A PermanentError inside fails the task at once; a TransientError leaves it to Airflow's retries.
    """
    with failing_permanently():
        settings = load_settings()
        warehouse = Warehouse(_warehouse_url(settings), lock_timeout=settings.lock_timeout)
        try:
            yield Pipeline(settings, warehouse, _kafka_properties(settings))
        finally:
            warehouse.close()


@contextmanager
def failing_permanently() -> Iterator[None]:
    """Turn a PermanentError into Airflow's "fail, don't retry"."""
    try:
        yield
    except SpendGateError as error:
        _FAILURES.append(error)
        if isinstance(error, PermanentError):
            raise AirflowFailException(str(error)) from error
        raise


def report(step: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Write a step's numbers as one log line, and hand them on to XCom."""
    _REPORTS[step] = dict(counts)
    log.info("%s: %s", step, ", ".join(f"{name} {_plain(value)}" for name, value in counts.items()))
    return dict(counts)


def requested_instant() -> datetime | None:
    """The run's `as_of` parameter; None: now.

    Raises:
        AirflowFailException: it isn't a time with an offset.
    """
    value = get_current_context()["params"].get("as_of")
    with failing_permanently():
        return parse_instant(value) if value else None


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} {count}" for name, count in value.items()) + "}"
    return value


def _connection(name: str) -> Connection | None:
    try:
        found: Connection = BaseHook.get_connection(name)
    except AirflowNotFoundException:
        return None
    return found


def _warehouse_url(settings: Settings) -> URL:
    connection = _connection(WAREHOUSE_CONNECTION)
    if connection is None:
        return services.warehouse_url(settings)
    driver = _DRIVERS.get(connection.conn_type or "")
    if driver is None:
        raise ConfigurationError(
            f"Connection {WAREHOUSE_CONNECTION} is of type {connection.conn_type}; make it mssql or postgres."
        )
    query = {name: str(value) for name, value in connection.extra_dejson.items()}
    return URL.create(
        driver,
        connection.login,
        connection.password,
        connection.host,
        connection.port,
        connection.schema,
        query if driver.startswith("mssql") else {},
    )


def _kafka_properties(settings: Settings) -> Mapping[str, Any]:
    connection = _connection(KAFKA_CONNECTION)
    if connection is None:
        return services.kafka_properties(settings)
    properties = dict(connection.extra_dejson)
    if not properties.get("bootstrap.servers"):
        raise ConfigurationError(f"Connection {KAFKA_CONNECTION} has no bootstrap.servers in its extra; add them.")
    return properties


def run_headless(as_of: datetime | None, announce: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Run ingest_events, then build_spend, task by task in this process.

    Airflow reads its configuration when it is imported: the caller sets
    `spendgate.local.airflow.environment(headless=True)` before it imports this module.

    Returns:
        The numbers of every step that reported any, by its name.

    Raises:
        SpendGateError: what made a task fail.
    """
    from airflow.dag_processing.dagbag import BundleDagBag

    _REPORTS.clear()
    _FAILURES.clear()
    bag = BundleDagBag(dag_folder=ROOT / "dags", bundle_path=ROOT / "dags", bundle_name="dags-folder")
    if bag.import_errors:
        raise PermanentError(
            f"A DAG file doesn't load: {next(iter(bag.import_errors.values())).strip().splitlines()[-1]}"
        )
    conf = {"as_of": format_instant(as_of)} if as_of else {}
    for dag_id, dag_conf in (("ingest_events", {}), ("build_spend", conf)):
        announce(dag_id)
        dag = bag.dags[dag_id]
        for operator in dag.tasks:
            # A person is waiting: a transient failure is told at once, not tried again for minutes.
            operator.retries = 0
        run = dag.test(logical_date=None, run_conf=dag_conf)
        if run.state != DagRunState.SUCCESS:
            if _FAILURES:
                raise _FAILURES[0]
            raise PermanentError(f"{dag_id} ended as {run.state}; run again with --debug to see why.")
    return dict(_REPORTS)

"""`./spendgate run`: one headless pass of both DAGs, one at a time in a home."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from typing import Any

from filelock import FileLock, Timeout

from spendgate.errors import RunUnderWayError
from spendgate.local import airflow as airflow_service
from spendgate.local import services
from spendgate.pipeline import Pipeline
from spendgate.settings import Settings
from spendgate.show import counted, say, tell
from spendgate.warehouse.engine import Warehouse


def run_once(settings: Settings, as_of: datetime | None) -> dict[str, dict[str, Any]]:
    """Run ingest_events, then build_spend, in this process, and say what they did.

    A second run in the same home waits for the first; between homes and schedules the warehouse's own locks
    and conditions keep rows right.

    Raises:
        RunUnderWayError: the other run took longer than SPENDGATE_LOCK_TIMEOUT.
        SpendGateError: what made a step fail.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    # Closed by the kernel when its process dies: the file of a killed run locks nobody out.
    lock = FileLock(settings.home / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell("Another run is under way; waiting for it to end.")
        try:
            lock.acquire(timeout=settings.lock_timeout)
        except Timeout as error:
            raise RunUnderWayError(
                f"Another run is still under way after {settings.lock_timeout:.0f} s; wait for it and run again."
            ) from error
    with lock:
        _check_services(settings)
        reports = _run_dags(settings, as_of)
    _say_reports(reports)
    return reports


def _check_services(settings: Settings) -> None:
    """Broker or warehouse away is told in a second, before Airflow is loaded.

    Where Airflow connections name them, only Airflow can tell where they are.
    """
    if any(name.startswith("AIRFLOW_CONN_SPENDGATE_") for name in os.environ):
        return
    warehouse = Warehouse(services.warehouse_url(settings), lock_timeout=settings.lock_timeout)
    try:
        Pipeline(settings, warehouse, services.endpoints(settings)).check_reachable()
    finally:
        warehouse.close()


def _run_dags(settings: Settings, as_of: datetime | None) -> dict[str, dict[str, Any]]:
    airflow_service.migrate_metadata(settings, headless=True, report=tell)
    os.environ.update(airflow_service.environment(settings, headless=True))
    if not os.environ.get("SPENDGATE_DEBUG"):
        os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
        logging.disable(logging.ERROR)
    from spendgate.airflow_adapter import run_headless

    return run_headless(as_of, lambda dag_id: tell(f"running {dag_id}"))


def _say_reports(reports: dict[str, dict[str, Any]]) -> None:
    intake, gate, merged = reports["ingest_events"], reports["judge_batches"], reports["merge_events"]
    spend, flags, sent = reports["rebuild_windows"], reports["decide_flags"], reports["publish_flags"]
    say(
        f"Read {intake['events']:,} events from {intake['partitions']} partitions; "
        f"rejected: {counted(intake['rejected'])}"
    )
    if gate["warned"]:
        say(f"The gate warns of {gate['warned']:,} of {gate['judged']:,} batches: ./spendgate batches list --warned")
    say(
        f"Merged {merged['inserted']:,} new and {merged['updated']:,} changed rows; "
        f"{merged['duplicates']:,} duplicates, {merged['superseded']:,} superseded, {merged['conflicts']:,} conflicting"
    )
    say(f"Rebuilt {spend['windows_built']:,} windows of {spend['days']:,} advertiser days")
    say(
        f"Decided {flags['decided']:,} flags as of {flags['as_of']}; "
        f"{flags['flipped']:,} changed, {sent['messages']:,} published"
    )

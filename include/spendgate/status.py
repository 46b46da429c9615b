"""`./spendgate status`: services, freshness, and whether the numbers agree with each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select

from spendgate.clock import day_start, format_instant, utc_now
from spendgate.errors import SpendGateError
from spendgate.ingest import WAITING
from spendgate.local import airflow as airflow_service
from spendgate.local import services
from spendgate.pipeline import Pipeline
from spendgate.quality.decisions import held_batches
from spendgate.settings import Settings
from spendgate.show import say, show_table
from spendgate.spend import Spend
from spendgate.warehouse.engine import Transaction, Warehouse
from spendgate.warehouse.row_versioning import advise_row_versioning
from spendgate.warehouse.schema import require_current
from spendgate.warehouse.tables import (
    Batch,
    ClickEvent,
    Discrepancy,
    Outbox,
    RejectedEvent,
    ServingFlag,
    StreamGap,
    TouchedDay,
)

# Today and the day before: what people and ad servers look at.
CHECKED_DAYS = 1
# A person waits for the answer.
STREAM_SECONDS = 5.0


def show_status(settings: Settings) -> bool:
    """Print everything; True when all is well."""
    found = services.states(settings)
    airflow = [state for state in found if state.name in airflow_service.COMPONENTS]
    if all(state.pid is None for state in airflow):
        # Never started, or stopped by `down`: it may run elsewhere, which its own UI tells.
        found = [state for state in found if state not in airflow]
        say("Airflow isn't started here; ./spendgate up starts it.")
    rows = [[state.name, "healthy" if state.healthy else "NOT HEALTHY", state.address, state.detail] for state in found]
    show_table(["service", "state", "address", "detail"], rows)
    well = all(state.healthy for state in found)
    try:
        warehouse = Warehouse(services.warehouse_url(settings))
        try:
            require_current(warehouse)
            if advice := advise_row_versioning(warehouse):
                say(advice)
            well &= _show_streams(settings, warehouse)
            _show_freshness(warehouse)
            well &= _show_checks(warehouse)
        finally:
            warehouse.close()
    except SpendGateError as error:
        say(f"Data: {error}")
        well = False
    say("All is well." if well else "Not all is well: docs/runbook.md says what to do.")
    return well


def _show_streams(settings: Settings, warehouse: Warehouse) -> bool:
    """What each stream holds that isn't read; True when all of them can be looked at."""
    impatient = settings.model_copy(update={"stream_timeout": min(settings.stream_timeout, STREAM_SECONDS)})
    endpoints = services.endpoints(impatient)
    intake = Pipeline(impatient, warehouse, endpoints).intake()

    def look(name: str) -> int | SpendGateError:
        try:
            with closing(endpoints.stream(name)) as stream:
                return len(stream.news(intake.stored_positions(name)))
        except SpendGateError as error:
            return error

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(look, settings.stream_kinds))
    failures = [one for one in found if isinstance(one, SpendGateError)]
    kinds = settings.stream_kinds.items()
    rows = [[name, kind.value, _unread(one)] for (name, kind), one in zip(kinds, found, strict=True)]
    show_table(["stream", "kind", "is"], rows)
    for failure in failures:
        say(str(failure))
    return not failures


def _unread(found: int | SpendGateError) -> str:
    if isinstance(found, SpendGateError):
        return "CAN'T BE READ"
    return f"more to read in {found} partition{'s' * (found > 1)}" if found else "all read"


def _show_freshness(warehouse: Warehouse) -> None:
    with warehouse.transaction(read_only=True) as transaction:
        facts: list[list[object]] = [
            # A replay doesn't make the data fresher.
            ["newest batch staged", _time(transaction, func.max(Batch.c.created_at), Batch.c.is_replay == 0)],
            ["newest batch merged", _time(transaction, func.max(Batch.c.merged_at))],
            ["batches waiting to be merged", _count(transaction, Batch, Batch.c.state.in_(WAITING))],
            ["batches held for a person", _count(transaction, Batch, Batch.c.state == "held")],
            ["days waiting to be rebuilt", _count(transaction, TouchedDay)],
            ["clicks", _count(transaction, ClickEvent)],
            ["rejected events", _count(transaction, RejectedEvent)],
            ["flags decided as of", _time(transaction, func.max(ServingFlag.c.as_of))],
            ["flags decided without held events", _count(transaction, ServingFlag, ServingFlag.c.is_stale == 1)],
            ["flags waiting to be published", _count(transaction, Outbox, Outbox.c.published_at.is_(None))],
        ]
    show_table(["data", "is"], facts)


def _show_checks(warehouse: Warehouse) -> bool:
    since = day_start((utc_now() - timedelta(days=CHECKED_DAYS)).date())
    failures = Spend(warehouse, utc_now).check_recent(since)
    if failures is None:
        say("Checks: a build is under way; ask again when it has ended.")
        return True
    for name, what in failures.items():
        say(f"Check {name} FAILED: {what}")
    with warehouse.transaction(read_only=True) as transaction:
        open_gaps = _count(transaction, StreamGap, StreamGap.c.accepted_at.is_(None))
        different = _count(transaction, Discrepancy, Discrepancy.c.closed_at.is_(None))
    if different:
        say(f"{different} differences are open: ./spendgate discrepancies list")
    if open_gaps:
        say(f"{open_gaps} stream gaps wait for a person: ./spendgate gaps list")
    held = held_batches(warehouse)
    for batch in held:
        say(batch.sentence)
    if not failures:
        say(f"Checks: all pass for windows since {format_instant(since)}.")
    return not failures and not open_gaps and not different and not held


def _time(transaction: Transaction, column: Any, *where: Any) -> str:
    value = transaction.run(select(column).where(*where)).scalar_one()
    return "never" if value is None else f"{format_instant(value)} ({_age(value)} ago)"


def _age(instant: datetime) -> str:
    seconds = max(0, int((utc_now() - instant).total_seconds()))
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"


def _count(transaction: Transaction, table: Any, *where: Any) -> int:
    return int(transaction.run(select(func.count()).select_from(table).where(*where)).scalar_one())

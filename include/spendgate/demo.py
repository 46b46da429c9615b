"""`./spendgate demo`: the whole job on this machine, on a day of sample events."""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import date, datetime, timedelta

from sqlalchemy import func, select

from spendgate.api.accounts import Accounts
from spendgate.api.identity import Scope
from spendgate.api.mount import MOUNTED_AT
from spendgate.clock import day_start, format_instant, utc_now
from spendgate.errors import ServiceError
from spendgate.local import airflow_client, services
from spendgate.local.sample import sample_events
from spendgate.settings import Settings, StreamKind, load_settings
from spendgate.show import counted, progress, say, show_table, tell
from spendgate.start import FOLLOWER, HOURLY, say_login, start_services
from spendgate.streams.kafka_producer import KafkaWriter
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import Batch, RejectedEvent, ServingFlag

RUN_TIMEOUT_SECONDS = 900.0
FIRST_RUN_SECONDS = 15.0
AS_OF_TRIES = 3
SHOWN_ADVERTISERS = 25
_PUBLISH_CHUNK = 20_000


def publish_yesterday(settings: Settings, clicks: int = 200_000, seed: int = 7) -> None:
    """The sample day alone, to a broker that is up: what profile `demo` of docker-compose.yaml does."""
    _publish_sample(settings, (utc_now() - timedelta(days=1)).date(), clicks, seed)


def run_demo(settings: Settings, *, once: bool, clicks: int, seed: int) -> None:
    """The main job on yesterday's sample events, shown as a table; with `once` everything is stopped at the end."""
    began = utc_now()
    day = (began - timedelta(days=1)).date()
    try:
        start_services(settings)
        _publish_sample(settings, day, clicks, seed)
        as_of = day_start(day) + timedelta(days=1) - timedelta(milliseconds=1)
        _run_dags(settings, as_of)
        _show_results(settings, began, as_of)
    finally:
        if once:
            services.down(settings, tell)
    if not once:
        with airflow_client.client(settings) as client:
            client.unpause(FOLLOWER)
            # Flags as of now: those of yesterday, which are shown, would be stale.
            _await_run(client, "build_spend", client.trigger("build_spend", {}))
        _say_curl(settings)
        say("Everything stays up and follows the streams; stop it with ./spendgate down.")
        say_login(settings)


def _publish_sample(settings: Settings, day: date, clicks: int, seed: int) -> None:
    queued: dict[str, list[tuple[bytes | None, bytes]]] = defaultdict(list)
    sent = 0
    with (
        progress(f"publishing the sample day {day.isoformat()}") as tick,
        KafkaWriter(services.kafka_properties(settings), timeout=settings.stream_timeout) as writer,
    ):
        writer.require(settings.streams_of(StreamKind.KAFKA))
        for event in sample_events(clicks=clicks, seed=seed, day=day):
            queued[event.stream].append((event.key, event.payload))
            sent += 1
            if sent % _PUBLISH_CHUNK == 0:
                _write(writer, queued)
                tick(sent, clicks)
        _write(writer, queued)
        writer.flush()
    tell(f"published {sent:,} events")


def _write(writer: KafkaWriter, queued: dict[str, list[tuple[bytes | None, bytes]]]) -> None:
    for stream, messages in queued.items():
        writer.write(stream, messages)
    queued.clear()


def _run_dags(settings: Settings, as_of: datetime) -> None:
    """Run both DAGs in Airflow."""
    with airflow_client.client(settings) as client:
        for dag_id in HOURLY:
            client.wait_for_dag(dag_id)
        ingest = _first_scheduled_run(client, "ingest_events") or client.trigger("ingest_events", {})
        _await_run(client, "ingest_events", ingest)
        if first := _first_scheduled_run(client, "build_spend"):
            _await_run(client, "build_spend", first)
        for _ in range(AS_OF_TRIES):
            _await_run(client, "build_spend", client.trigger("build_spend", {"as_of": format_instant(as_of)}))
            if _decided_as_of(settings, as_of):
                return
        raise ServiceError("Scheduled runs of build_spend kept deciding flags as of now; run ./spendgate demo again.")


def _decided_as_of(settings: Settings, as_of: datetime) -> bool:
    """Whether our decision is the one in the table: the schedule's own runs decide as of now."""
    warehouse = Warehouse(services.warehouse_url(settings))
    with warehouse.transaction(read_only=True) as transaction:
        others = select(func.count()).select_from(ServingFlag).where(ServingFlag.c.as_of != as_of)
        decided = transaction.run(others).scalar_one() == 0
    warehouse.close()
    return bool(decided)


def _first_scheduled_run(client: airflow_client.AirflowClient, dag_id: str) -> str | None:
    """The run that the scheduler makes when an hourly DAG is unpaused for the first time; None if it had runs."""
    if client.runs(dag_id):
        client.unpause(dag_id)
        return None
    client.unpause(dag_id)
    deadline = time.monotonic() + FIRST_RUN_SECONDS
    while time.monotonic() < deadline:
        if runs := client.runs(dag_id):
            return str(runs[0]["dag_run_id"])
        time.sleep(0.25)
    return None


def _await_run(client: airflow_client.AirflowClient, dag_id: str, run_id: str) -> None:
    tell(f"running {dag_id} in Airflow")
    state = client.wait(dag_id, run_id, RUN_TIMEOUT_SECONDS, tell)
    if state != "success":
        raise ServiceError(f"{dag_id} ended as {state}: look at its task logs in Airflow's UI, run {run_id}.")


def _show_results(settings: Settings, began: datetime, as_of: datetime) -> None:
    warehouse = Warehouse(services.warehouse_url(settings))
    read = select(func.sum(Batch.c.event_count)).where(Batch.c.is_replay == 0)
    with warehouse.transaction(read_only=True) as transaction:
        events = transaction.run(read.where(Batch.c.created_at >= began)).scalar_one()
        rejected = transaction.run(
            select(RejectedEvent.c.reason, func.count())
            .where(RejectedEvent.c.created_at >= began)
            .group_by(RejectedEvent.c.reason)
            .order_by(RejectedEvent.c.reason)
        ).all()
        reasons = transaction.run(
            select(ServingFlag.c.reason, func.count()).group_by(ServingFlag.c.reason).order_by(ServingFlag.c.reason)
        ).all()
        columns, rows = transaction.select(
            "SELECT advertiser_id, name, budget, spent_today, remaining, can_serve, reason FROM ads.CurrentServing "
            "ORDER BY spent_today DESC, advertiser_id"
        )
    warehouse.close()
    say()
    say(f"Events read: {events or 0:,}")
    say(f"Rejected, by reason: {counted(dict(rejected))}")
    shown = [[*row[:5], "yes" if row.can_serve else "no", row.reason] for row in rows[:SHOWN_ADVERTISERS]]
    show_table(
        columns, shown, title=f"Who may serve at {format_instant(as_of)}: the {len(shown)} biggest of {len(rows)}"
    )
    say(f"All advertisers, by reason: {counted(dict(reasons))}")


def _say_curl(settings: Settings) -> None:
    """One call of the API that works as it stands, with a key that ends after a day."""
    warehouse = Warehouse(services.warehouse_url(settings))
    key = Accounts(warehouse, utc_now).replace_key("demo", list(Scope), days=1)
    with warehouse.transaction(read_only=True) as transaction:
        biggest = select(ServingFlag.c.advertiser_id).order_by(ServingFlag.c.budget.desc(), ServingFlag.c.advertiser_id)
        advertiser = transaction.run(biggest.where(ServingFlag.c.can_serve == 1).limit(1)).scalar()
    warehouse.close()
    address, _, _ = services.ui(settings)
    say("Ask the API, in its words at " + address + MOUNTED_AT + "/v1/docs:")
    say(f"  curl -s -H 'X-API-Key: {key}' {address}{MOUNTED_AT}/v1/advertisers/{advertiser or 1}/can-serve")


if __name__ == "__main__":
    publish_yesterday(load_settings())

"""`./spendgate demo` and `./spendgate up`: the whole job on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any, cast

from sqlalchemy import func, select

from spendgate.clock import day_start, format_instant, utc_now
from spendgate.errors import ServiceError
from spendgate.local import airflow as airflow_service
from spendgate.local import services
from spendgate.local.sample import sample_events
from spendgate.settings import Settings
from spendgate.show import counted, progress, say, show_table, tell
from spendgate.streams.kafka_producer import KafkaTopics, KafkaWriter
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import RejectedEvent, ServingFlag

DAGS = ("ingest_events", "build_spend")
RUN_TIMEOUT_SECONDS = 900.0
SHOWN_ADVERTISERS = 25
_PUBLISH_CHUNK = 20_000


def start_services(settings: Settings, *, airflow: bool = True, schedule: bool = False) -> None:
    """Start what isn't up, migrate the warehouse, make the topics, and say where everything is."""
    services.up(settings, airflow=airflow, report=tell)
    warehouse = Warehouse(services.warehouse_url(settings))
    schema.migrate(warehouse)
    warehouse.close()
    if settings.kafka_bootstrap is None:
        kafka = services.kafka_properties(settings)
        KafkaTopics(kafka, timeout=settings.stream_timeout).ensure_topics(settings.streams, settings.topic_partitions)
    if airflow:
        with airflow_service.client(settings) as client:
            for dag_id in DAGS if schedule else ():
                client.wait_for_dag(dag_id)
                client.unpause(dag_id)
        _say_login(settings)


def run_demo(settings: Settings, *, once: bool, clicks: int, seed: int) -> None:
    """The main job on yesterday's sample events, shown as a table; with `once` everything is stopped at the end."""
    day = (utc_now() - timedelta(days=1)).date()
    try:
        start_services(settings)
        _publish_sample(settings, day, clicks, seed)
        as_of = day_start(day) + timedelta(days=1) - timedelta(milliseconds=1)
        intake = _run_dags(settings, as_of)
        _show_results(settings, intake, as_of)
    finally:
        if once:
            services.down(settings, tell)
    if not once:
        say("Everything stays up; stop it with ./spendgate down.")
        _say_login(settings)


def _say_login(settings: Settings) -> None:
    address, user, password = services.ui(settings)
    say(f"Airflow's UI: {address}  user {user}  password {password}")


def _publish_sample(settings: Settings, day: date, clicks: int, seed: int) -> None:
    queued: dict[str, list[tuple[bytes | None, bytes]]] = defaultdict(list)
    sent = 0
    with (
        progress(f"publishing the sample day {day.isoformat()}") as tick,
        KafkaWriter(services.kafka_properties(settings), timeout=settings.stream_timeout) as writer,
    ):
        writer.require(settings.streams)
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


def _run_dags(settings: Settings, as_of: datetime) -> Mapping[str, Any]:
    """Run both DAGs in Airflow; returns what the intake reported."""
    with airflow_service.client(settings) as client:
        for dag_id in DAGS:
            client.wait_for_dag(dag_id)
        ingest = _run_dag(client, "ingest_events", {})
        # Asleep until now, build_spend didn't wake for the staged events by itself, with the flags of this moment.
        _run_dag(client, "build_spend", {"as_of": format_instant(as_of)})
        return cast(Mapping[str, Any], client.xcom("ingest_events", ingest, "report_intake"))


def _run_dag(client: airflow_service.AirflowClient, dag_id: str, conf: Mapping[str, Any]) -> str:
    run_id = client.trigger(dag_id, conf)
    client.unpause(dag_id)
    tell(f"running {dag_id} in Airflow")
    state = client.wait(dag_id, run_id, RUN_TIMEOUT_SECONDS, tell)
    if state != "success":
        raise ServiceError(f"{dag_id} ended as {state}: look at its task logs in Airflow's UI, run {run_id}.")
    return run_id


def _show_results(settings: Settings, intake: Mapping[str, Any], as_of: datetime) -> None:
    warehouse = Warehouse(services.warehouse_url(settings))
    with warehouse.transaction(read_only=True) as transaction:
        rejected = transaction.run(
            select(RejectedEvent.c.reason, func.count())
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
    say(f"Events read: {intake['events']:,}")
    say(f"Rejected, by reason: {counted(dict(rejected))}")
    shown = [[*row[:5], "yes" if row.can_serve else "no", row.reason] for row in rows[:SHOWN_ADVERTISERS]]
    show_table(
        columns, shown, title=f"Who may serve at {format_instant(as_of)}: the {len(shown)} biggest of {len(rows)}"
    )
    say(f"All advertisers, by reason: {counted(dict(reasons))}")

"""`./spendgate up`: everything started, migrated, with its topics, and its DAGs let loose."""

from __future__ import annotations

from spendgate.local import services
from spendgate.settings import Settings, StreamKind
from spendgate.show import say, tell
from spendgate.streams.kafka_producer import KafkaTopics
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.row_versioning import turn_on_row_versioning

HOURLY = ("ingest_events", "build_spend")
# Of use once everything is up and waits for events.
FOLLOWER = "follow_streams"
# Keep the books, and keep them small.
DAILY = ("reconcile_spend", "purge_history")


def start_services(settings: Settings, *, airflow: bool = True, schedule: bool = False) -> None:
    """Start what isn't up, migrate the warehouse, make the topics, and say where everything is."""
    services.up(settings, airflow=airflow, report=tell)
    warehouse = Warehouse(services.warehouse_url(settings))
    if advice := turn_on_row_versioning(warehouse):
        say(advice)
    schema.migrate(warehouse)
    warehouse.close()
    if settings.kafka_bootstrap is None and settings.uses(StreamKind.KAFKA):
        kafka = services.kafka_properties(settings)
        KafkaTopics(kafka, timeout=settings.stream_timeout).ensure_topics(
            settings.streams_of(StreamKind.KAFKA), settings.topic_partitions
        )
    if airflow:
        from spendgate.local import airflow_client

        with airflow_client.client(settings) as client:
            for dag_id in (*HOURLY, FOLLOWER, *DAILY) if schedule else ():
                client.wait_for_dag(dag_id)
                client.unpause(dag_id)
        say_login(settings)


def say_login(settings: Settings) -> None:
    """Say where the UI is and how to log in."""
    address, user, password = services.ui(settings)
    say(f"Airflow's UI: {address}  user {user}  password {password}")

"""ingest_events on two real Celery workers: both work, one is lost in the middle, and each event comes once."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import URL, func, select, text
from tests.brokers import WheelBroker, await_that
from tests.factories import THRESHOLDS, click, count
from tests.production import Production

from spendgate import health
from spendgate.clock import utc_now
from spendgate.local.airflow_client import AirflowClient
from spendgate.merge import Merge
from spendgate.quality.gate import Gate
from spendgate.streams.kafka_producer import KafkaWriter
from spendgate.warehouse.engine import Lock, Warehouse
from spendgate.warehouse.tables import Batch, ClickEvent, RejectedEvent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PARTITIONS = 12
WORKERS = ("worker-1", "worker-2")
# Many batches to a partition, so that a worker can be lost between two of them.
CLICKS, BATCH_SIZE = 12_000, 50
RUN_SECONDS = 180.0
STREAM = f"clicks-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def production(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: URL, wheel_broker: WheelBroker
) -> Iterator[Production]:
    settings = {
        "SPENDGATE_STREAMS": STREAM,
        "SPENDGATE_FLAG_TOPIC": f"flags-{STREAM}",
        "SPENDGATE_BATCH_SIZE": str(BATCH_SIZE),
    }
    with Production(tmp_path_factory.mktemp("production"), postgres_url, wheel_broker.bootstrap, settings) as made:
        made.init()
        made.start("airflow-api-server", "airflow-scheduler", "airflow-dag-processor")
        made.start(*(f"airflow-worker@{name}" for name in WORKERS))
        made.await_healthy(WORKERS)
        yield made


@pytest.fixture(scope="module")
def warehouse(production: Production) -> Iterator[Warehouse]:
    opened = Warehouse(production.warehouse_url, lock_timeout=60)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def client(production: Production) -> Iterator[AirflowClient]:
    with production.client() as opened:
        opened.wait_for_dag("ingest_events", timeout=120)
        yield opened


def publish(broker: WheelBroker) -> None:
    """CLICKS clicks, over all partitions."""
    now = utc_now() - timedelta(hours=1)
    with KafkaWriter({"bootstrap.servers": broker.bootstrap}, timeout=20) as writer:
        writer.write(STREAM, [(str(number).encode(), click(number, now)) for number in range(CLICKS)])
        writer.flush()


def staged(warehouse: Warehouse) -> int:
    """How many events the batches that count hold."""
    with warehouse.transaction(read_only=True) as transaction:
        return int(transaction.run(select(func.coalesce(func.sum(Batch.c.event_count), 0))).scalar_one())


def slices(client: AirflowClient, run_id: str, **wanted: str) -> list[dict[str, Any]]:
    """The task instances of the run that read a partition each, of these which have the `wanted` values."""
    return [
        one
        for one in client.tasks("ingest_events", run_id)
        if one["task_id"] == "read_slice" and all(one[name] == value for name, value in wanted.items())
    ]


def waiting_for_locks(warehouse: Warehouse) -> int:
    """How many sessions of the warehouse wait for an advisory lock."""
    asked = text(
        "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with warehouse.transaction(read_only=True) as transaction:
        return int(transaction.run(asked).scalar_one())


def test_the_health_checks_of_the_containers_see_that_all_is_well(
    production: Production, client: AirflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in production.environment("airflow-scheduler", "here").items():
        if name.startswith("AIRFLOW__"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW__API__PORT", production.address.rpartition(":")[2])
    monkeypatch.setattr(socket, "gethostname", lambda: WORKERS[0])
    for component in ("api-server", "scheduler", "dag-processor", "worker"):
        assert health.main([component]) == 0
    assert health.main(["triggerer"]) == 1  # none was started
    monkeypatch.setattr(socket, "gethostname", lambda: "worker-3")
    assert health.main(["worker"]) == 1


def test_two_workers_read_partitions_and_the_loss_of_one_costs_no_event_and_doubles_none(
    production: Production, warehouse: Warehouse, client: AirflowClient, wheel_broker: WheelBroker
) -> None:
    publish(wheel_broker)
    client.unpause("ingest_events")
    await_that(lambda: bool(client.runs("ingest_events")), RUN_SECONDS)
    run_id = client.runs("ingest_events")[0]["dag_run_id"]
    kept, doomed = WORKERS

    def all_wait_and_one_is_of(host: str) -> bool:
        running = [one["hostname"] for one in slices(client, run_id, state="running")]
        return host in running and waiting_for_locks(warehouse) == len(running)

    # Both have read some partitions to their ends.
    await_that(lambda: all(slices(client, run_id, hostname=host, state="success") for host in WORKERS), RUN_SECONDS)
    with warehouse.transaction() as transaction:
        # Whoever reads waits for this lock before its next batch: the worker is lost between two of them.
        transaction.hold(Lock.STAGING)
        await_that(lambda: all_wait_and_one_is_of(doomed), RUN_SECONDS)
        lost = {one["map_index"] for one in slices(client, run_id, hostname=doomed, state="running")}
        ended = {one["map_index"] for one in slices(client, run_id, hostname=doomed, state="success")}
        production.kill_worker(doomed)
        assert 0 < staged(warehouse) < CLICKS

    assert client.wait("ingest_events", run_id, RUN_SECONDS, lambda _: None) == "success"
    read = {one["map_index"]: one for one in slices(client, run_id)}
    assert len(read) == PARTITIONS
    assert ended
    assert all(read[number]["hostname"] == doomed for number in ended)
    assert lost
    assert all(read[number]["hostname"] == kept and read[number]["try_number"] > 1 for number in lost)

    assert staged(warehouse) == CLICKS
    Gate(warehouse, utc_now, THRESHOLDS).judge_staged()
    Merge(warehouse, utc_now).merge_staged()
    assert count(warehouse, ClickEvent) == CLICKS
    assert count(warehouse, RejectedEvent) == 0

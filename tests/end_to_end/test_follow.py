"""With everything up: events are followed within seconds, bursts by few runs, by the real watcher and scheduler."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from confluent_kafka import Consumer, TopicPartition
from sqlalchemy import func, select
from tests.brokers import free_port
from tests.factories import advertiser, budget, click
from tests.untraced import untraced

from spendgate.clock import utc_now
from spendgate.local import airflow_client, services
from spendgate.settings import Settings
from spendgate.start import FOLLOWER, start_services
from spendgate.streams.kafka_producer import KafkaWriter
from spendgate.streams.publish_file import publish_lines
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import ClickEvent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BURST = 40
LONGEST_WAIT = 120.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, lend_metadata: Callable[[Path], Path]) -> Iterator[Settings]:
    # Not the port that others try first: two homes that start at once would both find it free.
    environment = mock.patch.dict(os.environ, untraced(), clear=True)
    made = Settings(home=lend_metadata(tmp_path_factory.mktemp("follow")), ui_port=free_port(), topic_partitions=1)
    try:
        with environment:
            start_services(made, schedule=True)
        yield made
    finally:
        services.down(made, lambda _: None)


def publish(settings: Settings, *bodies: bytes) -> None:
    publish_lines(bodies, services.endpoints(settings), stream="ad-clicks")


def eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LONGEST_WAIT
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def stored_clicks(settings: Settings) -> int:
    warehouse = Warehouse(services.warehouse_url(settings))
    try:
        with warehouse.transaction(read_only=True) as transaction:
            return int(transaction.run(select(func.count()).select_from(ClickEvent)).scalar_one())
    finally:
        warehouse.close()


def published_flags(settings: Settings) -> dict[int, dict[str, Any]]:
    """The topic's last message of each advertiser."""
    consumer = Consumer({**services.kafka_properties(settings), "group.id": "follower", "enable.partition.eof": True})
    try:
        topic = consumer.list_topics(settings.flag_topic, timeout=10).topics[settings.flag_topic]
        consumer.assign([TopicPartition(settings.flag_topic, number, 0) for number in topic.partitions])
        latest: dict[int, dict[str, Any]] = {}
        ended = 0
        while ended < len(topic.partitions):
            for message in consumer.consume(100, 1.0):
                if message.error() is not None:
                    ended += 1
                else:
                    flag = json.loads(message.value() or b"")
                    latest[flag["advertiser_id"]] = flag
        return latest
    finally:
        consumer.close()


def follower_runs(settings: Settings) -> list[dict[str, Any]]:
    with airflow_client.client(settings) as client:
        return client.runs(FOLLOWER)


def test_a_click_that_exhausts_a_budget_closes_the_gate_and_a_burst_becomes_few_runs(settings: Settings) -> None:
    hour_ago = utc_now() - timedelta(hours=1)
    publish(settings, advertiser(hour_ago), budget(1, hour_ago, "30"))
    # By the follower or by the first hourly runs, whoever comes first.
    assert eventually(lambda: bool(published_flags(settings)))
    (opened,) = published_flags(settings).values()
    assert (opened["can_serve"], opened["reason"]) == (True, "ok")

    before = len(follower_runs(settings))
    began = time.monotonic()
    with KafkaWriter(services.kafka_properties(settings), timeout=15) as writer:
        for number in range(BURST):
            writer.write("ad-clicks", [(b"1", click(number + 1, utc_now(), "1"))])
            writer.flush()
            time.sleep(0.1)
    took = time.monotonic() - began
    assert eventually(lambda: stored_clicks(settings) == BURST)
    assert eventually(lambda: all(run["state"] == "success" for run in follower_runs(settings)))
    # One after another while the burst lasts, each for more than a second, and one for what came during the last.
    assert 1 <= len(follower_runs(settings)) - before <= 2 + took
    (closed,) = published_flags(settings).values()
    # The message is of the moment in which the gate closed; what was clicked since closes nothing more.
    assert (closed["can_serve"], closed["reason"]) == (False, "exhausted")
    assert 30 <= Decimal(closed["spent_today"]) <= BURST
    assert {run["run_type"] for run in follower_runs(settings)} == {"asset_triggered"}

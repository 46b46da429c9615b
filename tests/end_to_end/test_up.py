"""Everything up, once: it comes up, lets its user in, follows events within seconds, heals after kills, and goes.

The watcher, scheduler and triggerer are the real ones; all tests here share one Airflow, which takes 20 s of
processor time to come up.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psutil
import pytest
from confluent_kafka import Consumer, TopicPartition
from pydantic import SecretStr
from sqlalchemy import func, select
from tests.brokers import await_that, free_port
from tests.factories import advertiser, budget, click
from tests.untraced import untraced

from spendgate.api.accounts import Accounts
from spendgate.api.identity import Scope
from spendgate.clock import utc_now
from spendgate.errors import ServiceError
from spendgate.local import airflow, airflow_client, postgres, services
from spendgate.local.processes import LOCALHOST, Supervisor
from spendgate.settings import ROOT, Settings
from spendgate.start import FOLLOWER, start_services
from spendgate.streams.kafka_producer import KafkaWriter
from spendgate.streams.publish_file import publish_lines
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import ClickEvent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BURST = 40
LONGEST_WAIT, LOOK_SECONDS = 120.0, 0.2


DAG = """
from airflow.sdk import dag, task
from spendgate.airflow_adapter import deadline

@dag(schedule=None, deadline=deadline("count_words", minutes=0))
def count_words():
    @task
    def count(**context):
        return len(context["dag_run"].conf["text"].split())

    count()

count_words()
"""


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that Airflow reads: our DAGs, and whatever a test puts beside them."""
    folder = tmp_path_factory.mktemp("dags")
    for file in (ROOT / "dags").glob("*.py"):
        (folder / file.name).symlink_to(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(airflow, "DAGS_FOLDER", folder)
        yield folder


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory,
    lend_metadata: Callable[[Path], Path],
    dags: Path,
    webhook: tuple[str, list[dict[str, Any]]],
) -> Iterator[Settings]:
    """A home in which everything is up; Airflow was first, when there was no warehouse yet."""
    made = Settings(
        home=lend_metadata(tmp_path_factory.mktemp("up")),
        # Not the port that others try first: two homes that start at once would both find it free.
        ui_port=free_port(),
        topic_partitions=1,
        alarm_webhook=SecretStr(webhook[0]),
    )
    try:
        with mock.patch.dict(os.environ, untraced(), clear=True):
            airflow.start(Supervisor(made.home), made, print)
            with httpx.Client(base_url=services.ui(made)[0], trust_env=False, timeout=30) as client:
                says_no(client)
            start_services(made, schedule=True)
        yield made
    finally:
        services.down(made, lambda _: None)


FLAG, READY = "/budget/v1/advertisers/1/can-serve", "/budget/v1/health/ready"


def says_no(client: httpx.Client) -> None:
    """Without a warehouse the API says so in time, and Airflow's own pages and API are what they were."""

    def seconds(path: str) -> float:
        began = time.monotonic()
        answer = client.get(path)
        assert answer.status_code == 503, answer.text
        assert "the warehouse" in answer.text.lower()
        return time.monotonic() - began

    # Of three, for the machine has other tests to do.
    assert any(seconds(READY) < 2 for _ in range(3))
    assert any(seconds(FLAG) < 2.5 for _ in range(3))
    assert client.get("/api/v2/monitor/health").json()["metadatabase"] == {"status": "healthy"}
    page = client.get("/")
    assert (page.status_code, "<html" in page.text) == (200, True)


def publish(settings: Settings, *bodies: bytes) -> None:
    publish_lines(bodies, services.endpoints(settings), stream="ad-clicks")


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
    await_that(lambda: bool(published_flags(settings)), LONGEST_WAIT, pause=LOOK_SECONDS)
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
    await_that(lambda: stored_clicks(settings) == BURST, LONGEST_WAIT, pause=LOOK_SECONDS)
    await_that(
        lambda: all(run["state"] == "success" for run in follower_runs(settings)), LONGEST_WAIT, pause=LOOK_SECONDS
    )
    # One after another while the burst lasts, each for more than a second, and one for what came during the last.
    assert 1 <= len(follower_runs(settings)) - before <= 2 + took
    (closed,) = published_flags(settings).values()
    # The message is of the moment in which the gate closed; what was clicked since closes nothing more.
    assert (closed["can_serve"], closed["reason"]) == (False, "exhausted")
    assert 30 <= Decimal(closed["spent_today"]) <= BURST
    assert {run["run_type"] for run in follower_runs(settings)} == {"asset_triggered"}


def test_its_user_and_nobody_else_is_let_in_and_nothing_listens_to_other_machines(settings: Settings) -> None:
    assert all(state.healthy for state in services.states(settings)), services.states(settings)
    url, user, password = services.ui(settings)
    login = httpx.post(f"{url}/auth/token", json={"username": user, "password": password}, trust_env=False)
    assert login.status_code == httpx.codes.CREATED
    wrong = httpx.post(f"{url}/auth/token", json={"username": user, "password": "guess"}, trust_env=False)
    assert wrong.status_code == httpx.codes.UNAUTHORIZED
    listening = {
        connection.laddr.ip
        for process in Supervisor(settings.home).processes()
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {LOCALHOST}


def test_a_dag_runs_by_the_client_and_one_that_is_late_broken_or_absent_is_told(
    settings: Settings, dags: Path, webhook: tuple[str, list[dict[str, Any]]]
) -> None:
    reported: list[str] = []
    (dags / "count_words.py").write_text(DAG)
    (dags / "broken.py").write_text("import airflow.nothing  # not a dag")
    with airflow_client.client(settings) as client:
        client.wait_for_dag("count_words")
        client.unpause("count_words")
        run_id = client.trigger("count_words", {"text": "one two three"})
        assert client.wait("count_words", run_id, 120, reported.append) == "success"
        assert client.xcom("count_words", run_id, "count") == 3
        assert client.xcom("count_words", run_id, "count", key="absent") is None
        assert [run["dag_run_id"] for run in client.runs("count_words")] == [run_id]
        assert [task["state"] for task in client.tasks("count_words", run_id)] == ["success"]
        # A run that isn't done in no time is late: the triggerer tells the webhook so.
        await_that(lambda: ("late", "count_words") in {(alarm["kind"], alarm["dag"]) for alarm in webhook[1]}, 60)
        client.pause("count_words")
        later = client.trigger("count_words", {"text": ""})
        with pytest.raises(ServiceError, match="of count_words is queued after 0 s"):
            client.wait("count_words", later, 0, reported.append)
        with pytest.raises(ServiceError, match=r"broken\.py doesn't import"):
            client.wait_for_dag("broken")
        with pytest.raises(ServiceError, match="Airflow answered 404"):
            client.unpause("absent")


def test_without_a_warehouse_airflow_works_and_the_api_says_no_until_it_is_back(settings: Settings) -> None:
    """Frozen, then stopped. That Airflow starts without one, the fixture has seen."""
    warehouse = Warehouse(services.warehouse_url(settings))
    key = Accounts(warehouse, utc_now).add_key("outage", [Scope.FLAGS], is_staff=True)
    warehouse.close()
    supervisor = Supervisor(settings.home)
    with httpx.Client(
        base_url=services.ui(settings)[0], headers={"X-API-Key": key}, trust_env=False, timeout=30
    ) as client:

        def answers() -> bool:
            return client.get(FLAG).status_code == 200

        await_that(answers, 30, pause=LOOK_SECONDS)
        frozen = supervisor.processes([postgres.NAME])
        try:
            for process in frozen:
                process.suspend()
            says_no(client)
        finally:
            for process in frozen:
                process.resume()
        await_that(answers, 10, pause=LOOK_SECONDS)
        supervisor.stop([postgres.NAME], signals={postgres.NAME: postgres.STOP_SIGNAL})
        says_no(client)
        postgres.start(supervisor, settings, print)
        await_that(answers, 10, pause=LOOK_SECONDS)
        await_that(lambda: "the warehouse" not in client.get(READY).text, 10, pause=LOOK_SECONDS)


def test_what_was_killed_is_started_again_and_nothing_is_left_after_the_end(settings: Settings) -> None:
    """The last test here: it ends what all others need."""
    supervisor = Supervisor(settings.home)

    def kill(*names: str) -> None:
        for name in names:
            record = supervisor.record(name)
            assert record
            os.kill(record.pid, signal.SIGKILL)

    kill(airflow.SCHEDULER, postgres.NAME)
    time.sleep(0.2)
    states = {state.name: state.healthy for state in services.states(settings)}
    assert (states[airflow.SCHEDULER], states[airflow.API_SERVER]) == (False, True)
    with mock.patch.dict(os.environ, untraced(), clear=True):
        services.up(settings, report=lambda _: None)
    assert all(state.healthy for state in services.states(settings))

    kill(airflow.SCHEDULER, airflow.TRIGGERER, postgres.NAME)
    services.down(settings, lambda _: None)
    assert supervisor.processes() == []

"""Airflow itself, once: it comes up, lets its user in, runs a DAG, heals after kills, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import SecretStr
from tests.brokers import await_that
from tests.untraced import untraced
from tests.webhook import Webhook

from spendgate.errors import ServiceError
from spendgate.local import airflow, airflow_client, postgres, services
from spendgate.local.processes import LOCALHOST, Supervisor
from spendgate.settings import Settings

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


@pytest.fixture
def dags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "dags"
    folder.mkdir()
    monkeypatch.setattr(airflow, "DAGS_FOLDER", folder)
    monkeypatch.setattr(airflow, "PLUGINS_FOLDER", tmp_path / "plugins")
    return folder


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_airflow_comes_up_runs_a_dag_heals_and_goes(
    supervisor: Supervisor,
    settings: Settings,
    dags: Path,
    reported: list[str],
    lend_metadata: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    stack: ExitStack,
) -> None:
    lend_metadata(settings.home)
    webhook = Webhook(204)
    settings = settings.model_copy(update={"alarm_webhook": SecretStr(stack.enter_context(webhook.serving()))})
    for name in os.environ.keys() - untraced().keys():
        monkeypatch.delenv(name)
    services.up(settings, report=reported.append)
    assert all(state.healthy for state in services.states(settings)), services.states(settings)

    url, user, password = services.ui(settings)
    login = httpx.post(f"{url}/auth/token", json={"username": user, "password": password}, trust_env=False)
    assert login.status_code == httpx.codes.CREATED
    wrong = httpx.post(f"{url}/auth/token", json={"username": user, "password": "guess"}, trust_env=False)
    assert wrong.status_code == httpx.codes.UNAUTHORIZED

    listening = {
        connection.laddr.ip
        for process in supervisor.processes()
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {LOCALHOST}

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
        await_that(lambda: any(alarm["kind"] == "late" for alarm in webhook.got), 60)
        assert webhook.got[0]["dag"] == "count_words"
        client.pause("count_words")
        later = client.trigger("count_words", {"text": ""})
        with pytest.raises(ServiceError, match="of count_words is queued after 0 s"):
            client.wait("count_words", later, 0, reported.append)
        with pytest.raises(ServiceError, match=r"broken\.py doesn't import"):
            client.wait_for_dag("broken")
        with pytest.raises(ServiceError, match="Airflow answered 404"):
            client.unpause("absent")

    for name in (airflow.SCHEDULER, postgres.NAME):
        record = supervisor.record(name)
        assert record
        os.kill(record.pid, signal.SIGKILL)
    time.sleep(0.2)
    states = {state.name: state.healthy for state in services.states(settings)}
    assert (states[airflow.SCHEDULER], states[airflow.API_SERVER]) == (False, True)
    services.up(settings, report=reported.append)
    assert all(state.healthy for state in services.states(settings))

    for name in (airflow.SCHEDULER, airflow.TRIGGERER, postgres.NAME):
        record = supervisor.record(name)
        assert record
        os.kill(record.pid, signal.SIGKILL)
    services.down(settings, reported.append)
    assert supervisor.processes() == []


@pytest.mark.slow
def test_the_headless_database_is_made_once_and_a_killed_migration_is_repeated(
    settings: Settings, reported: list[str]
) -> None:
    database = airflow.metadata_database(settings, headless=True)
    database.parent.mkdir(parents=True)
    database.with_suffix(".new").write_text("half a database")
    airflow.migrate_metadata(settings, headless=True, report=reported.append)
    airflow.migrate_metadata(settings, headless=True, report=reported.append)
    airflow.migrate_metadata(settings, report=reported.append)
    assert reported == ["airflow: making the metadata database"]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM dag_run").fetchone() == (0,)


@pytest.mark.slow
def test_a_database_of_an_older_airflow_is_migrated_with_its_rows(settings: Settings, reported: list[str]) -> None:
    airflow.migrate_metadata(settings)
    database = airflow.metadata_database(settings)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT INTO variable (key, val, is_encrypted) VALUES ('kept', 'yes', 0)")
    database.with_suffix(".version").write_text("3.0.0")
    airflow.migrate_metadata(settings, report=reported.append)
    assert reported == ["airflow: migrating the metadata database"]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT val FROM variable WHERE key = 'kept'").fetchone() == ("yes",)


def test_a_migration_that_fails_names_its_log(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow, "AIRFLOW", ("/bin/false",))
    with pytest.raises(ServiceError, match=r"couldn't be migrated: see .*airflow-migration\.log"):
        airflow.migrate_metadata(settings)
    assert not airflow.metadata_database(settings).exists()


def test_a_component_that_dies_at_once_names_its_log(
    supervisor: Supervisor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "AIRFLOW", ("/bin/false",))
    monkeypatch.setattr(airflow, "_is_migrated", lambda database: True)
    (settings.home / "airflow").mkdir()
    with pytest.raises(ServiceError, match=r"Airflow's .* didn't start: see .*\.log"):
        airflow.start(supervisor, settings, lambda _: None)
    assert supervisor.processes() == []


def test_a_client_of_an_airflow_that_is_down_says_what_to_run(supervisor: Supervisor, settings: Settings) -> None:
    supervisor.remember_port(airflow.API_SERVER, 1)
    with airflow_client.client(settings) as client, pytest.raises(ServiceError, match="Airflow doesn't answer"):
        client.runs("any")

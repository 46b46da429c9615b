"""Up, down and their states: what is asked for runs, twice asked is once done, and nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from spendgate.errors import ServiceError
from spendgate.local import airflow, airflow_client, broker, postgres, services
from spendgate.local.processes import LOCALHOST, Supervisor
from spendgate.settings import ROOT, Settings


def healthy(settings: Settings) -> dict[str, bool]:
    return {state.name: state.healthy for state in services.states(settings)}


def test_up_starts_warehouse_and_broker_and_a_second_up_changes_nothing(
    supervisor: Supervisor, settings: Settings, reported: list[str]
) -> None:
    services.up(settings, airflow=False, report=reported.append)
    before = services.states(settings)
    services.up(settings, airflow=False, report=reported.append)
    assert services.states(settings) == before
    assert {state.name for state in before if state.healthy} == {postgres.NAME, broker.NAME}
    assert len(reported) == 3


def test_where_to_reach_them_is_known_after_up(supervisor: Supervisor, settings: Settings) -> None:
    services.up(settings, airflow=False, report=lambda _: None)
    assert services.warehouse_url(settings).port == supervisor.remembered_port(postgres.NAME)
    assert services.kafka_properties(settings) == {"bootstrap.servers": broker.address(supervisor)}


@pytest.mark.parametrize("ask", [services.warehouse_url, services.kafka_properties, services.ui, airflow_client.client])
def test_before_the_first_up_the_answer_says_what_to_run(settings: Settings, ask: Callable[[Settings], object]) -> None:
    with pytest.raises(ServiceError, match=r"never started here: run \./spendgate up"):
        ask(settings)


@pytest.mark.parametrize("victim", [postgres.NAME, broker.NAME])
def test_down_leaves_nothing_and_up_repairs_after_a_kill(
    supervisor: Supervisor, settings: Settings, victim: str
) -> None:
    services.up(settings, airflow=False, report=lambda _: None)
    record = supervisor.record(victim)
    assert record
    os.kill(record.pid, signal.SIGKILL)
    services.up(settings, airflow=False, report=lambda _: None)
    assert healthy(settings)[victim]
    services.down(settings, lambda _: None)
    assert supervisor.processes() == []
    assert not any(healthy(settings).values())


def test_servers_that_are_elsewhere_are_not_started_here(supervisor: Supervisor, settings: Settings) -> None:
    elsewhere = settings.model_copy(
        update={
            "warehouse_url": SecretStr(f"postgresql+psycopg://someone:secret@{LOCALHOST}:1/ads"),
            "kafka_bootstrap": f"{LOCALHOST}:1",
            "kafka_config": SecretStr('{"client.id": "test"}'),
        }
    )
    services.up(elsewhere, airflow=False, report=lambda _: None)
    assert supervisor.processes() == []
    assert services.warehouse_url(elsewhere).database == "ads"
    assert services.kafka_properties(elsewhere) == {
        "bootstrap.servers": f"{LOCALHOST}:1",
        "client.id": "test",
    }
    warehouse, kafka = services.states(elsewhere)[:2]
    assert (warehouse.healthy, kafka.healthy) == (False, False)
    assert warehouse.detail == "set by SPENDGATE_WAREHOUSE_URL; doesn't answer"
    assert "secret" not in warehouse.address


def test_a_server_elsewhere_that_answers_is_healthy(settings: Settings) -> None:
    services.up(settings, airflow=False, report=lambda _: None)
    url = services.warehouse_url(settings).render_as_string(hide_password=False)
    address = services.kafka_properties(settings)["bootstrap.servers"]
    elsewhere = settings.model_copy(update={"warehouse_url": SecretStr(url), "kafka_bootstrap": address})
    assert [state.healthy for state in services.states(elsewhere)[:2]] == [True, True]


def test_one_that_fails_does_not_keep_the_others_from_starting(supervisor: Supervisor, settings: Settings) -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        taken = settings.model_copy(update={"warehouse_port": server.getsockname()[1]})
        with pytest.raises(ServiceError, match="SPENDGATE_WAREHOUSE_PORT"):
            services.up(taken, airflow=False, report=lambda _: None)
    assert supervisor.record(broker.NAME)


HOLDER = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


def hold_lock(settings: Settings) -> subprocess.Popen[bytes]:
    path = settings.home / "run" / "services.lock"
    path.parent.mkdir(exist_ok=True)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_a_second_up_waits_and_says_so(
    settings: Settings, reported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "LOCK_TIMEOUT", 0.1)
    with hold_lock(settings) as holder:
        with pytest.raises(ServiceError, match="Another up or down is under way"):
            services.down(settings, reported.append)
        holder.kill()
    assert reported == ["waiting for another up or down to end"]


def test_a_lock_file_left_by_a_killed_process_does_not_block(settings: Settings, reported: list[str]) -> None:
    with hold_lock(settings) as holder:
        holder.kill()
    services.down(settings, reported.append)
    assert reported == []


def test_down_of_a_home_that_is_not_there_makes_none(tmp_path: Path) -> None:
    services.down(Settings(home=tmp_path / "absent"), lambda _: None)
    assert not (tmp_path / "absent").exists()


def test_a_home_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match="set SPENDGATE_HOME to another directory"):
        services.up(Settings(home=tmp_path / "file" / "home"), airflow=False, report=lambda _: None)


def test_airflows_processes_get_this_homes_settings_and_no_other_projects(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONN_SPENDGATE_KAFKA", "kafka://")
    given = airflow.environment(Settings(home=settings.home, streams=("one", "two")))
    assert given["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert given["AIRFLOW_CONN_SPENDGATE_KAFKA"] == "kafka://"
    assert given["SPENDGATE_HOME"] == str(settings.home)
    assert given["SPENDGATE_STREAMS"] == "one,two"
    assert given["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT / "include")


def test_runs_inside_a_process_have_a_metadata_database_of_their_own(settings: Settings) -> None:
    live, headless = airflow.environment(settings), airflow.environment(settings, headless=True)
    name = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
    assert {key for key in live if live[key] != headless[key]} == {name}
    assert headless[name].endswith("/headless.db")


def test_generated_secrets_stay_the_same_and_are_readable_by_their_owner_only(settings: Settings) -> None:
    assert airflow.environment(settings) == airflow.environment(settings)
    secrets = list((settings.home / "secrets").iterdir())
    assert secrets
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}

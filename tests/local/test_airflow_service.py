"""Airflow's metadata database, and what is said when Airflow doesn't come up (tests/end_to_end/test_up.py: it does)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from spendgate.errors import ServiceError
from spendgate.local import airflow, airflow_client
from spendgate.local.processes import Supervisor
from spendgate.settings import Settings


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
def test_a_database_of_an_older_airflow_is_migrated_with_its_rows(
    settings: Settings, reported: list[str], lend_metadata: Callable[[Path], Path]
) -> None:
    lend_metadata(settings.home)
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

"""The connection `spendgate_warehouse`, as a person fills the form in: the engine that tasks get of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spendgate.local import airflow as airflow_service
from spendgate.settings import Settings

FORM: dict[str, Any] = {"conn_type": "mssql", "host": "db.example", "schema": "Spend Gate", "port": 1433}
LOGIN = FORM | {"login": "DOMAIN\\loader", "password": "p@ss/wörd:%25;1"}
CONNECTIONS = {
    "a login": LOGIN,
    "extras of all types": LOGIN
    | {"extra": {"encrypt": True, "trust_server_certificate": True, "sqlalchemy_scheme": "mssql+pymssql"}},
    "an identity": FORM | {"extra": {"Authentication": "ActiveDirectoryMSI"}},
    "a principal": FORM
    | {"login": "app", "password": "s3cret", "extra": {"authentication": "ActiveDirectoryServicePrincipal"}},
    "an unknown extra": LOGIN | {"extra": {"tds_version": "7.4"}},
    "no database": {**LOGIN, "schema": ""},
    "postgres": {"conn_type": "postgres", "host": "pg.example", "login": "u", "password": "p/w", "schema": "spendgate"},
}

# Opens the pipeline as a task does; nothing connects before it has something to say.
OPEN = """
import json, os, sys
import spendgate.airflow_adapter as adapter
from airflow.sdk.exceptions import AirflowFailException

def opened():
    try:
        with adapter.open_pipeline() as pipeline:
            engine = pipeline.warehouse.engine
            arguments, named = engine.dialect.create_connect_args(engine.url)
            return {"arguments": arguments, "named": named, "pool": engine.pool.size(), "driver": engine.driver}
    except AirflowFailException as error:
        return {"error": str(error)}

found = {}
for name, connection in json.loads(sys.stdin.read()).items():
    os.environ["AIRFLOW_CONN_SPENDGATE_WAREHOUSE"] = json.dumps(connection)
    found[name] = opened()
print(json.dumps(found, default=str))
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home: Path = tmp_path_factory.mktemp("home")
    environment = airflow_service.environment(Settings(home=home, warehouse_connections=3), headless=True)
    environment["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
    done = subprocess.run(
        [sys.executable, "-P", "-c", OPEN],
        env=environment,
        input=json.dumps(CONNECTIONS),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a login", ["PWD={p@ss/wörd:%25;1}", "UID=DOMAIN\\loader", "Encrypt=yes", "TrustServerCertificate=no"]),
        (
            "extras of all types",
            ["PWD={p@ss/wörd:%25;1}", "UID=DOMAIN\\loader", "Encrypt=yes", "TrustServerCertificate=yes"],
        ),
        ("an identity", ["Authentication=ActiveDirectoryMSI", "Encrypt=yes", "TrustServerCertificate=no"]),
        (
            "a principal",
            [
                "Authentication=ActiveDirectoryServicePrincipal",
                "UID=app",
                "PWD=s3cret",
                "Encrypt=yes",
                "TrustServerCertificate=no",
            ],
        ),
    ],
)
def test_the_driver_gets_what_was_typed_to_the_letter(opened: dict[str, Any], name: str, expected: list[str]) -> None:
    [text] = opened[name]["arguments"]
    joined = ";".join(["Server=db.example,1433", "Database=Spend Gate", *expected])
    assert sorted(text.split(";")) == sorted(joined.split(";"))
    assert (opened[name]["driver"], opened[name]["pool"]) == ("mssqlpython", 3)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("an unknown extra", "connection spendgate_warehouse has an option 'tds_version'; there are"),
        ("no database", "connection spendgate_warehouse names no database"),
    ],
)
def test_what_it_lacks_names_the_connection_and_fails_at_once(opened: dict[str, Any], name: str, says: str) -> None:
    assert says in opened[name]["error"]


def test_one_of_postgresql_is_taken_as_it_is(opened: dict[str, Any]) -> None:
    named = opened["postgres"]["named"]
    assert (named["host"], named["password"], named["dbname"]) == ("pg.example", "p/w", "spendgate")

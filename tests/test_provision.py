"""`./spendgate init`: what production needs is made once, and found the second time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import URL, create_engine, make_url, text

from spendgate.errors import ConfigurationError, PermanentError
from spendgate.provision import airflow_connections, prepare_warehouse, provision
from spendgate.secrets_file import make_password
from spendgate.settings import Settings
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from tests.brokers import WheelBroker
from tests.conftest import MSSQL_URL


def plain(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def test_schema_and_topics_are_made_once_and_left_alone_the_second_time(
    make_database: Callable[[], URL], wheel_broker: WheelBroker
) -> None:
    names = [f"{stream}-{uuid.uuid4().hex[:8]}" for stream in ("clicks", "flags")]
    url = make_database()
    settings = Settings(
        warehouse_url=plain(url),
        kafka_bootstrap=wheel_broker.bootstrap,
        streams=names[0],
        flag_topic=names[1],
        topic_partitions=12,
    )
    said: list[str] = []
    provision(settings, airflow=False, report=said.append)
    assert any("(was None)" in line for line in said)
    warehouse = Warehouse(url)
    schema.require_current(warehouse)
    warehouse.close()
    topics = AdminClient({"bootstrap.servers": wheel_broker.bootstrap}).list_topics(timeout=10).topics
    assert len(topics[names[0]].partitions) == 12
    assert names[1] in topics

    said.clear()
    provision(settings, airflow=False, report=said.append)
    assert not any("was" in line for line in said)


def test_what_is_missing_or_makes_no_sense_is_one_sentence_that_names_the_setting(
    make_database: Callable[[], URL], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPENDGATE_WAREHOUSE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="SPENDGATE_WAREHOUSE_URL"):
        provision(Settings(), airflow=False, report=lambda _: None)
    url = plain(make_database())
    with pytest.raises(ConfigurationError, match="SPENDGATE_WAREHOUSE_ADMIN_URL makes logins on SQL Server only"):
        provision(Settings(warehouse_url=url, warehouse_admin_url=url), airflow=False, report=lambda _: None)
    nobody = Settings(
        warehouse_url="mssql+mssqlpython://127.0.0.1/spendgate",
        warehouse_admin_url="mssql+mssqlpython://127.0.0.1/master",
    )
    with pytest.raises(ConfigurationError, match="user, password and database"):
        provision(nobody, airflow=False, report=lambda _: None)
    with pytest.raises(ConfigurationError, match="SPENDGATE_AIRFLOW_PASSWORD"):
        provision(Settings(warehouse_url=url), airflow=True, report=lambda _: None)


def test_airflows_connections_say_what_the_settings_say() -> None:
    settings = Settings(
        warehouse_url="mssql+mssqlpython://me:p%40ss@sqlserver:1433/spendgate?Encrypt=yes&TrustServerCertificate=yes",
        kafka_bootstrap="kafka:19092",
        kafka_config='{"security.protocol": "SSL"}',
    )
    found = airflow_connections(settings)
    warehouse = found["spendgate_warehouse"]
    assert {**warehouse, "extra": json.loads(warehouse["extra"])} == {
        "conn_type": "mssql", "host": "sqlserver", "port": 1433, "login": "me", "password": "p@ss",
        "schema": "spendgate", "extra": {"Encrypt": "yes", "TrustServerCertificate": "yes"},
    }  # fmt: skip
    assert json.loads(found["spendgate_kafka"]["extra"]) == {
        "bootstrap.servers": "kafka:19092", "security.protocol": "SSL"
    }  # fmt: skip


# --- On SQL Server ---------------------------------------------------------------------------------------------


@pytest.fixture
def wanted() -> Iterator[tuple[URL, URL]]:
    """The administrator's URL, and one with a database and a login that aren't there; both are gone afterwards."""
    if not MSSQL_URL:
        pytest.skip("needs a SQL Server: set SPENDGATE_TEST_MSSQL_URL")
    admin, name = make_url(MSSQL_URL), f"spendgate_{uuid.uuid4().hex[:12]}"
    yield admin, admin.set(username=f"{name}_user", password=make_password(), database=name)
    engine = create_engine(admin, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        connection.execute(text(f"DROP LOGIN {name}_user"))
    engine.dispose()


@pytest.mark.mssql
def test_database_login_and_user_are_made_and_a_new_password_counts(wanted: tuple[URL, URL]) -> None:
    admin, url = wanted

    def made(url: URL) -> None:
        prepare_warehouse(
            Settings(warehouse_url=plain(url), warehouse_admin_url=plain(admin)), url, report=lambda _: None
        )

    def refused(url: URL, statement: str) -> bool:
        warehouse = Warehouse(url)
        try:
            with warehouse.transaction() as transaction:
                transaction.connection.execute(text(statement))
        except PermanentError:
            return True
        finally:
            warehouse.close()
        return False

    made(url)
    assert not refused(url, "SELECT COUNT(*) FROM etl.Batch")
    assert refused(url, "CREATE TABLE ads.Mine (id INT)")
    renewed = url.set(password=make_password())
    made(renewed)
    assert refused(url, "SELECT 1")
    assert not refused(renewed, "SELECT COUNT(*) FROM etl.Batch")

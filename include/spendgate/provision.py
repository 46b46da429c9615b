"""`./spendgate init`: makes what production needs before the first run, and changes nothing that is right already.

In this order, each step safe to repeat:

1. on SQL Server, as its administrator: the database, and a login for the pipeline, the API and analysts;
2. the schema, with the roles and what they may (migrations);
3. on SQL Server: a user for each login, as member of its role;
4. the Kafka topics;
5. when asked: Airflow's metadata, its connections and its user admin.

Whoever runs the pipeline is no administrator: it is what SPENDGATE_WAREHOUSE_URL says, a member of its role.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from spendgate.errors import ConfigurationError, TransientError
from spendgate.settings import Settings, StreamKind, split_stream
from spendgate.streams.endpoints import FLAG_TOPIC_PARTITIONS
from spendgate.streams.kafka_producer import KafkaTopics
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.failures import failed_number, translate_failure
from spendgate.warehouse.roles import Role
from spendgate.warehouse.row_versioning import turn_on_row_versioning

Report = Callable[[str], None]

# A server that was started just now is waited for; SQL Server's first start takes half a minute.
WAIT_SECONDS = 180.0
_PAUSE_SECONDS = 3.0

ADMIN_SETTING = "SPENDGATE_WAREHOUSE_ADMIN_URL"
API_USER, ANALYST_USER = "spendgate_api_user", "spendgate_analyst_user"


@dataclass(frozen=True)
class _User:
    """A login of the server, and its user in the database."""

    name: str
    password: str
    role: Role


def provision(settings: Settings, *, airflow: bool, report: Report) -> None:
    """Make what is missing: see the module.

    Raises:
        ConfigurationError: a setting that is needed isn't set; the sentence names it.
        SpendGateError: a server refuses, or didn't answer within `WAIT_SECONDS`.
    """
    if settings.warehouse_url is None:
        raise ConfigurationError("Set SPENDGATE_WAREHOUSE_URL: init is for production, the laptop needs none.")
    prepare_warehouse(settings, make_url(settings.warehouse_url.get_secret_value()), report)
    _prepare_topics(settings, report)
    if airflow:
        _prepare_airflow(settings, report)


def prepare_warehouse(settings: Settings, url: URL, report: Report) -> None:
    """Database, logins, schema, users; without an administrator's URL the schema alone, as ourselves."""
    if settings.warehouse_admin_url is None:
        with closing(Warehouse(url)) as warehouse:
            _patiently(lambda: _migrate(warehouse, report), report)
        return
    admin = make_url(settings.warehouse_admin_url.get_secret_value())
    if not admin.get_backend_name() == url.get_backend_name() == "mssql":
        raise ConfigurationError(
            "SPENDGATE_WAREHOUSE_ADMIN_URL makes logins on SQL Server only: unset it, and give the user of "
            "SPENDGATE_WAREHOUSE_URL a database of its own."
        )
    users = _users(settings, url)
    _patiently(lambda: _prepare_server(admin, str(url.database), users, report), report)
    with closing(Warehouse(admin.set(database=url.database), setting=ADMIN_SETTING)) as warehouse:
        _migrate(warehouse, report)
    _prepare_users(admin.set(database=url.database), users, report)


def airflow_connections(settings: Settings) -> dict[str, dict[str, Any]]:
    """The connections by which DAGs reach warehouse and broker, in the form of `airflow connections import`."""
    found: dict[str, dict[str, Any]] = {}
    if settings.warehouse_url is not None:
        url = make_url(settings.warehouse_url.get_secret_value())
        found["spendgate_warehouse"] = {
            "conn_type": "mssql" if url.get_backend_name() == "mssql" else "postgres",
            "host": url.host,
            "port": url.port,
            "login": url.username,
            "password": url.password,
            "schema": url.database,
            "extra": json.dumps(dict(url.query)),
        }
    if settings.kafka_bootstrap is not None:
        properties = {"bootstrap.servers": settings.kafka_bootstrap, **settings.kafka_properties}
        found["spendgate_kafka"] = {"conn_type": "kafka", "extra": json.dumps(properties)}
    return found


def _users(settings: Settings, url: URL) -> list[_User]:
    if not (url.username and url.password and url.database):
        raise ConfigurationError("Give SPENDGATE_WAREHOUSE_URL the user, password and database that init shall make.")
    users = [_User(url.username, url.password, Role.PIPELINE)]
    for name, password, role in (
        (API_USER, settings.api_password, Role.API),
        (ANALYST_USER, settings.analyst_password, Role.ANALYST),
    ):
        if password is not None:
            users.append(_User(name, password.get_secret_value(), role))
    return users


def _patiently(step: Callable[[], None], report: Report) -> None:
    """Try again while the server may be coming up, for `WAIT_SECONDS` at most."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            step()
            return
        except TransientError as error:
            if time.monotonic() > deadline:
                raise
            report(f"waiting: {error}")
            time.sleep(_PAUSE_SECONDS)


def _migrate(warehouse: Warehouse, report: Report) -> None:
    if advice := turn_on_row_versioning(warehouse):
        report(f"warehouse: {advice}")
    before, now = schema.migrate(warehouse)
    report(f"warehouse: schema at revision {now}" + ("" if before == now else f" (was {before})"))


@contextmanager
def _as_administrator(url: URL) -> Iterator[Connection]:
    """A connection for statements that no transaction may hold: each is committed by itself."""
    made = Warehouse(url, setting=ADMIN_SETTING, make_engine=partial(create_engine, isolation_level="AUTOCOMMIT"))
    with closing(made) as warehouse, warehouse.connect() as connection:
        try:
            yield connection
        except DBAPIError as error:
            raise translate_failure(error, url, failed_number(connection), ADMIN_SETTING) from error


def _prepare_server(admin: URL, database: str, users: list[_User], report: Report) -> None:
    with _as_administrator(admin.set(database="master")) as connection:
        quote = connection.dialect.identifier_preparer.quote_identifier
        if connection.execute(text("SELECT DB_ID(:name)"), {"name": database}).scalar_one() is None:
            connection.exec_driver_sql(f"CREATE DATABASE {quote(database)}")
            report(f"warehouse: made database {database}")
        for user in users:
            known = text("SELECT COUNT(*) FROM sys.server_principals WHERE name = :name")
            verb = "ALTER" if connection.execute(known, {"name": user.name}).scalar_one() else "CREATE"
            # A password can't be bound; a quote is the only character that a T-SQL string gives a meaning to.
            password = user.password.replace("'", "''")
            connection.exec_driver_sql(f"{verb} LOGIN {quote(user.name)} WITH PASSWORD = N'{password}'")


def _prepare_users(url: URL, users: list[_User], report: Report) -> None:
    with _as_administrator(url) as connection:
        quote = connection.dialect.identifier_preparer.quote_identifier
        for user in users:
            known = text("SELECT COUNT(*) FROM sys.database_principals WHERE name = :name")
            if not connection.execute(known, {"name": user.name}).scalar_one():
                connection.exec_driver_sql(f"CREATE USER {quote(user.name)} FOR LOGIN {quote(user.name)}")
            # Says nothing when it is a member already.
            connection.exec_driver_sql(f"ALTER ROLE {quote(user.role)} ADD MEMBER {quote(user.name)}")
            report(f"warehouse: {user.name} is a member of {user.role}")


def _prepare_topics(settings: Settings, report: Report) -> None:
    if settings.kafka_bootstrap is None or not settings.uses(StreamKind.KAFKA):
        return
    properties = {"bootstrap.servers": settings.kafka_bootstrap, **settings.kafka_properties}
    topics = KafkaTopics(properties, timeout=settings.stream_timeout)
    streams = settings.streams_of(StreamKind.KAFKA)
    _patiently(lambda: _ensure_topics(topics, settings, streams), report)
    report(f"kafka: topics {', '.join(streams)} and {settings.flag_topic} are there")


def _ensure_topics(topics: KafkaTopics, settings: Settings, streams: list[str]) -> None:
    topics.ensure_topics(streams, settings.topic_partitions)
    kind, flag_topic = split_stream(settings.flag_topic)
    if kind is StreamKind.KAFKA:
        topics.ensure_topic(flag_topic, FLAG_TOPIC_PARTITIONS, compacted=True)


def _prepare_airflow(settings: Settings, report: Report) -> None:
    from spendgate.airflow_adapter import prepare_metadata

    password = settings.airflow_password
    if password is None:
        raise ConfigurationError("Set SPENDGATE_AIRFLOW_PASSWORD: it is what Airflow's user admin logs in with.")
    connections = airflow_connections(settings)
    with tempfile.TemporaryDirectory() as directory:  # only its owner may look into it
        file = Path(directory) / "connections.json"
        file.write_text(json.dumps(connections), encoding="utf-8")
        prepare_metadata(file, password.get_secret_value(), report)
    report(f"airflow: connections {', '.join(connections)} and user admin are there")

"""Real engines for every test that needs one: a warehouse and a broker, once a session."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage
from sqlalchemy import URL, Connection, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from spendgate.errors import SpendGateError
from spendgate.local import airflow, postgres
from spendgate.local.processes import Supervisor
from spendgate.settings import Settings
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.scripts import run_script
from spendgate.warehouse.tables import METADATA, BatchNumber
from tests import kafka_server
from tests.brokers import WheelBroker
from tests.kafka_server import ApacheKafka
from tests.webhook import Webhook

MSSQL_URL = os.environ.get("SPENDGATE_TEST_MSSQL_URL")
NAMED_KAFKA = os.environ.get("SPENDGATE_TEST_KAFKA")
LOCK_TIMEOUT_SECONDS = 30.0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not MSSQL_URL:
        terminalreporter.write_line(
            "SQL SERVER WAS NOT TESTED: set SPENDGATE_TEST_MSSQL_URL to run the warehouse tests on one.", yellow=True
        )
    lacking = kafka_server.missing()
    if lacking:
        on_named = " except on the broker that SPENDGATE_TEST_KAFKA names" if NAMED_KAFKA else ""
        terminalreporter.write_line(f"APACHE KAFKA WAS NOT TESTED{on_named}: {lacking}.", yellow=True)
    if shutil.which("docker-compose") is None:
        terminalreporter.write_line(
            "DOCKER-COMPOSE DIDN'T READ docker-compose.yaml: install it (Debian: apt-get install docker-compose).",
            yellow=True,
        )


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """The wheel's PostgreSQL, as `./spendgate up` starts it, in a home of its own."""
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    supervisor = Supervisor(settings.home)
    try:
        postgres.start(supervisor, settings, lambda _: None)
        url = postgres.url(supervisor)
        assert url is not None
        _forget_durability(url)
        yield url
    finally:
        supervisor.stop(signals={postgres.NAME: postgres.STOP_SIGNAL})


def _forget_durability(url: URL) -> None:
    """No test that shares this server pulls its plug: it needn't wait for the disk at every database and commit."""
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    admin.dispose()


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> URL:
    """The server that `warehouse` makes its databases on: PostgreSQL, and SQL Server where one is named."""
    dialect = getattr(request, "param", "postgresql")
    if dialect == "mssql":
        if not MSSQL_URL:
            pytest.skip("needs a SQL Server: set SPENDGATE_TEST_MSSQL_URL")
        return make_url(MSSQL_URL)
    url: URL = request.getfixturevalue("postgres_url")
    return url


# Files that take longest, longest first: one that began last would keep the others waiting at the end.
LONGEST = (
    "end_to_end/test_celery.py",
    "streams/test_contract.py",
    "end_to_end/test_acceptance.py",
    "test_cli.py",
    "dags/test_dag_runs.py",
    "test_replay.py",
    "test_pipeline.py",
    "end_to_end/test_kill.py",
    "end_to_end/test_up.py",
    "local/test_launcher.py",
    "end_to_end/test_demo.py",
    "test_bench.py",
    "streams/test_eventhub_stream.py",
    "streams/test_kafka_access.py",
    "streams/test_kafka_stream.py",
    "dags/test_stream_trigger.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by how long they take; within a file nothing moves."""
    tests = Path(__file__).parent
    rank = {tests / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Leave tests of many generated cases, and those marked `untraced`, to themselves.

    A tracer doubles the time of everything that Python does, of libraries too. What thousands of cases run is counted
    in the tests of single ones.
    """
    generated = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
    tracer = Coverage.current() if generated or item.get_closest_marker("untraced") else None
    if tracer is None:
        return (yield)
    tracer.stop()
    try:
        return (yield)
    finally:
        tracer.start()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `any_warehouse` runs on every engine that there is."""
    if "any_warehouse" in metafunc.fixturenames:
        mssql = pytest.param("mssql", marks=pytest.mark.mssql)
        metafunc.parametrize("server_url", ["postgresql", mssql], indirect=True, scope="session")


def _in_turn(connection: Connection, statement: str) -> None:
    """Run a statement that makes or drops a database.

    On SQL Server only one at a time makes one, and a session that was closed just now counts for a moment more.
    """
    tries = 1 if connection.dialect.name == "postgresql" else 20
    for tries_left in reversed(range(tries)):
        try:
            connection.execute(text(statement))
            return
        except DBAPIError:
            if not tries_left:
                raise
            time.sleep(0.25)


class Databases:
    """Makes databases on one server, and drops them in the end."""

    def __init__(self, server: URL) -> None:
        self.server = server
        self._made: list[str] = []
        self._admin = create_engine(server, isolation_level="AUTOCOMMIT")

    def __call__(self, template: URL | None = None) -> URL:
        """An empty database; with a template (PostgreSQL only), one like it."""
        name = f"spendgate_{uuid.uuid4().hex[:12]}"
        # Without a disk to wait for, copying files is cheaper than logging each page of them.
        suffix = "" if template is None else f" TEMPLATE {template.database} STRATEGY FILE_COPY"
        with self._admin.connect() as connection:
            _in_turn(connection, f"CREATE DATABASE {name}{suffix}")
        self._made.append(name)
        return self.server.set(database=name)

    def drop_all(self) -> None:
        force = " WITH (FORCE)" if self.server.get_backend_name() == "postgresql" else ""
        with self._admin.connect() as connection:
            for name in self._made:
                _in_turn(connection, f"DROP DATABASE {name}{force}")
        self._admin.dispose()


@pytest.fixture
def make_database(server_url: URL) -> Iterator[Databases]:
    """Makes empty databases on the server, and drops them after the test."""
    databases = Databases(server_url)
    yield databases
    databases.drop_all()


@pytest.fixture(scope="session")
def migrated_database(postgres_url: URL) -> Iterator[URL]:
    """A database on PostgreSQL that only was migrated: a copy of it costs a quarter of migrating another."""
    databases = Databases(postgres_url)
    url = databases()
    made = Warehouse(url)
    schema.migrate(made)
    made.close()
    yield url
    databases.drop_all()


class EmptiedWarehouse:
    """One migrated warehouse on SQL Server, emptied for each test that asks: to migrate and log in takes seconds."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._made: Warehouse | None = None

    def __call__(self) -> Warehouse:
        """A warehouse as `migrate` left it."""
        if self._made is None or not self._empty(self._made):
            self.close()
            self._made = Warehouse(self._databases(), lock_timeout=LOCK_TIMEOUT_SECONDS)
            schema.migrate(self._made)
        self._made.lock_timeout = LOCK_TIMEOUT_SECONDS
        return self._made

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    @staticmethod
    def _empty(made: Warehouse) -> bool:
        """False: a test left somebody in it who holds a table, or another schema."""
        statements = [f"TRUNCATE TABLE {table.fullname}" for table in METADATA.tables.values()]
        statements.append(f"ALTER SEQUENCE {BatchNumber.schema}.{BatchNumber.name} RESTART")
        try:
            with made.transaction() as transaction:
                run_script(transaction.connection, ["SET LOCK_TIMEOUT 10000", *statements, "SET LOCK_TIMEOUT -1"])
        except SpendGateError:
            return False
        return True


@pytest.fixture(scope="session")
def emptied_warehouse() -> Iterator[EmptiedWarehouse]:
    """A migrated warehouse without rows, on the SQL Server that is named."""
    assert MSSQL_URL
    databases = Databases(make_url(MSSQL_URL))
    emptied = EmptiedWarehouse(databases)
    yield emptied
    emptied.close()
    databases.drop_all()


@pytest.fixture
def warehouse(make_database: Databases, request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    """An empty, migrated warehouse; on PostgreSQL, unless a test asks for `any_warehouse`.

    On SQL Server tests share one; who changes its schema asks for `own_database` too.
    """
    on_postgresql = make_database.server.get_backend_name() == "postgresql"
    if not on_postgresql and "own_database" not in request.fixturenames:
        yield request.getfixturevalue("emptied_warehouse")()
        return
    template = request.getfixturevalue("migrated_database") if on_postgresql else None
    with closing(Warehouse(make_database(template), lock_timeout=LOCK_TIMEOUT_SECONDS)) as made:
        if not on_postgresql:
            schema.migrate(made)
        yield made


@pytest.fixture
def own_database() -> None:
    """Makes `warehouse` one of the test's own, with a schema and users that it may change."""


@pytest.fixture
def any_warehouse(warehouse: Warehouse) -> Warehouse:
    """`warehouse`, on each engine in turn."""
    return warehouse


@pytest.fixture(scope="session")
def lend_metadata(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Gives a new home Airflow's blank metadata database, which takes ten seconds to make: once for all workers."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder
    made = Settings(home=shared / "blank metadata")

    def lend(home: Path) -> Path:
        airflow.migrate_metadata(made)
        target = airflow.blank_database(Settings(home=home))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(airflow.blank_database(made), target)
        return home

    return lend


@pytest.fixture(scope="session")
def wheel_broker() -> Iterator[WheelBroker]:
    """The wheel's broker, once a session."""
    with WheelBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[ApacheKafka]:
    """Apache Kafka, once a session; skips where it can't run."""
    kafka_server.require()
    with ApacheKafka() as kafka:
        yield kafka


@pytest.fixture(scope="module")
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a webhook, and the alarms that it got."""
    made = Webhook(204)
    with made.serving() as url:
        yield url, made.got


@pytest.fixture
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[1]

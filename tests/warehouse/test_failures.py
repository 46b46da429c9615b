"""What an engine's error means: by its code, whatever its text says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import mssql_python
import pytest
from sqlalchemy import URL, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from spendgate.columns import CLICK_SCHEMA
from spendgate.errors import (
    ConfigurationError,
    PermanentError,
    SpendGateError,
    TransientError,
    WarehouseAccessError,
    WarehouseFullError,
    WarehouseOutdatedError,
    WarehouseUnavailableError,
)
from spendgate.warehouse.engine import Transaction, Warehouse
from spendgate.warehouse.failures import translate_failure
from spendgate.warehouse.tables import StagedClick

SQL_SERVER = make_url("mssql+mssqlpython://u:hidden-word@db.example:1433/spendgate")


def odbc(state: str) -> DBAPIError:
    """What SQLAlchemy raises when the driver met `state`, in the driver's own words."""
    cause = mssql_python.exceptions.sqlstate_to_exception(state, "[Microsoft][SQL Server]whatever it says")
    if cause is None:
        cause = mssql_python.DatabaseError(f"An error occurred with SQLSTATE code: {state}", "whatever it says")
    return DBAPIError("SELECT 1", {}, cause)


@pytest.mark.parametrize(
    ("state", "number", "expected"),
    [
        ("40001", 1205, TransientError),
        ("40001", None, TransientError),
        ("HYT00", 1222, TransientError),
        ("HYT00", -2, TransientError),
        ("42000", 1222, TransientError),
        ("42000", 3960, TransientError),
        ("42000", 40613, TransientError),
        ("28000", 18456, WarehouseAccessError),
        ("42000", 4060, WarehouseAccessError),
        ("42000", 229, WarehouseAccessError),
        ("42000", 4701, WarehouseAccessError),
        ("08004", None, WarehouseAccessError),
        ("42000", 1105, WarehouseFullError),
        ("42000", 9002, WarehouseFullError),
        ("42S02", 208, WarehouseOutdatedError),
        ("42000", 208, WarehouseOutdatedError),
        ("42S22", 207, WarehouseOutdatedError),
        ("08S01", None, WarehouseUnavailableError),
        ("08001", None, WarehouseUnavailableError),
        ("08S02", None, WarehouseUnavailableError),
        ("10054", None, WarehouseUnavailableError),
        ("HYT01", None, WarehouseUnavailableError),
        ("42000", None, PermanentError),
        ("42000", 102, PermanentError),
        ("23000", 2627, PermanentError),
        ("22012", 8134, PermanentError),
    ],
)
def test_sql_servers_errors_are_told_by_state_and_number(
    state: str, number: int | None, expected: type[SpendGateError]
) -> None:
    assert type(translate_failure(odbc(state), SQL_SERVER, number)) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("Sql Error: 1205: Class 13: State 51: deadlock on SRV in  at line 1"), TransientError),
        (RuntimeError("Failed ...: Sql Error: 9002: Class 17: State 2: log full on SRV"), WarehouseFullError),
        (RuntimeError("Sql Error: 208: Class 16: State 1: Invalid object"), WarehouseOutdatedError),
        (RuntimeError("Sql Error: 2627: Class 14: State 1: says 1205 and 9002"), PermanentError),
        (RuntimeError("Connection reset by peer"), WarehouseUnavailableError),
        (ValueError("String length (7 characters) exceeds schema size (3 characters)"), PermanentError),
    ],
)
def test_the_bulk_door_of_sql_server_is_told_by_the_number_in_its_error_token(
    error: Exception, expected: type[SpendGateError]
) -> None:
    assert type(translate_failure(error, SQL_SERVER)) is expected


def test_the_sentence_says_where_and_never_the_password() -> None:
    sentence = str(translate_failure(odbc("08S01"), SQL_SERVER, setting="connection spendgate_warehouse"))
    assert "db.example:1433" in sentence
    assert "connection spendgate_warehouse" in sentence
    assert "hidden-word" not in sentence


def test_a_connection_that_sqlalchemy_calls_lost_is_lost_whatever_the_code() -> None:
    error = odbc("42000")
    error.connection_invalidated = True
    assert isinstance(translate_failure(error, SQL_SERVER), WarehouseUnavailableError)


def assert_one_sentence(error: SpendGateError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 600


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite:///x.db",
        "postgresql://u@h/d",
        "postgresql+psycopg2://u@h/d",
        "mssql+pymssql://u@h/d",
        "oracle://u@h/d",
        "nosuchdatabase+driver://u@h/d",
    ],
)
def test_a_url_of_another_database_or_driver_names_the_setting(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SPENDGATE_WAREHOUSE_URL") as failure:
        Warehouse(url)
    assert_one_sentence(failure.value)


def test_a_missing_table_or_column_asks_for_migrate(any_warehouse: Warehouse) -> None:
    for source in ("SELECT n.id FROM ads.Nowhere AS n", "SELECT a.nothing FROM ads.Ad AS a"):
        with (
            pytest.raises(WarehouseOutdatedError, match="spendgate migrate"),
            any_warehouse.transaction() as transaction,
        ):
            transaction.select(source)


def test_a_refused_statement_is_permanent_and_leaves_the_warehouse_fit(any_warehouse: Warehouse) -> None:
    with pytest.raises(PermanentError) as failure, any_warehouse.transaction() as transaction:
        transaction.select("SELECT 1 / (a.n - 1) AS x FROM (SELECT 1 AS n) AS a")
    assert_one_sentence(failure.value)
    with any_warehouse.transaction() as transaction:
        assert transaction.next_batch_id() >= 1


@pytest.mark.mssql
@pytest.mark.parametrize("server_url", ["mssql"], indirect=True)
def test_the_number_is_asked_of_sql_server_itself(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers below 50000 can't be thrown at will; that they are told apart is tested above.

    XACT_ABORT is off because one TDS server forgets the number when the error ends the transaction.
    """
    seen: list[int | None] = []

    def spy(error: Exception, url: URL, found: int | None = None, setting: str = "") -> SpendGateError:
        seen.append(found)
        return translate_failure(error, url, found)

    monkeypatch.setattr("spendgate.warehouse.engine.translate_failure", spy)
    with pytest.raises(PermanentError), warehouse.transaction() as transaction:
        transaction.connection.execute(text("SET XACT_ABORT OFF; THROW 51205, 'no words', 1"))
    assert seen == [51205]


@pytest.mark.mssql
@pytest.mark.parametrize("server_url", ["mssql"], indirect=True)
def test_a_deadlock_on_sql_server_is_worth_a_retry(warehouse: Warehouse) -> None:
    both = threading.Barrier(2, timeout=30)
    errors: list[Exception] = []

    def run(first: str, second: str) -> None:
        try:
            with warehouse.transaction() as transaction:
                transaction.connection.execute(text(f"UPDATE {first} SET updated_at = updated_at"))
                both.wait()
                transaction.connection.execute(text(f"UPDATE {second} SET updated_at = updated_at"))
        except Exception as error:
            errors.append(error)

    in_threads(warehouse, run)
    assert [type(error) for error in errors] == [TransientError]


def in_threads(warehouse: Warehouse, run: Callable[[str, str], None]) -> None:
    """Run `run` over two tables in both orders at once."""
    insert = "INSERT INTO {} VALUES ({}, 1, '2026-11-21', '2026-11-21')"
    with warehouse.transaction() as transaction:
        transaction.connection.execute(text(insert.format("etl.StagingSweep", 1)))
        transaction.connection.execute(text("INSERT INTO etl.FlagTopic VALUES ('t', 'i', '2026-11-21', '2026-11-21')"))
    tables = ("etl.StagingSweep", "etl.FlagTopic")
    threads = [threading.Thread(target=run, args=order) for order in (tables, tables[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_deadlock_on_postgresql_is_worth_a_retry(warehouse: Warehouse) -> None:
    test_a_deadlock_on_sql_server_is_worth_a_retry(warehouse)


def cut(warehouse: Warehouse, session: int) -> None:
    """End a session by another one, as a server that goes down does."""
    ending = f"KILL {session}" if warehouse.dialect == "mssql" else f"SELECT pg_terminate_backend({session})"
    admin = create_engine(warehouse.engine.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.execute(text(ending))


def session_of(transaction: Transaction) -> int:
    asked = "SELECT @@SPID" if transaction.dialect == "mssql" else "SELECT pg_backend_pid()"
    return int(transaction.connection.execute(text(asked)).scalar_one())


def lose_the_connection(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        cut(warehouse, session_of(transaction))
        transaction.next_batch_id()


def test_a_connection_cut_by_the_server_is_worth_a_retry(any_warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseUnavailableError):
        lose_the_connection(any_warehouse)
    with any_warehouse.transaction() as transaction:
        assert transaction.next_batch_id() >= 1


def test_a_connection_cut_while_it_was_idle_is_replaced_unseen(any_warehouse: Warehouse) -> None:
    with any_warehouse.transaction() as transaction:
        session = session_of(transaction)
    cut(any_warehouse, session)
    time.sleep(0.2)
    with any_warehouse.transaction() as transaction:
        assert transaction.next_batch_id() >= 1


def test_more_than_its_share_of_connections_nobody_gets(any_warehouse: Warehouse) -> None:
    small = Warehouse(any_warehouse.url, connections=1)
    small.engine.pool._timeout = 0.2  # type: ignore[attr-defined]  # half a minute otherwise
    try:
        with small.transaction(), pytest.raises(TransientError, match="SPENDGATE_WAREHOUSE_CONNECTIONS higher"):
            small.bulk_load(StagedClick, CLICK_SCHEMA.empty_table().from_pylist([{}], schema=CLICK_SCHEMA))
        with small.transaction() as transaction:
            assert transaction.next_batch_id() >= 1
    finally:
        small.close()


def test_our_own_mistakes_are_not_translated(warehouse: Warehouse) -> None:
    with pytest.raises(ZeroDivisionError), warehouse.transaction():
        _ = 1 / 0
    assert not issubclass(ProgrammingError, SpendGateError)

"""No connection: one sentence that names the setting to change, within 20 seconds, as the real drivers meet it."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mssql_python
import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from sqlalchemy import URL, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from spendgate.errors import (
    ConfigurationError,
    PermanentError,
    SpendGateError,
    TransientError,
    WarehouseAccessError,
    WarehouseUnavailableError,
)
from spendgate.query import run_query
from spendgate.warehouse import engine
from spendgate.warehouse.address import SETTING
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.failures import translate_refusal
from tests.certificates import Authority
from tests.warehouse.servers import tells_error_numbers
from tests.warehouse.tds_server import TdsServer

MSSQL = "mssql+mssqlpython://sa:hidden-word@127.0.0.1:{}/spendgate"
POSTGRESQL = "postgresql+psycopg://u:hidden-word@127.0.0.1:{}/spendgate"
ANY = pytest.mark.parametrize("url", [POSTGRESQL, MSSQL], ids=["postgresql", "mssql"])


def refused(url: URL | str, *, within: float = 20) -> SpendGateError:
    """The error of a transaction on `url`: one sentence that names the setting and no password."""
    began = time.monotonic()
    warehouse = Warehouse(url)
    with pytest.raises(SpendGateError) as failure, warehouse.transaction():
        pass
    warehouse.close()
    assert time.monotonic() - began < within
    if "driver can't be loaded" in str(failure.value):
        # A machine without the system libraries of SQL Server's driver can't say how that driver fails.
        pytest.skip(f"SQL SERVER'S DRIVER WAS NOT TESTED: {failure.value}")
    assert_names_the_setting(failure.value)
    return failure.value


def assert_names_the_setting(error: SpendGateError) -> None:
    assert SETTING in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 600
    assert "hidden-word" not in str(error)


@contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """The port of something that isn't a database: it answers whatever it is told, or never (None), or hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                if answer is None:
                    held.append(connection)
                    continue
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for connection in held:
            connection.close()


@pytest.mark.slow  # SQL Server's driver keeps trying a closed port until its time-out
@ANY
def test_a_server_that_is_down_is_away(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    error = refused(url.format(port))
    assert isinstance(error, WarehouseUnavailableError)
    assert f"127.0.0.1:{port}" in str(error)


@ANY
def test_a_server_that_says_nothing_is_away_when_the_time_out_is_over(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.CONNECT_TIMEOUT_SECONDS < 15
    monkeypatch.setattr(engine, "CONNECT_TIMEOUT_SECONDS", 2)
    with listener(None) as port:
        error = refused(url.format(port), within=9)
    assert isinstance(error, WarehouseUnavailableError)


@pytest.mark.parametrize("encrypt", ["yes", "no"])
def test_a_server_that_is_none_of_sql_server_is_told_apart(encrypt: str) -> None:
    with listener(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        error = refused(f"{MSSQL.format(port)}?Encrypt={encrypt}")
    assert isinstance(error, ConfigurationError)
    assert "isn't SQL Server; set host and port" in str(error)


def test_one_that_hangs_up_may_be_another_or_only_be_starting(postgres_url: URL) -> None:
    assert postgres_url.port
    error = refused(MSSQL.format(postgres_url.port))
    assert isinstance(error, WarehouseUnavailableError)
    assert "only starting, or another server" in str(error)


@pytest.mark.parametrize(
    "wrong",
    [{"password": "wrong"}, {"username": "nobody"}, {"database": "not_there"}],
    ids=["password", "user", "database"],
)
def test_a_login_that_postgresql_refuses_says_what_to_check(postgres_url: URL, wrong: dict[str, str]) -> None:
    error = refused(postgres_url.set(**wrong))
    assert isinstance(error, WarehouseAccessError)
    assert "check user, password, database" in str(error)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("an authority of this test alone")


def test_a_certificate_that_is_not_trusted_says_so_and_nobody_logs_in(authority: Authority, tmp_path: Path) -> None:
    with TdsServer(authority.certify("server"), tmp_path) as server:
        error = refused(MSSQL.format(server.port))
        assert server.logins == 0
    assert isinstance(error, ConfigurationError)
    assert "isn't trusted" in str(error)
    assert "TrustServerCertificate" in str(error)


@pytest.mark.parametrize(
    ("number", "expected", "says"),
    [
        (18456, WarehouseAccessError, "check user, password, database"),
        (18452, WarehouseAccessError, "check user, password, database"),
        (4060, WarehouseAccessError, "has no database spendgate, or its user may not enter it"),
        (916, WarehouseAccessError, "has no database spendgate, or its user may not enter it"),
        (40613, TransientError, "was busy"),
        (40197, TransientError, "was busy"),
        (49918, TransientError, "was busy"),
    ],
)
def test_a_login_that_sql_server_refuses_is_told_by_its_number(
    authority: Authority, tmp_path: Path, number: int, expected: type[SpendGateError], says: str
) -> None:
    with TdsServer(authority.certify("server"), tmp_path, number) as server:
        warehouse = Warehouse(MSSQL.format(server.port) + "?TrustServerCertificate=yes")
        with pytest.raises(SpendGateError, match=says) as failure, warehouse.transaction():
            pass
        warehouse.close()
        # A wrong password isn't tried twice: a few more, and the login would be locked.
        assert server.logins == (1 if "password" in says else 2)
    assert type(failure.value) is expected
    assert "hidden-word" not in str(failure.value)


@pytest.mark.mssql
@pytest.mark.parametrize("server_url", ["mssql"], indirect=True)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"password": "wrong"}, "check user, password, database"),
        ({"database": "not_there"}, "check user"),
    ],
    ids=["password", "database"],
)
def test_a_login_that_the_server_named_for_tests_refuses(server_url: URL, wrong: dict[str, str], says: str) -> None:
    error = refused(server_url.set(**wrong))
    assert isinstance(error, WarehouseAccessError)
    assert says in str(error)


@pytest.mark.mssql
@pytest.mark.parametrize("server_url", ["mssql"], indirect=True)
def test_a_certificate_that_the_server_named_for_tests_has_of_itself(server_url: URL) -> None:
    if server_url.query.get("TrustServerCertificate") != "yes":
        pytest.skip("the server's certificate is trusted here")
    error = refused(server_url.difference_update_query(["TrustServerCertificate"]))
    assert isinstance(error, ConfigurationError)
    assert "TrustServerCertificate" in str(error)


def test_a_permission_that_is_missing_names_the_setting(any_warehouse: Warehouse) -> None:
    """Somebody who may enter the database, and no more; a server without numbers says it of whatever it refuses."""
    expected: type[SpendGateError] = WarehouseAccessError
    says = "grant the permission, or set another user"
    if not tells_error_numbers(any_warehouse):
        expected, says = PermanentError, "if a permission is missing, grant it to the user in SPENDGATE_WAREHOUSE_URL"
    name, word = f"guest_{uuid.uuid4().hex[:8]}", "Guest-2026!word"
    owner = create_engine(any_warehouse.engine.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    if any_warehouse.dialect == "mssql":
        make = [f"CREATE LOGIN {name} WITH PASSWORD = '{word}'", f"CREATE USER {name} FOR LOGIN {name}"]
        drop = [f"DROP USER {name}", f"DROP LOGIN {name}"]
    else:
        make, drop = [f"CREATE ROLE {name} LOGIN PASSWORD '{word}'"], [f"DROP ROLE {name}"]
    with owner.connect() as connection:
        for statement in make:
            connection.execute(text(statement))
    guest = Warehouse(make_url(any_warehouse.url).set(username=name, password=word))
    try:
        with pytest.raises(expected, match=says) as failure, guest.transaction() as run:
            run.select("SELECT a.ad_id FROM ads.Ad AS a")
        assert_names_the_setting(failure.value)
        with pytest.raises(PermanentError, match=says) as failure:
            run_query(guest, "SELECT a.ad_id FROM ads.Ad AS a")
        assert_names_the_setting(failure.value)
    finally:
        guest.close()
        with owner.connect() as connection:
            for statement in drop:
                connection.execute(text(statement))


@pytest.mark.parametrize(
    ("raised", "expected", "says"),
    [
        (ClientAuthenticationError("no identity here"), WarehouseAccessError, "check user and Authentication"),
        (ServiceRequestError("name not known"), WarehouseUnavailableError, "Entra ID, which signs us in"),
    ],
)
def test_a_token_that_entra_id_does_not_give_is_told_by_what_is_behind(
    raised: Exception, expected: type[SpendGateError], says: str
) -> None:
    """In the shape in which the driver passes it on: two errors of its own in front of the identity library's."""
    cause = mssql_python.InterfaceError("Failed to acquire an Entra ID access token", "it said")
    cause.__cause__ = RuntimeError("Azure AD authentication failed")
    cause.__cause__.__cause__ = raised
    url = make_url("mssql+mssqlpython://db.example/spendgate?Authentication=ActiveDirectoryMSI")
    error = translate_refusal(DBAPIError(None, None, cause), url)
    assert type(error) is expected
    assert says in str(error)
    assert "db.example" in str(error)

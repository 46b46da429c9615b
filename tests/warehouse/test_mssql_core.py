"""The login that bulk copies keep, without a server: when it is made, when it is used again, and when it ends."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import make_url

from spendgate.warehouse import mssql_core
from spendgate.warehouse.mssql_core import core_login, forget_login, kept_cursor

URL = "mssql+mssqlpython://loader:secret@db.example:1433/spend?Encrypt=yes&TrustServerCertificate=no"


class Core:
    """Counts logins as the driver's core would make them."""

    def __init__(self, login: dict[str, object]) -> None:
        self.login = login
        self.closed = 0
        self.is_cut = False
        logins.append(self)

    def cursor(self) -> Core:
        return self

    def close(self) -> None:
        self.closed += 1
        if self.is_cut:
            raise RuntimeError("Cursor close failed: the server ended the connection")

    def bulkcopy_arrow(self) -> None:
        """Only its name matters here."""


logins: list[Core] = []


@pytest.fixture(autouse=True)
def core(monkeypatch: pytest.MonkeyPatch) -> Any:
    logins.clear()
    module: Any = ModuleType("mssql_py_core")
    module.PyCoreConnection = Core
    monkeypatch.setitem(sys.modules, "mssql_py_core", module)
    return module


def pooled(url: str = URL) -> Any:
    """As much of a pooled connection as matters here; it is its own record of the pool."""
    return SimpleNamespace(info={}, engine=SimpleNamespace(url=make_url(url)))


def use(connection: Any) -> Any:
    with kept_cursor(connection, 15) as cursor:
        return cursor


def test_copies_that_follow_each_other_log_in_once() -> None:
    connection = pooled()
    assert use(connection) is use(connection) is logins[0]
    assert [login.login["server"] for login in logins] == ["db.example,1433"]
    assert use(pooled()) is logins[1]  # another connection has its own


def test_a_login_that_rested_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = pooled()
    use(connection)
    monkeypatch.setattr(mssql_core, "KEPT_SECONDS", -1.0)
    assert use(connection) is logins[1]
    assert logins[0].closed == 2  # cursor and connection


def test_a_copy_that_failed_ends_its_login() -> None:
    connection = pooled()
    use(connection).is_cut = True
    with pytest.raises(RuntimeError, match="2627"), kept_cursor(connection, 15):
        raise RuntimeError("Sql Error: 2627")
    assert logins[0].closed == 2
    assert use(connection) is logins[1]


def test_a_login_ends_with_the_connection_that_it_was_kept_with() -> None:
    connection = pooled()
    use(connection).is_cut = True
    for _ in range(2):
        forget_login(None, connection)
    assert logins[0].closed == 2


@pytest.mark.parametrize(
    "url",
    [
        "mssql+mssqlpython://db.example/spend?Trusted_Connection=yes",
        "mssql+mssqlpython://id:secret@db.example/spend?Authentication=ActiveDirectoryServicePrincipal",
        f"{URL}&HostnameInCertificate=other.example",
    ],
)
def test_who_signs_in_otherwise_or_asks_for_more_logs_in_by_the_driver(url: str) -> None:
    assert use(pooled(url)) is None
    assert logins == []


def test_another_core_than_the_one_we_know_is_left_alone(core: Any) -> None:
    core.PyCoreConnection = lambda login: SimpleNamespace(cursor=object)
    assert use(pooled()) is None
    del core.PyCoreConnection
    assert use(pooled()) is None


def test_a_login_says_what_the_url_says() -> None:
    assert core_login(make_url(URL), 7) == {
        "server": "db.example,1433",
        "database": "spend",
        "user_name": "loader",
        "password": "secret",
        "encryption": "yes",
        "trust_server_certificate": "no",
        "connect_timeout": 7,
    }

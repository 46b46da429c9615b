"""The core of bulk copies in the SQL Server driver: how it logs in, and a login of it that is kept for the next copy.

The driver's `bulkcopy_arrow` logs in anew for every copy, beside the connection that is there, and logs out again. A
task copies a batch every second or so: it keeps its login, with the pooled connection that the copy goes by. The core
is a module of the driver's wheel that calls itself a DB-API; where it isn't as we know it, nothing is kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection

# Longer ago, and the server or a gateway may have closed it, which only the copy would find out.
KEPT_SECONDS = 30.0
_KEY = "spendgate_bulk_login"
# What `core_login` can pass on. Who needs more than that logs in by the driver.
_PASSED_ON = frozenset({"Authentication", "Encrypt", "TrustServerCertificate"})
# What is raised where the core isn't for others to call any more.
OTHER_CORE = (ImportError, AttributeError, TypeError, ValueError)


@dataclass(slots=True)
class _Login:
    """A login of the core, and when it was last used (seconds of the monotonic clock)."""

    connection: Any
    cursor: Any
    used_at: float

    def close(self) -> None:
        """End it; that it can't be ended, because the server did, is no news, and hides no other error."""
        for one in (self.cursor, self.connection):
            with suppress(RuntimeError):
                one.close()


def core_login(url: URL, timeout: int) -> dict[str, object] | None:
    """`url` as the core takes it; None: it isn't a password that signs in. `timeout`: seconds."""
    options = url.query
    if not url.username or options.get("Authentication", "SqlPassword") != "SqlPassword":
        return None
    return {
        "server": f"{url.host},{url.port}" if url.port else url.host,
        "database": url.database,
        "user_name": url.username,
        "password": url.password,
        "encryption": options.get("Encrypt", "yes"),
        "trust_server_certificate": options.get("TrustServerCertificate", "no"),
        "connect_timeout": timeout,
    }


@contextmanager
def kept_cursor(connection: Connection, timeout: int) -> Iterator[Any]:
    """A cursor of the core that is logged in, kept with `connection` until it is closed; None: log in by the driver.

    A block that raises ends the login, and with it whatever the server still had of the copy. The core's errors come
    as they are.
    """
    login = connection.info.pop(_KEY, None)
    if login is not None and time.monotonic() - login.used_at > KEPT_SECONDS:
        login.close()
        login = None
    if login is None:
        login = _log_in(connection.engine.url, timeout)
    if login is None:
        yield None
        return
    try:
        yield login.cursor
    except BaseException:
        login.close()
        raise
    login.used_at = time.monotonic()
    connection.info[_KEY] = login


def forget_login(_connection: object, record: Any) -> None:
    """End the login that was kept with a pooled connection; for the pool's event `close`."""
    login = record.info.pop(_KEY, None)
    if login is not None:
        login.close()


def _log_in(url: URL, timeout: int) -> _Login | None:
    given = core_login(url, timeout)
    if given is None or not _PASSED_ON.issuperset(url.query):
        return None
    try:
        from mssql_py_core import PyCoreConnection

        connection = PyCoreConnection(given)
        login = _Login(connection, connection.cursor(), time.monotonic())
    except OTHER_CORE:
        return None
    return login if hasattr(login.cursor, "bulkcopy_arrow") else None

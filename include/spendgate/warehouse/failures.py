"""What an engine's error means to us: told by its code, never by its text."""

from __future__ import annotations

import re
from functools import cache

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError, InvalidRequestError

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

# SQLSTATEs or their beginnings. PostgreSQL: https://www.postgresql.org/docs/current/errcodes-appendix.html
# (08 connection, 57P shutdown and crash, 28 authorization). ODBC, which speaks for SQL Server:
# https://learn.microsoft.com/sql/odbc/reference/appendixes/appendix-a-odbc-error-codes
# The first group that fits counts: 08004, "rejected the connection", is a refusal although it is of class 08.
_REFUSED = ("28", "3D000", "42501", "08004")
_UNAVAILABLE = ("08", "57P", "HYT01", "10054")
_RETRY = ("40001", "40P01", "55P03", "57014", "53200", "53300", "HYT00")
_FULL = ("53100",)
_OUTDATED = ("42P01", "3F000", "42703", "42S02", "42S22")

# SQL Server's error numbers, where the SQLSTATE is the catch-all 42000:
# https://learn.microsoft.com/sql/relational-databases/errors-events/database-engine-events-and-errors
# Login, database, and permission on an object, a column, a statement, a database.
_REFUSED_NUMBERS = frozenset({18452, 18456, 18470, 18486, 18487, 18488, 4060, 229, 230, 262, 300, 916})
# Deadlock, lock time-out, snapshot conflict, memory, and Azure SQL's moving, throttling and resource limits.
_RETRY_NUMBERS = frozenset({1205, 1222, -2, 3960, 8645, 10928, 10929, 40197, 40501, 40613, 49918, 49919, 49920})
# Filegroup, data file and transaction log.
_FULL_NUMBERS = frozenset({1101, 1105, 9002})
_OUTDATED_NUMBERS = frozenset({207, 208})

_ODBC_STATES = ("08001", "08003", "08004", "08007", "08S01", "28000", "40001", "42000", "42S02", "42S22")
_ODBC_TIMEOUTS = ("HYT00", "HYT01")
# Without a statement it is the login that was refused (4060, no such database, comes as 42000) or that took too long.
_AT_CONNECT = {"42000": "28000", "HYT00": "08001"}
# The fixed form in which the driver names a SQLSTATE that it has no phrase for.
_UNNAMED_STATE = re.compile(r"An error occurred with SQLSTATE code: (\w{5})")
# The fixed beginning of what the driver says when a system library that it is linked to is missing; it has no code.
_NOT_LOADED = "Failed to load the driver"
# The fixed form in which the bulk copy core gives the error token of the TDS protocol: it has no field for it.
_BULK_NUMBER = re.compile(r"\bSql Error: (-?\d+): Class \d+: State \d+:")


def translate_failure(error: Exception, url: URL, number: int | None = None) -> SpendGateError:
    """Our error for a driver's: its SQLSTATE and SQL Server's error number, if known, say which."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if str(getattr(cause, "ddbc_error", "")).startswith(_NOT_LOADED):
        return ConfigurationError(
            "The SQL Server driver can't be loaded on this machine; install the system libraries that it needs "
            "(Debian: libltdl7, libkrb5-3 and libgssapi-krb5-2) and run again."
        )
    where = f"{url.host}:{url.port}" if url.port else f"{url.host}"
    first_line = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return _by_code(_sqlstate(error, cause, lost), number or _bulk_number(cause), where, first_line)


def failed_number(connection: Connection) -> int | None:
    """The number of the error that just ended a statement on SQL Server; None: unknown.

    The driver's exceptions don't carry it, and it frees the statement's diagnostics before they reach us.
    """
    try:
        return connection.exec_driver_sql("SELECT @@ERROR").scalar_one() or None
    except (DBAPIError, InvalidRequestError):
        return None  # the connection went with the statement; its SQLSTATE says so


def _sqlstate(error: Exception, cause: BaseException, lost: bool) -> str:
    """The five characters that class the error; empty if it has none."""
    if lost:
        return "08003"
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return str(state)
    if hasattr(cause, "pgconn"):
        # A failed login reaches psycopg without its SQLSTATE. A server that asked for the password and then
        # said no is there; what it refuses is the password, the user or the database.
        return "28000" if getattr(cause.pgconn, "used_password", False) else "08001"
    if hasattr(cause, "driver_error"):
        found = _odbc_state(str(cause.driver_error))
        at_connect = isinstance(error, DBAPIError) and error.statement is None
        return _AT_CONNECT.get(found, found) if at_connect else found
    # The bulk copy core: it reports what it was given as a ValueError, what the server says as a
    # RuntimeError with a number, and a connection that failed as one without.
    return "08001" if isinstance(cause, RuntimeError) and _bulk_number(cause) is None else ""


@cache
def _odbc_phrases() -> dict[str, str]:
    """The driver replaces each SQLSTATE by a phrase of its own: its table, read backwards."""
    from mssql_python.exceptions import sqlstate_to_exception

    known = ((state, sqlstate_to_exception(state, "")) for state in (*_ODBC_STATES, *_ODBC_TIMEOUTS))
    return {exception.driver_error: state for state, exception in known if exception is not None}


def _odbc_state(phrase: str) -> str:
    unnamed = _UNNAMED_STATE.fullmatch(phrase)
    return unnamed.group(1) if unnamed else _odbc_phrases().get(phrase, "")


def _bulk_number(cause: BaseException) -> int | None:
    found = _BULK_NUMBER.search(str(cause)) if isinstance(cause, RuntimeError) else None
    return int(found.group(1)) if found else None


def _by_code(state: str, number: int | None, where: str, first_line: str) -> SpendGateError:
    if state.startswith(_FULL) or number in _FULL_NUMBERS:
        return WarehouseFullError(
            f"The warehouse at {where} has no disk space left; free some and run again ({first_line})."
        )
    if state.startswith(_REFUSED) or number in _REFUSED_NUMBERS:
        return WarehouseAccessError(
            f"The warehouse at {where} refuses us; check user, password, database and permissions in "
            f"SPENDGATE_WAREHOUSE_URL ({first_line})."
        )
    if state.startswith(_RETRY) or number in _RETRY_NUMBERS:
        return TransientError(f"The warehouse at {where} was busy; run again ({first_line}).")
    if state.startswith(_UNAVAILABLE):
        return WarehouseUnavailableError(
            f"The warehouse at {where} can't be reached or went away; start it (./spendgate up) or set "
            f"SPENDGATE_WAREHOUSE_URL ({first_line})."
        )
    if state.startswith(_OUTDATED) or number in _OUTDATED_NUMBERS:
        return WarehouseOutdatedError(
            f"The warehouse at {where} lacks a table or column; run ./spendgate migrate ({first_line})."
        )
    return PermanentError(f"The warehouse at {where} refused a statement: {first_line}")

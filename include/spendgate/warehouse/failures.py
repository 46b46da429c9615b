"""What an engine's error means to us: told by its code, never by its text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
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
from spendgate.warehouse import tds
from spendgate.warehouse.address import SETTING
from spendgate.warehouse.mssql_core import OTHER_CORE, core_login
from spendgate.warehouse.tds import Listener

# SQLSTATEs or their beginnings. PostgreSQL: https://www.postgresql.org/docs/current/errcodes-appendix.html
# (08 connection, 57P shutdown and crash, 28 authorization). ODBC, which speaks for SQL Server:
# https://learn.microsoft.com/sql/odbc/reference/appendixes/appendix-a-odbc-error-codes
# The first group that fits counts: 08004, "rejected the connection", is a refusal although it is of class 08.
_REFUSED = ("28", "08004")
_NO_DATABASE = ("3D000",)
_NOT_ALLOWED = ("42501",)
_UNAVAILABLE = ("08", "57P", "HYT01", "10054")
_RETRY = ("40001", "40P01", "55P03", "57014", "53200", "53300", "HYT00")
_FULL = ("53100",)
_OUTDATED = ("42P01", "3F000", "42703", "42S02", "42S22")

# SQL Server's error numbers, where the SQLSTATE is the catch-all 42000:
# https://learn.microsoft.com/sql/relational-databases/errors-events/database-engine-events-and-errors
_REFUSED_NUMBERS = frozenset({18452, 18456, 18470, 18486, 18487, 18488})
# A database that isn't there, isn't open, or in which the login is no user.
_NO_DATABASE_NUMBERS = frozenset({911, 916, 4060, 4064})
# Permission on an object, a column, a database, the server; an object that may not even be seen.
_NOT_ALLOWED_NUMBERS = frozenset({229, 230, 262, 297, 300, 1088, 2760, 4701, 5011, 15151, 15247})
# Deadlock, lock and query time-outs, snapshot conflicts, memory and locks that ran out, a session that was ended or a
# database that is coming up or changing hands, and Azure SQL's moving, throttling and resource limits:
# https://learn.microsoft.com/azure/azure-sql/database/troubleshoot-common-errors-issues
_RETRY_NUMBERS = frozenset({1205, 1222, -2, 3960, 3961, 701, 802, 1204, 8645, 8651, 8628})
_RETRY_NUMBERS |= {596, 6005, 615, 921, 922, 952, 983}
_RETRY_NUMBERS |= {10928, 10929, 40143, 40197, 40501, 40540, 40613, 49918, 49919, 49920}
# Filegroup, data file and transaction log.
_FULL_NUMBERS = frozenset({1101, 1105, 9002})
_OUTDATED_NUMBERS = frozenset({207, 208})

_ODBC_STATES = ("08001", "08003", "08004", "08007", "08S01", "28000", "40001", "42000", "42S02", "42S22", "HY000")
_ODBC_TIMEOUTS = ("HYT00", "HYT01")
# At the login 42000 is the database (4060), and a time-out that of the login.
_AT_CONNECT = {"42000": "3D000", "HYT00": "08001"}
# What the driver calls everything that goes wrong before the login.
_NOT_CONNECTED = ("08001", "HY000")
# OpenSSL's code of a certificate that it doesn't trust, in the fixed form in which the driver repeats it: the reason,
# 134, behind the library, 20, as OpenSSL 3 and 1.1 pack them.
_UNTRUSTED = re.compile(r"\berror:(?:0A0000|14[0-9A-F]{3}0)86:")
# The fixed form in which the driver names a SQLSTATE that it has no phrase for.
_UNNAMED_STATE = re.compile(r"An error occurred with SQLSTATE code: (\w{5})")
# The fixed beginning of what the driver says when a system library that it is linked to is missing; it has no code.
_NOT_LOADED = "Failed to load the driver"
# The fixed form in which the bulk copy core gives the error token of the TDS protocol: it has no field for it.
_BULK_NUMBER = re.compile(r"\bSql Error: (-?\d+): Class \d+: State \d+:")


def translate_failure(error: Exception, url: URL, number: int | None = None, setting: str = SETTING) -> SpendGateError:
    """Our error for a driver's: its SQLSTATE and SQL Server's error number, if known, say which.

    `setting` is where `url` came from, for the sentence that says what to change.
    """
    cause = _cause(error)
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    state = "08003" if lost else _sqlstate(cause)
    said = _first_line(cause) + permission_hint(error, number, setting)
    return _by_code(state, number or _bulk_number(cause), Place(url, setting), said)


def permission_hint(error: Exception, number: int | None, setting: str = SETTING) -> str:
    """What to add to a refusal that may be a permission: to servers that give no number, 42000 is that and more."""
    if number is None and _sqlstate(_cause(error)) == "42000":
        return f"; if a permission is missing, grant it to the user in {setting}"
    return ""


def translate_refusal(error: DBAPIError, url: URL, setting: str = SETTING) -> SpendGateError:
    """Our error when no connection was made; asks what listens there if the driver's error doesn't say."""
    cause = _cause(error)
    place = Place(url, setting)
    if str(getattr(cause, "ddbc_error", "")).startswith(_NOT_LOADED):
        return ConfigurationError(
            "The SQL Server driver can't be loaded on this machine; install the system libraries that it needs "
            "(Debian: libltdl7, libkrb5-3 and libgssapi-krb5-2) and run again."
        )
    found = _sqlstate(cause)
    if url.get_backend_name() != "mssql":
        return _by_code(found, None, place, _first_line(cause))
    if found in _NOT_CONNECTED:
        return _not_connected(str(cause), place, _first_line(cause))
    if not found and type(cause).__name__ == "InterfaceError":
        return _not_signed_in(cause, place)
    number = refused_number(url) if found in ("42000", "08004") else None
    state = "" if number else _AT_CONNECT.get(found, found)
    return _by_code(state, number, place, _first_line(cause))


@dataclass(frozen=True, slots=True)
class Place:
    """A warehouse as sentences name it: where it is, and the setting that says so."""

    url: URL
    setting: str

    def __str__(self) -> str:
        """Host and port."""
        return f"{self.url.host}:{self.url.port}" if self.url.port else f"{self.url.host}"


def _cause(error: Exception) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _first_line(cause: BaseException) -> str:
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]


def _not_connected(said: str, place: Place, first_line: str) -> SpendGateError:
    """Before the login: by the certificate, or by what listens there."""
    if _UNTRUSTED.search(said):
        return ConfigurationError(
            f"The certificate of {place} isn't trusted; add its authority to those that this machine trusts, call the "
            f"server by the name in it, or, on a line that you trust, set TrustServerCertificate to yes in "
            f"{place.setting} ({first_line})."
        )
    listener = tds.ask(place.url.host or "", place.url.port)
    if listener is Listener.ANOTHER:
        return ConfigurationError(f"What listens at {place} isn't SQL Server; set host and port in {place.setting}.")
    if listener is Listener.MUTE:
        return WarehouseUnavailableError(
            f"What listens at {place} says nothing that SQL Server says: it is only starting, or another server; "
            f"wait for it, or set host and port in {place.setting} ({first_line})."
        )
    if listener is Listener.SQL_SERVER:
        return WarehouseUnavailableError(
            f"SQL Server answers at {place}, but doesn't let us begin; run again, or check Encrypt and Authentication "
            f"in {place.setting} ({first_line})."
        )
    return _by_code("08001", None, place, first_line)


def _not_signed_in(cause: BaseException, place: Place) -> SpendGateError:
    """The driver got no token from Entra ID; what the identity library raised stands behind its error."""
    from azure.core.exceptions import ServiceRequestError, ServiceResponseError

    behind = list(_chain(cause))
    if any(isinstance(one, ServiceRequestError | ServiceResponseError) for one in behind):
        return WarehouseUnavailableError(
            f"Entra ID, which signs us in to {place}, can't be reached; run again ({_first_line(behind[-1])})."
        )
    return WarehouseAccessError(
        f"Entra ID gives no token for {place}; check user and Authentication in {place.setting}, and the identity of "
        f"this machine ({_first_line(behind[-1])})."
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from, the oldest last."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def failed_number(connection: Connection) -> int | None:
    """The number of the error that just ended a statement on SQL Server; None: unknown.

    The driver's exceptions don't carry it, and it frees the statement's diagnostics before they reach us.
    """
    try:
        return connection.exec_driver_sql("SELECT @@ERROR").scalar_one() or None
    except (DBAPIError, InvalidRequestError):
        return None  # the connection went with the statement; its SQLSTATE says so


def refused_number(url: URL) -> int | None:
    """The number of the error by which SQL Server refused a login; None: it can't be told.

    To the driver, which keeps it to itself, a database that isn't there and one that will be back in a moment are of
    one SQLSTATE. The core of bulk copies is asked to log in too, and repeats the server's words. Not for a wrong
    password: it would count twice.
    """
    login = core_login(url, int(tds.SECONDS))
    if login is None:
        return None
    try:
        from mssql_py_core import PyCoreConnection

        PyCoreConnection(login).close()
    except RuntimeError as error:
        return _bulk_number(error)
    except OTHER_CORE:
        return None  # another version of the package: its core isn't for others to call
    return None


def _sqlstate(cause: BaseException) -> str:
    """The five characters that class the error; empty if it has none."""
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return str(state)
    if hasattr(cause, "pgconn"):
        # A failed login reaches psycopg without its SQLSTATE. A server that asked for the password and then
        # said no is there; what it refuses is the password, the user or the database.
        return "28000" if getattr(cause.pgconn, "used_password", False) else "08001"
    if hasattr(cause, "driver_error"):
        return _odbc_state(str(cause.driver_error))
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


def _by_code(state: str, number: int | None, place: Place, first_line: str) -> SpendGateError:
    if state.startswith(_FULL) or number in _FULL_NUMBERS:
        return WarehouseFullError(
            f"The warehouse at {place} has no disk space left; free some and run again ({first_line})."
        )
    if refusal := _refusal(state, number, place, first_line):
        return refusal
    if state.startswith(_RETRY) or number in _RETRY_NUMBERS:
        return TransientError(f"The warehouse at {place} was busy; run again ({first_line}).")
    if state.startswith(_UNAVAILABLE):
        return WarehouseUnavailableError(
            f"The warehouse at {place} can't be reached or went away; start it (./spendgate up) or set "
            f"{place.setting} ({first_line})."
        )
    if state.startswith(_OUTDATED) or number in _OUTDATED_NUMBERS:
        return WarehouseOutdatedError(
            f"The warehouse at {place} lacks a table or column; run ./spendgate migrate ({first_line})."
        )
    return PermanentError(f"The warehouse at {place} refused a statement: {first_line}")


def _refusal(state: str, number: int | None, place: Place, first_line: str) -> WarehouseAccessError | None:
    if state.startswith(_NO_DATABASE) or number in _NO_DATABASE_NUMBERS:
        return WarehouseAccessError(
            f"The warehouse at {place} has no database {place.url.database}, or its user may not enter it; check user "
            f"and database in {place.setting} ({first_line})."
        )
    if state.startswith(_NOT_ALLOWED) or number in _NOT_ALLOWED_NUMBERS:
        return WarehouseAccessError(
            f"The warehouse at {place} doesn't allow that to the user in {place.setting}; grant the permission, or set "
            f"another user ({first_line})."
        )
    if state.startswith(_REFUSED) or number in _REFUSED_NUMBERS:
        return WarehouseAccessError(
            f"The warehouse at {place} refuses us; check user, password, database in {place.setting} ({first_line})."
        )
    return None

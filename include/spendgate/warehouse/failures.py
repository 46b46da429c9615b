"""What an engine's error means to us: told by its code, never by its text."""

from __future__ import annotations

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from spendgate.errors import (
    PermanentError,
    SpendGateError,
    TransientError,
    WarehouseAccessError,
    WarehouseFullError,
    WarehouseOutdatedError,
    WarehouseUnavailableError,
)

# SQLSTATE classes: 08 connection, 57P admin shutdown and crash, 28 authorization; https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNAVAILABLE = ("08", "57P")
_REFUSED = ("28", "3D000", "42501")
_RETRY = ("40001", "40P01", "55P03", "57014", "53200", "53300")
_FULL = ("53100",)
_OUTDATED = ("42P01", "3F000", "42703")


def translate_failure(error: Exception, url: URL) -> SpendGateError:
    """Our error for a database driver's error."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    where = f"{url.host}:{url.port}" if url.port else f"{url.host}"
    state = getattr(cause, "sqlstate", None)
    first_line = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if state is None or lost or state.startswith(_UNAVAILABLE):
        if state is None and not lost and type(cause).__name__ != "OperationalError":
            return PermanentError(f"The warehouse at {where} refused a statement: {first_line}")
        return WarehouseUnavailableError(
            f"The warehouse at {where} can't be reached or went away; start it (./spendgate up) or set "
            f"SPENDGATE_WAREHOUSE_URL ({first_line})."
        )
    return _by_state(state, where, first_line)


def _by_state(state: str, where: str, first_line: str) -> SpendGateError:
    if state.startswith(_FULL):
        return WarehouseFullError(
            f"The warehouse at {where} has no disk space left; free some and run again ({first_line})."
        )
    if state.startswith(_RETRY):
        return TransientError(f"The warehouse at {where} was busy; run again ({first_line}).")
    if state.startswith(_REFUSED):
        return WarehouseAccessError(
            f"The warehouse at {where} refuses us; check user, password and database in "
            f"SPENDGATE_WAREHOUSE_URL ({first_line})."
        )
    if state.startswith(_OUTDATED):
        return WarehouseOutdatedError(
            f"The warehouse at {where} lacks a table or column; run ./spendgate migrate ({first_line})."
        )
    return PermanentError(f"The warehouse at {where} refused a statement: {first_line}")

"""SQL Server's application locks, owned by a transaction: gone with it, and so a sign of whether it is still there.

A transaction can end before its end without an error that reaches us: what the driver asks the server on its own may
fail, which it keeps to itself, and with XACT_ABORT that was the transaction (see `mssql_nulls`). It then begins another
one, in which the rest is done and committed as if it were all.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection

# SQL Server's application locks are of one database; some TDS servers' are of them all.
_GET = (
    "DECLARE @answer INT; DECLARE @resource NVARCHAR(255) = CONCAT(?, DB_NAME()); "
    "EXEC @answer = sp_getapplock @Resource = @resource, @LockMode = ?, @LockOwner = 'Transaction', "
    "@LockTimeout = ?; SELECT @answer"
)
_STANDS = (
    "SELECT CASE WHEN @@TRANCOUNT > 0 AND XACT_STATE() = 1 AND (? = '' "
    "OR APPLOCK_MODE('public', CONCAT(?, DB_NAME()), 'Transaction') <> 'NoLock') THEN 1 ELSE 0 END"
)
# What sp_getapplock answers where there is no transaction, and some servers where the lock isn't free.
NO_TRANSACTION = -999


def get_lock(connection: Connection, name: str, *, shared: bool, timeout: float) -> int:
    """Have the transaction hold the lock `name`; returns what sp_getapplock says: from 0 on it does."""
    return int(_answer(connection, _GET, name, "Shared" if shared else "Exclusive", int(timeout * 1000)))


def mark(connection: Connection) -> str:
    """Have the transaction hold a lock that nobody else wants; returns its name, or '' if there is no transaction."""
    name = f"spendgate_mark_{uuid4().hex}_"
    return name if get_lock(connection, name, shared=False, timeout=0.0) >= 0 else ""


def stands(connection: Connection, name: str) -> bool:
    """Whether the transaction is there, may be committed, and is the one that holds the lock `name`; '': any is."""
    return bool(_answer(connection, _STANDS, name, name))


def _answer(connection: Connection, batch: str, *values: object) -> Any:
    """The one value that a batch selects, whatever results without columns come before it."""
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(batch, values)
        while cursor.description is None and cursor.nextset():
            pass
        (value,) = cursor.fetchone() or (None,)
        return value

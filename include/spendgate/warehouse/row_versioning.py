"""READ_COMMITTED_SNAPSHOT: that readers on SQL Server see the last committed rows instead of waiting for writers.

PostgreSQL always works so, and Azure SQL unless somebody switched it off. On SQL Server it is a switch of the
database, which can be turned only while nobody else is connected, and not inside a transaction.
"""

from __future__ import annotations

import logging
import time

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.failures import translate_failure
from spendgate.warehouse.server import Feature, read_server

log = logging.getLogger(__name__)

# Enough for a monitoring tool's query to end; a service that stays connected stays for longer than anybody waits.
WAIT_SECONDS = 5.0
_PAUSE_SECONDS = 1.0

_IS_ON = text("SELECT is_read_committed_snapshot_on FROM sys.databases WHERE database_id = DB_ID()")
_MAY_ALTER = text("SELECT HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'ALTER')")
# NO_WAIT: if others are connected, the answer is no. The default waits for them without end, and every new
# connection waits behind it; ROLLBACK IMMEDIATE would end their work.
_TURN_ON = "ALTER DATABASE CURRENT SET READ_COMMITTED_SNAPSHOT ON WITH NO_WAIT"


def turn_on_row_versioning(warehouse: Warehouse, wait: float = WAIT_SECONDS) -> str | None:
    """Turn READ_COMMITTED_SNAPSHOT on where it is off, trying for `wait` seconds; nobody else's work is ended.

    Returns None if all is well, else one sentence that says what a DBA has to run.

    Raises:
        TransientError, PermanentError: as the warehouse says.
    """
    if advise_row_versioning(warehouse) is None:
        return None
    warehouse.engine.dispose()  # our own idle connections would be in the way
    try:
        with warehouse.engine.connect() as connection:
            connection.detach()  # so that nobody gets it as it is now
            connection.connection.dbapi_connection.autocommit = True  # type: ignore[union-attr]  # it is open: there is one
            deadline = time.monotonic() + wait
            while _may_alter(connection) and not _turn_on(connection) and time.monotonic() < deadline:
                time.sleep(_PAUSE_SECONDS)
    except DBAPIError as error:
        raise translate_failure(error, warehouse.engine.url) from error
    return advise_row_versioning(warehouse)


def advise_row_versioning(warehouse: Warehouse) -> str | None:
    """One sentence that says what a DBA has to run, if READ_COMMITTED_SNAPSHOT is off; else None."""
    if warehouse.dialect != "mssql":
        return None
    with warehouse.transaction(read_only=True) as transaction:
        connection = transaction.connection
        if not read_server(connection).has(Feature.ROW_VERSIONING) or connection.execute(_IS_ON).scalar_one():
            return None
        name = str(connection.execute(text("SELECT QUOTENAME(DB_NAME())")).scalar_one())
    return (
        "READ_COMMITTED_SNAPSHOT is off, so that readers and writers of the warehouse wait for each other: have a DBA "
        f"run, while nothing else is connected, ALTER DATABASE {name} SET READ_COMMITTED_SNAPSHOT ON."
    )


def _may_alter(connection: Connection) -> bool:
    return bool(connection.execute(_MAY_ALTER).scalar_one())


def _turn_on(connection: Connection) -> bool:
    try:
        connection.exec_driver_sql(_TURN_ON)
    except DBAPIError as error:
        # Others are connected, mostly; whatever it is, the sentence at the end says what a DBA has to run.
        log.info("READ_COMMITTED_SNAPSHOT can't be set now: %s", error.orig)
        return False
    log.info("READ_COMMITTED_SNAPSHOT is on now.")
    return True

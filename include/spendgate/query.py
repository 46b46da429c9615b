"""Read-only queries of people, in the warehouse's own SQL or in T-SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.exc import DBAPIError, ResourceClosedError

from spendgate.errors import ConfigurationError
from spendgate.warehouse.engine import Warehouse

# SQLSTATE of a syntax error and of a function that isn't there: what T-SQL runs into on PostgreSQL.
_NOT_POSTGRESQL = ("42601", "42883", "42703", "42804")


def run_query(warehouse: Warehouse, sql: str) -> tuple[list[str], Sequence[Row[Any]]]:
    """Column names and rows of a query, in a transaction that can't write and is rolled back.

    On the laptop's PostgreSQL a query that isn't PostgreSQL is translated from T-SQL.

    Raises:
        ConfigurationError: it isn't a query.
    """
    try:
        return _run_native(warehouse, sql)
    except DBAPIError as error:
        if warehouse.dialect != "postgresql" or getattr(error.orig, "sqlstate", None) not in _NOT_POSTGRESQL:
            raise _explain(error) from error
        native = error
    try:
        with warehouse.transaction(read_only=True) as transaction:
            return transaction.select(sql)
    except Exception as error:
        raise _explain(native) from error


def _run_native(warehouse: Warehouse, sql: str) -> tuple[list[str], Sequence[Row[Any]]]:
    with warehouse.engine.connect() as connection:
        if warehouse.dialect == "postgresql":
            connection.execute(text("SET TRANSACTION READ ONLY"))
        try:
            result = connection.exec_driver_sql(sql)
            return list(result.keys()), result.all()
        except ResourceClosedError as error:
            raise ConfigurationError("That returns no rows: query takes a SELECT.") from error
        finally:
            connection.rollback()


def _explain(error: DBAPIError) -> ConfigurationError:
    first = (str(error.orig).strip().splitlines() or ["no reason given"])[0]
    return ConfigurationError(f"The warehouse refused the query: {first}.")

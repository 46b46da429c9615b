"""What the server that SPENDGATE_TEST_MSSQL_URL names can't show, being another one than SQL Server."""

from __future__ import annotations

from sqlalchemy import text

from spendgate.warehouse.engine import Warehouse


def tells_error_numbers(warehouse: Warehouse) -> bool:
    """Whether errors come under their engine's codes. Babelfish has none for a permission that is missing."""
    if warehouse.dialect != "mssql":
        return True
    with warehouse.transaction(read_only=True) as transaction:
        version = str(transaction.connection.execute(text("SELECT @@VERSION")).scalar_one())
    return "Babelfish" not in version

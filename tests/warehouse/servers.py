"""What the server that SPENDGATE_TEST_MSSQL_URL names can't show, being another one than SQL Server."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from spendgate.warehouse.engine import Warehouse


def require_error_numbers(warehouse: Warehouse) -> None:
    """Skip, and say so, where errors don't come under SQL Server's numbers."""
    if warehouse.dialect != "mssql":
        return
    with warehouse.transaction(read_only=True) as transaction:
        version = str(transaction.connection.execute(text("SELECT @@VERSION")).scalar_one())
    if "Babelfish" in version:
        pytest.skip("Babelfish doesn't say by SQL Server's number that a permission is missing")

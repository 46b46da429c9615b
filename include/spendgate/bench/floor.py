"""What writing alone costs: the same rows, ready in memory, in the same batches, and no more done with them.

On PostgreSQL what any design has to pay: a binary COPY into a bare table, plus one INSERT ... SELECT from it into a
click table with the same key and index as ours. On SQL Server the driver's bulk copy alone, into a bare heap.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import pyarrow as pa
from sqlalchemy import MetaData, quoted_name, text

from spendgate.warehouse.bulk import copy_mssql_rows, rows_for_mssql
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import StagedClick

_MAKE = {
    "postgresql": (
        "CREATE TABLE staging.BareClick (LIKE staging.StagedClick)",
        "CREATE TABLE staging.FloorClick (LIKE ads.ClickEvent INCLUDING INDEXES)",
    ),
    "mssql": ("SELECT TOP 0 * INTO staging.BareClick FROM staging.StagedClick",),
}
_DROP = {
    "postgresql": ("DROP TABLE staging.BareClick", "DROP TABLE staging.FloorClick"),
    "mssql": ("DROP TABLE staging.BareClick",),
}
_INSERT = """
INSERT INTO staging.FloorClick
SELECT click_id, advertiser_id, ad_id, click_time, time_key, amount, is_valid, now(), updated_at
FROM staging.BareClick
"""
LABELS = {"postgresql": "floor: COPY + INSERT ... SELECT", "mssql": "floor: bare bulkcopy_arrow"}


def measure_floor(warehouse: Warehouse, tables: Sequence[pa.Table]) -> tuple[float, int]:
    """Seconds of the engine's floor over decoded clicks, and how many rows it left."""
    _run(warehouse, _MAKE[warehouse.dialect])
    measure = _bare_bulk_copy if warehouse.dialect == "mssql" else _copy_and_insert
    try:
        return measure(warehouse, tables)
    finally:
        _run(warehouse, _DROP[warehouse.dialect])


def _copy_and_insert(warehouse: Warehouse, tables: Sequence[pa.Table]) -> tuple[float, int]:
    bare = StagedClick.to_metadata(MetaData(), name=quoted_name("BareClick", quote=False))
    began = time.perf_counter()
    for table in tables:
        warehouse.bulk_load(bare, table)
    with warehouse.transaction() as transaction:
        stored = transaction.connection.execute(text(_INSERT)).rowcount
    return time.perf_counter() - began, stored


def _bare_bulk_copy(warehouse: Warehouse, tables: Sequence[pa.Table]) -> tuple[float, int]:
    ready = [rows_for_mssql(StagedClick, table) for table in tables]
    with warehouse.connect() as connection:
        began = time.perf_counter()
        for rows in ready:
            copy_mssql_rows(connection, "staging.BareClick", rows)
        seconds = time.perf_counter() - began
    with warehouse.transaction(read_only=True) as transaction:
        return seconds, transaction.connection.execute(text("SELECT COUNT(*) FROM staging.BareClick")).scalar_one()


def _run(warehouse: Warehouse, statements: Sequence[str]) -> None:
    with warehouse.transaction() as transaction:
        for statement in statements:
            transaction.connection.execute(text(statement))

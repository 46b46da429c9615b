"""Bulk load: nothing is lost on the way in, and the rows don't wait for the caller's transaction."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from sqlalchemy import Table, Uuid, select

from spendgate.columns import AD_SCHEMA, ADVERTISER_SCHEMA, BUDGET_SCHEMA, CLICK_SCHEMA
from spendgate.errors import PermanentError
from spendgate.staging import PAYLOAD_SCHEMA, REJECTED_SCHEMA
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import (
    BatchPayload,
    RejectedEvent,
    StagedAd,
    StagedAdvertiser,
    StagedBudget,
    StagedClick,
)

IDS = [UUID(int=0), UUID(int=2**128 - 1), UUID("01234567-89ab-4cde-8f01-23456789abcd")]
TIMES = [
    instant.replace(tzinfo=None)
    for instant in (
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(2026, 2, 28, 23, 59, 59, 999_000, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 997_000, tzinfo=UTC),
    )
]
AMOUNTS = [Decimal("0.0001"), Decimal("999999999999999.9999"), Decimal("0.0000")]
TEXTS = ["Ünï😀 'quoted' \\ \t|", "漢字" * 50, " trailing "]
SPARSE = [None, "\U0001d518" * 50, ""]
RAW = [b"\x00\xff\r\n\x1a", None, b"{" + b"\xf0\x9f\x98\x80" * 5_000]


def column(table: Table, name: str, kind: pa.DataType) -> list[Any]:
    """Three ugly values that the column must keep."""
    if isinstance(table.columns[name].type, Uuid):
        return [value.bytes for value in IDS]
    if pa.types.is_timestamp(kind):
        return TIMES
    if pa.types.is_decimal(kind):
        return AMOUNTS
    if pa.types.is_large_binary(kind):
        return RAW
    if pa.types.is_string(kind):
        return texts(table, name)
    if name in ("is_valid", "is_active"):
        return [1, 0, 1]
    return [1, 2, 2**31 - 1] if pa.types.is_int32(kind) else [1, 2, 2**63 - 1]


def texts(table: Table, name: str) -> list[str | None]:
    length = table.columns[name].type.length
    if name in ("country", "reason"):
        return ["SE", None if table.columns[name].nullable else "", "NO"]
    return [
        None if value is None else value[: length // 2] for value in (SPARSE if table.columns[name].nullable else TEXTS)
    ]


def rows_of(warehouse: Warehouse, table: Table) -> list[dict[str, Any]]:
    with warehouse.transaction() as transaction:
        return [dict(row) for row in transaction.run(select(table)).mappings()]


def as_read(table: Table, name: str, value: Any) -> Any:
    """What reading a loaded value through the tables gives."""
    if isinstance(table.columns[name].type, Uuid):
        return UUID(bytes=value)
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


STAGED = [
    (StagedClick, CLICK_SCHEMA),
    (StagedBudget, BUDGET_SCHEMA),
    (StagedAdvertiser, ADVERTISER_SCHEMA),
    (StagedAd, AD_SCHEMA),
    (RejectedEvent, REJECTED_SCHEMA),
]


def test_ugly_values_come_back_as_they_went_in(any_warehouse: Warehouse) -> None:
    for table, schema in STAGED:
        given = {field.name: column(table, field.name, field.type) for field in schema}
        assert any_warehouse.bulk_load(table, pa.table(given, schema=schema)) == 3
        expected = [{name: as_read(table, name, values[row]) for name, values in given.items()} for row in range(3)]
        found = [{name: value for name, value in row.items() if name in given} for row in rows_of(any_warehouse, table)]
        key = "ordinal"
        assert sorted(found, key=lambda row: row[key]) == expected, table.fullname


def test_a_payload_of_several_megabytes_comes_back_byte_for_byte(any_warehouse: Warehouse) -> None:
    content = os.urandom(5_000_003)
    any_warehouse.bulk_load(BatchPayload, pa.table([[7], [content]], schema=PAYLOAD_SCHEMA))
    assert rows_of(any_warehouse, BatchPayload) == [{"batch_id": 7, "content": content}]


def payload(*ids: int) -> pa.Table:
    return pa.table([list(ids), [b"x"] * len(ids)], schema=PAYLOAD_SCHEMA)


def test_loaded_rows_stay_although_the_callers_transaction_is_rolled_back(any_warehouse: Warehouse) -> None:
    with any_warehouse.transaction() as transaction:
        transaction.next_batch_id()
        any_warehouse.bulk_load(BatchPayload, payload(1, 2))
        transaction.connection.rollback()
    assert len(rows_of(any_warehouse, BatchPayload)) == 2


def test_a_load_that_fails_leaves_no_row_and_the_connection_fit(any_warehouse: Warehouse) -> None:
    with pytest.raises(PermanentError, match="refused a statement"):
        any_warehouse.bulk_load(BatchPayload, payload(1, 2, 1))
    assert rows_of(any_warehouse, BatchPayload) == []
    assert any_warehouse.bulk_load(BatchPayload, payload(1)) == 1


def test_a_text_that_is_too_long_is_refused_not_cut(any_warehouse: Warehouse) -> None:
    rows = {field.name: column(StagedAdvertiser, field.name, field.type) for field in ADVERTISER_SCHEMA}
    rows["name"] = ["x" * 201] * 3
    with pytest.raises(PermanentError):
        any_warehouse.bulk_load(StagedAdvertiser, pa.table(rows, schema=ADVERTISER_SCHEMA))
    assert rows_of(any_warehouse, StagedAdvertiser) == []


def test_columns_are_told_by_name_not_by_place(any_warehouse: Warehouse) -> None:
    given = {field.name: column(StagedAd, field.name, field.type) for field in AD_SCHEMA}
    turned = pa.table(given, schema=AD_SCHEMA).select(list(reversed(AD_SCHEMA.names)))
    any_warehouse.bulk_load(StagedAd, turned)
    assert {row["advertiser_id"] for row in rows_of(any_warehouse, StagedAd)} == {1, 2, 2**31 - 1}
    assert {row["ad_format"] for row in rows_of(any_warehouse, StagedAd)} == set(given["ad_format"])


def test_no_rows_are_no_load(any_warehouse: Warehouse) -> None:
    assert any_warehouse.bulk_load(StagedClick, CLICK_SCHEMA.empty_table()) == 0

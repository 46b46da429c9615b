"""Bulk load: nothing is lost on the way in, and the rows don't wait for the caller's transaction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from sqlalchemy import Column, Table, Unicode, Uuid, select

from spendgate.columns import AD_SCHEMA, ADVERTISER_SCHEMA, BUDGET_SCHEMA, CLICK_SCHEMA
from spendgate.errors import PermanentError
from spendgate.staging import BATCH_TABLES, PAYLOAD_SCHEMA, REJECTED_SCHEMA
from spendgate.warehouse import bulk, mssql_core
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
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    datetime(2026, 2, 28, 23, 59, 59, 999_000, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 997_000, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
]
AMOUNTS = [
    Decimal(text)
    for text in ("0.0000", "0.0001", "999999999999.9999", "999999999999999.9999", "-999999999999999.9999", "-0.0001")
]
COMPOSED, COMBINING, FAMILY = "Caf\u00e9", "Cafe\u0301", "\U0001f469\u200d\U0001f467"
TEXTS = ["", " ", "trailing  ", f"{COMPOSED} {COMBINING} {FAMILY}", "'q\" \\ \t\r\n|\x1a\ufeff\ufffd", "longest"]
RAW = [b"", b"\x00\xff\r\n\x1a", b" ", b"{" + b"\xf0\x9f\x98\x80" * 5_000, os.urandom(8_001), None]
ROWS = 6


def column(table: Table, name: str, kind: pa.DataType) -> list[Any]:
    """Ugly values that the column must keep, a row each."""
    target = table.columns[name]
    if isinstance(target.type, Uuid):
        values: list[Any] = [value.bytes for value in IDS]
    elif pa.types.is_timestamp(kind):
        values = [instant.replace(tzinfo=None) for instant in TIMES]
    elif pa.types.is_decimal(kind):
        values = AMOUNTS
    elif pa.types.is_large_binary(kind):
        values = RAW
    elif pa.types.is_string(kind):
        values = texts(target)
    elif name in ("is_valid", "is_active"):
        values = [1, 0]
    elif name == "ordinal":
        values = list(range(ROWS))
    else:
        bits = 31 if pa.types.is_int32(kind) else 63
        values = [1, 2**bits - 1, -(2**bits)]
    return [values[row % len(values)] for row in range(ROWS)]


def texts(target: Column[Any]) -> list[str | None]:
    """With the longest that fits, counted as SQL Server counts, last; NULL where it may be."""
    length = target.type.length
    if not isinstance(target.type, Unicode):
        return ["SE", None if target.nullable else "", "NO"]
    longest = "\U0001d518" * (length // 2) + "x" * (length % 2)
    some: list[str | None] = [longest if one == "longest" else one[:length] for one in TEXTS]
    return [None, *some[1:]] if target.nullable else some


def rows_of(warehouse: Warehouse, table: Table) -> list[dict[str, Any]]:
    with warehouse.transaction() as transaction:
        return [dict(row) for row in transaction.run(select(table)).mappings()]


def as_read(table: Table, name: str, value: Any) -> Any:
    """What reading a loaded value through the tables gives."""
    if isinstance(table.columns[name].type, Uuid):
        return UUID(bytes=value)
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


def loaded(warehouse: Warehouse, table: Table, schema: pa.Schema) -> dict[str, list[Any]]:
    """What was given to the table, by column."""
    given = {field.name: column(table, field.name, field.type) for field in schema}
    assert warehouse.bulk_load(table, pa.table(given, schema=schema)) == ROWS
    return given


STAGED = [
    (StagedClick, CLICK_SCHEMA),
    (StagedBudget, BUDGET_SCHEMA),
    (StagedAdvertiser, ADVERTISER_SCHEMA),
    (StagedAd, AD_SCHEMA),
    (RejectedEvent, REJECTED_SCHEMA),
]


def doors(warehouse: Warehouse, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both ways in on SQL Server, for many rows and for few; each time the staging tables are empty."""
    for few in (0, ROWS):
        patch.setattr(bulk, "FEW_ROWS", few)
        yield
        with warehouse.transaction() as transaction:
            transaction.empty(*BATCH_TABLES)
        if warehouse.dialect == "postgresql":
            return


def test_ugly_values_come_back_as_they_went_in(any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in doors(any_warehouse, monkeypatch):
        for table, schema in STAGED:
            given = loaded(any_warehouse, table, schema)
            expected = [
                {name: as_read(table, name, values[row]) for name, values in given.items()} for row in range(ROWS)
            ]
            found = [
                {name: value for name, value in row.items() if name in given} for row in rows_of(any_warehouse, table)
            ]
            assert sorted(found, key=lambda row: row["ordinal"]) == expected, table.fullname


def test_the_server_reads_in_loaded_values_what_was_meant(
    any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only the driver, which could undo on the way out what it did on the way in."""
    for _ in doors(any_warehouse, monkeypatch):
        given = loaded(any_warehouse, StagedClick, CLICK_SCHEMA)
        source = """
            SELECT s.ordinal, LOWER(CAST(s.click_id AS CHAR(36))) AS click_id,
                CASE WHEN s.updated_at = @last THEN 1 ELSE 0 END AS is_last,
                CASE WHEN s.amount + s.amount = 1999999999999.9998 THEN 1 ELSE 0 END AS is_big
            FROM staging.StagedClick AS s ORDER BY s.ordinal"""
        with any_warehouse.transaction() as transaction:
            _, rows = transaction.select(source, last=TIMES[5])
        assert [row.click_id for row in rows] == [str(UUID(bytes=value)) for value in given["click_id"]]
        assert [row.is_last for row in rows] == [0, 0, 0, 0, 0, 1]
        assert [row.is_big for row in rows] == [0, 0, 1, 0, 0, 0]


def test_texts_that_differ_in_an_accents_spelling_or_a_space_stay_apart(any_warehouse: Warehouse) -> None:
    rows = {field.name: column(StagedAdvertiser, field.name, field.type) for field in ADVERTISER_SCHEMA}
    rows["name"] = [COMPOSED, COMBINING, COMPOSED.upper(), "", " ", "  "]
    any_warehouse.bulk_load(StagedAdvertiser, pa.table(rows, schema=ADVERTISER_SCHEMA))
    with any_warehouse.transaction() as transaction:
        source = "SELECT DISTINCT CONCAT(s.name, '.') AS n FROM staging.StagedAdvertiser AS s"
        _, found = transaction.select(source)
    assert sorted(row.n for row in found) == sorted(f"{name}." for name in rows["name"])


def test_a_payload_of_several_megabytes_comes_back_byte_for_byte(
    any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in doors(any_warehouse, monkeypatch):
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


def test_a_load_that_fails_leaves_no_row_and_the_connection_fit(
    any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in doors(any_warehouse, monkeypatch):
        with pytest.raises(PermanentError, match="refused a statement"):
            any_warehouse.bulk_load(BatchPayload, payload(1, 2, 1))
        assert rows_of(any_warehouse, BatchPayload) == []
        assert any_warehouse.bulk_load(BatchPayload, payload(1)) == 1


def test_a_text_that_is_too_long_is_refused_not_cut(any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in doors(any_warehouse, monkeypatch):
        rows = {field.name: column(StagedAdvertiser, field.name, field.type) for field in ADVERTISER_SCHEMA}
        rows["name"] = ["x" * 201] * ROWS
        with pytest.raises(PermanentError):
            any_warehouse.bulk_load(StagedAdvertiser, pa.table(rows, schema=ADVERTISER_SCHEMA))
        assert rows_of(any_warehouse, StagedAdvertiser) == []


def test_columns_are_told_by_name_not_by_place(any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in doors(any_warehouse, monkeypatch):
        given = {field.name: column(StagedAd, field.name, field.type) for field in AD_SCHEMA}
        turned = pa.table(given, schema=AD_SCHEMA).select(list(reversed(AD_SCHEMA.names)))
        any_warehouse.bulk_load(StagedAd, turned)
        assert {row["advertiser_id"] for row in rows_of(any_warehouse, StagedAd)} == set(given["advertiser_id"])
        assert {row["ad_format"] for row in rows_of(any_warehouse, StagedAd)} == set(given["ad_format"])


def test_no_rows_are_no_load(any_warehouse: Warehouse) -> None:
    assert any_warehouse.bulk_load(StagedClick, CLICK_SCHEMA.empty_table()) == 0


def test_copies_that_follow_each_other_use_one_login(any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    if any_warehouse.dialect != "mssql":
        pytest.skip("PostgreSQL copies on the connection that it has")
    log_in, made = mssql_core._log_in, []
    monkeypatch.setattr(mssql_core, "_log_in", lambda *given: made.append(log_in(*given)) or made[-1])
    monkeypatch.setattr(bulk, "FEW_ROWS", 0)
    with closing(Warehouse(any_warehouse.url)) as copying:

        def copy(*ids: int) -> None:
            """As a batch is staged: beside a transaction, so by one of two connections."""
            with copying.transaction() as transaction:
                transaction.next_batch_id()
                copying.bulk_load(BatchPayload, payload(*ids))

        for number in range(3):
            copy(number)
        assert len(made) == 1
        assert made[0].connection.is_connected()
        with pytest.raises(PermanentError):
            copy(7, 7)
        assert not made[0].connection.is_connected()
        copy(3)
        assert len(made) == 2
    assert not made[1].connection.is_connected()
    assert sorted(row["batch_id"] for row in rows_of(any_warehouse, BatchPayload)) == [0, 1, 2, 3]

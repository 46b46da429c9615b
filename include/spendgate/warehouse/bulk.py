"""Bulk load of Arrow tables: PostgreSQL by binary COPY, SQL Server by its bulk copy protocol, few rows by INSERT."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from typing import Any
from uuid import UUID

import numpy as np
import pgpq
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, Table, Uuid, insert
from sqlalchemy.dialects import mssql

from spendgate.warehouse.mssql_core import kept_cursor

# What the driver's bulk copy core raises beside the errors of DB-API: told apart in `failures`.
MSSQL_BULK_ERRORS = (RuntimeError, ValueError)
# The driver's own limit is 30 s for the whole copy, which a batch over a slow line can need.
BULK_TIMEOUT_SECONDS = 600
BULK_LOGIN_SECONDS = 15
# All rows of a call are one batch of the server's, and so one transaction: a copy that fails leaves none. No table
# lock: tasks copy to the same tables side by side, and the merge writes to one of them; on a heap with an index the
# lock would be an exclusive one, and who copies would wait for a merge that may take minutes.
_OPTIONS = {"batch_size": 0, "table_lock": False}
# A bulk copy may have to log in anew and always asks what the table is like: as long as some hundreds of rows take to
# be inserted on the connection that is there. A batch has a table of one row, and mostly others of a few.
FEW_ROWS = 500


def copy_postgresql(connection: Connection, table: Table, rows: pa.Table) -> None:
    """COPY `rows` into `table` and commit. UUIDs come as 16 bytes, whose wire form is that of a uuid."""
    encoder = pgpq.ArrowToPostgresBinaryEncoder(rows.schema)
    columns = ", ".join(rows.schema.names)
    statement = f"COPY {table.fullname} ({columns}) FROM STDIN (FORMAT BINARY)"
    driven: Any = connection.connection
    with driven.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(encoder.write_header())
        for batch in rows.to_batches():
            copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())
    driven.commit()


def copy_mssql(connection: Connection, table: Table, rows: pa.Table) -> None:
    """Bulk copy `rows` into `table`, which the driver does on a connection of its own and commits, or insert them."""
    if rows.num_rows > FEW_ROWS:
        ready = rows_for_mssql(table, rows)
        with kept_cursor(connection, BULK_LOGIN_SECONDS) as cursor:
            if cursor is None:
                copy_mssql_rows(connection, table.fullname, ready)
            else:
                _copy(cursor, table.fullname, ready)
    else:
        connection.execute(insert(table), _python_rows(table, rows))
        connection.commit()


def copy_mssql_rows(connection: Connection, name: str, rows: pa.Table) -> None:
    """Bulk copy rows that are as the driver takes them by its own door, which logs in for this copy alone."""
    driven: Any = connection.connection
    with driven.cursor() as cursor:
        _copy(cursor, name, rows)


def _copy(cursor: Any, name: str, rows: pa.Table) -> None:
    # By name: left to itself the driver goes by position, and identity columns would be filled.
    cursor.bulkcopy_arrow(name, rows, column_mappings=list(rows.schema.names), timeout=BULK_TIMEOUT_SECONDS, **_OPTIONS)


def _python_rows(table: Table, rows: pa.Table) -> list[dict[str, Any]]:
    """`rows` as SQLAlchemy takes them: UUIDs and instants are bytes and naive times in Arrow."""
    columns = []
    for name in rows.schema.names:
        values = rows.column(name).to_pylist()
        if isinstance(table.columns[name].type, Uuid):
            values = [None if value is None else UUID(bytes=value) for value in values]
        elif pa.types.is_timestamp(rows.schema.field(name).type):
            values = [None if value is None else value.replace(tzinfo=UTC) for value in values]
        columns.append(values)
    return [dict(zip(rows.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def rows_for_mssql(table: Table, rows: pa.Table) -> pa.Table:
    """`rows` as the bulk core takes them for the columns of `table`."""
    columns = [_converter(table, name)(rows.column(name)) for name in rows.schema.names]
    return pa.table(columns, names=rows.schema.names)


def _converter(table: Table, name: str) -> Callable[[pa.ChunkedArray], Any]:
    kind = table.columns[name].type
    if isinstance(kind, Uuid):
        return _uuid_texts
    if isinstance(kind.dialect_impl(mssql.dialect()), mssql.BIT):
        return lambda column: column.cast(pa.bool_())
    return lambda column: column


# Where the 32 digits of a UUID stand among the 36 characters of its text.
_DIGITS = np.array([place for place in range(36) if place not in (8, 13, 18, 23)])


def _uuid_texts(column: pa.ChunkedArray) -> Any:
    """UUIDs of 16 bytes as text: the bulk core takes it for a uniqueidentifier, and bytes in no order it would swap."""
    values = column.combine_chunks()
    if values.null_count:
        filled = _uuid_texts(pa.chunked_array([values.fill_null(bytes(16))]))
        return pc.if_else(values.is_valid(), filled, pa.scalar(None, pa.string()))
    raw = memoryview(values.buffers()[1])[values.offset * 16 : (values.offset + len(values)) * 16]
    texts = np.full((len(values), 36), ord("-"), np.uint8)
    texts[:, _DIGITS] = np.frombuffer(raw.hex().encode("ascii"), np.uint8).reshape(-1, 32)
    ends = np.arange(0, 36 * (len(values) + 1), 36, dtype=np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(texts))

"""The descriptions of tables and columns, brought from `spendgate.warehouse.tables` into the database.

PostgreSQL keeps them as comments, SQL Server as the extended property MS_Description; tools show both. Written is only
what differs, so a second run writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column, Connection, Table, text

from spendgate.warehouse.scripts import run_script
from spendgate.warehouse.tables import METADATA, SCHEMAS

# (schema, table, column or ""), in lower case: PostgreSQL folds names.
Place = tuple[str, str, str]

_STORED = {
    "postgresql": """
        SELECT n.nspname, c.relname, COALESCE(a.attname, ''), d.description
        FROM pg_description AS d
        INNER JOIN pg_class AS c ON c.oid = d.objoid AND d.classoid = 'pg_class'::REGCLASS AND c.relkind = 'r'
        INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_attribute AS a ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0
    """,
    "mssql": """
        SELECT s.name, t.name, COALESCE(c.name, ''), CAST(e.value AS NVARCHAR(4000))
        FROM sys.extended_properties AS e
        INNER JOIN sys.tables AS t ON t.object_id = e.major_id
        INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
        LEFT JOIN sys.columns AS c ON c.object_id = e.major_id AND c.column_id = e.minor_id AND e.minor_id > 0
        WHERE e.class = 1 AND e.name = 'MS_Description'
    """,
}


def write_descriptions(connection: Connection) -> int:
    """Bring the database's descriptions of our tables to those of the code; returns how many were written."""
    stored = stored_descriptions(connection)
    different = [(place, thing) for place, thing in _described() if stored.get(place) != thing.comment]
    if connection.dialect.name == "mssql":
        run_script(connection, (_property(thing, place in stored) for place, thing in different))
    else:
        run_script(connection, (_comment(thing) for _, thing in different))
    return len(different)


def stored_descriptions(connection: Connection) -> dict[Place, str]:
    """The descriptions that the database has of the tables in our schemas."""
    rows = connection.execute(text(_STORED[connection.dialect.name].replace(":", r"\:")))
    return {
        (schema, table.lower(), column.lower()): description
        for schema, table, column, description in rows
        if schema in SCHEMAS
    }


def _described() -> Iterator[tuple[Place, Table | Column[object]]]:
    for table in METADATA.tables.values():
        schema, name = str(table.schema), table.name.lower()
        yield (schema, name, ""), table
        for column in table.columns:
            yield (schema, name, column.name), column


def _comment(thing: Table | Column[object]) -> str:
    """A COMMENT ON. SQLAlchemy's own doubles percent signs, which a script's would stay."""
    if isinstance(thing, Table):
        return f"COMMENT ON TABLE {thing.fullname} IS {_text(thing.comment or '')}"
    return f"COMMENT ON COLUMN {thing.table.fullname}.{thing.name} IS {_text(thing.comment or '')}"


def _property(thing: Table | Column[object], stored: bool) -> str:
    """A call that adds or updates the extended property MS_Description."""
    verb = "update" if stored else "add"
    table = thing if isinstance(thing, Table) else thing.table
    call = f"EXEC sp_{verb}extendedproperty N'MS_Description', N{_text(thing.comment or '')}"
    call += f", N'SCHEMA', N{_text(str(table.schema))}, N'TABLE', N{_text(table.name)}"
    return call if thing is table else f"{call}, N'COLUMN', N{_text(thing.name)}"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

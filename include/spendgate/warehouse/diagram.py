"""docs/schema.md, made of the tables in code: ER diagrams, columns with their descriptions, keys and indexes.

    PYTHONPATH=include .venv/bin/python -m spendgate.warehouse.diagram > docs/schema.md

A test says when the file isn't what this makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from sqlalchemy import Column, Dialect, Index, PrimaryKeyConstraint, Table, UniqueConstraint, make_url

from spendgate.warehouse.roles import ACCESS, PIPELINE_SCHEMAS, Role
from spendgate.warehouse.server import Feature
from spendgate.warehouse.tables import METADATA, REFERENCES, WORK, Reference, indexes_of


def _dialects() -> tuple[Dialect, ...]:
    sql_server, postgresql = (
        make_url(name).get_dialect()() for name in ("mssql+mssqlpython://", "postgresql+psycopg://")
    )
    sql_server.server_version_info = (15,)  # without a server it would write for one that has no DATE
    return sql_server, postgresql


_DIALECTS = _dialects()

_INTRODUCTION = """\
# Schema

Made of `include/spendgate/warehouse/tables.py` by `python -m spendgate.warehouse.diagram`; a test says when this file
is old. What the numbers mean is in the [data contract](data-contract.md); why SQL Server's keys are as they are in
[ADR 9](adr/0009-clustered-by-advertiser-and-time.md).

Types are SQL Server's, then PostgreSQL's where that one differs. The descriptions are in the database too: `./spendgate
migrate` writes them as the extended property `MS_Description`, on PostgreSQL as comments. There are no foreign keys
([ADR 3](adr/0003-no-foreign-keys-on-event-tables.md)); the lines of the diagrams are which rows name which.
"""


def render_schema() -> str:
    """The whole page, in Markdown."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield _INTRODUCTION
    yield "## What analysts and the API read: `ads`\n"
    yield from _diagram({"ads"})
    yield "\n## What the pipeline reads and keeps: `staging` and `etl`\n"
    yield "Without the work tables, which hold rows inside one transaction only.\n"
    yield from _diagram({"staging", "etl"})
    yield "\n## Tables\n"
    for table in _tables():
        yield from _table(table)
    yield "## Who may what on SQL Server\n"
    yield from _grants()
    yield "\n## What a server may lack\n"
    yield (
        "Who speaks SQL Server's protocol is asked what it is. SQL Server from 2019 on and Azure SQL have all of this "
        "(Azure SQL\nDatabase in `Basic` and `S0` to `S2` no columnstore); on others it is left out, and the log says "
        "so.\n"
    )
    yield from (f"- `{feature.name}`: {feature.value}" for feature in Feature)


def _tables() -> list[Table]:
    """In the order in which the code has them, schema by schema."""
    order = {"ads": 0, "staging": 1, "etl": 2}
    return sorted(METADATA.tables.values(), key=lambda table: order[str(table.schema)])


# --- diagrams ----------------------------------------------------------------------------------------


def _diagram(schemas: set[str]) -> Iterator[str]:
    shown = [table for table in _tables() if table.schema in schemas and table not in WORK]
    yield "```mermaid"
    yield "erDiagram"
    for table in shown:
        yield f"    {table.name} {{"
        yield from (f"        {_attribute(column)}" for column in table.columns)
        yield "    }"
    for reference in REFERENCES:
        if reference.columns[0].table in shown:
            yield f"    {_line(reference)}"
    yield "```"


def _attribute(column: Column[object]) -> str:
    kind = _kind(column, _DIALECTS[0]).lower().partition(" ")[0]
    marks = [mark for mark, holds in (("PK", column.primary_key), ("FK", _refers(column))) if holds]
    # Mermaid knows no comma in a type.
    return " ".join([kind.replace(",", "-"), column.name, ", ".join(marks)]).rstrip()


def _refers(column: Column[object]) -> bool:
    return any(column in reference.columns for reference in REFERENCES)


def _line(reference: Reference) -> str:
    """One line between two entities: the target is one, or none if the column may be NULL; rows that name it many."""
    table, target = reference.columns[0].table, reference.target[0].table
    one = "|o" if any(column.nullable for column in reference.columns) else "||"
    alone = set(reference.columns) == set(table.primary_key.columns)
    names = ", ".join(column.name for column in reference.columns)
    return f'{target.name} {one}--{"o|" if alone else "o{"} {table.name} : "{names}"'


# --- tables ------------------------------------------------------------------------------------------


def _table(table: Table) -> Iterator[str]:
    yield f"### {table.schema}.{table.name}\n"
    yield f"{table.comment}\n"
    yield "| column | type | NULL | is |"
    yield "|---|---|---|---|"
    for column in table.columns:
        yield f"| `{column.name}` | {_kinds(column)} | {'yes' if column.nullable else ''} | {column.comment} |"
    yield ""
    yield from _keys(table)
    yield ""


def _kinds(column: Column[object]) -> str:
    kinds = [_kind(column, dialect) for dialect in _DIALECTS]
    return ", ".join(dict.fromkeys(kinds)) + (", numbers itself" if column.identity else "")


def _kind(column: Column[object], dialect: Dialect) -> str:
    kind = column.type.compile(dialect).partition(" COLLATE")[0].replace(" WITHOUT TIME ZONE", "").replace(", ", ",")
    return kind.replace("INTEGER", "INT").replace("NUMERIC", "DECIMAL")


def _keys(table: Table) -> Iterator[str]:
    for constraint in sorted(
        table.constraints, key=lambda one: (not isinstance(one, PrimaryKeyConstraint), _name(one))
    ):
        if isinstance(constraint, (PrimaryKeyConstraint, UniqueConstraint)) and len(constraint.columns):
            what = "Primary key" if isinstance(constraint, PrimaryKeyConstraint) else "Unique"
            clustered = constraint.dialect_options["mssql"]["clustered"]
            if clustered is None:
                clustered = isinstance(constraint, PrimaryKeyConstraint)
            on = f"; SQL Server: {'clustered' if clustered else 'nonclustered'}"
            yield f"- {what} ({_names(constraint.columns)}){on}"
    there = {dialect: set(indexes_of(table, dialect)) for dialect in ("mssql", "postgresql")}
    for index in sorted(there["mssql"] | there["postgresql"], key=_name):
        only = "" if index in there["mssql"] & there["postgresql"] else _only(index in there["mssql"])
        yield f"- Index `{index.name}` ({_names(index.columns)}){_options(index)}{only}"
    if not table.primary_key.columns:
        yield "- A heap on SQL Server"


def _only(on_mssql: bool) -> str:
    return "; SQL Server only" if on_mssql else "; PostgreSQL only"


def _options(index: Index) -> str:
    theirs, ours = index.dialect_options["mssql"], index.dialect_options["postgresql"]
    options = [
        "clustered, unique" if theirs["clustered"] else "",
        "columnstore" if theirs["columnstore"] else "",
        f"includes {', '.join(theirs['include'])}" if theirs["include"] else "",
        f"where {theirs['where']} on SQL Server" if theirs["where"] is not None else "",
        f"where {ours['where']} on PostgreSQL" if ours["where"] is not None else "",
        f"{ours['using']} on PostgreSQL" if ours["using"] else "",
    ]
    return "".join(f", {option}" for option in options if option)


def _name(thing: Index | object) -> str:
    return str(getattr(thing, "name", "") or "")


def _names(columns: Iterable[Column[object]]) -> str:
    return ", ".join(f"`{column.name}`" for column in columns)


# --- grants ------------------------------------------------------------------------------------------


def _grants() -> Iterator[str]:
    yield f"| on | {' | '.join(f'`{role}`' for role in Role)} |"
    yield "|---|" + "---|" * len(Role)
    for schema in PIPELINE_SCHEMAS:
        yield f"| `{schema}`, all of it | SELECT, INSERT, UPDATE, DELETE; ALTER on what it empties | | |"
    for name, roles in ACCESS.items():
        yield f"| `{name}` | {' | '.join(roles.get(role, '') for role in Role)} |"


if __name__ == "__main__":
    sys.stdout.write(render_schema())

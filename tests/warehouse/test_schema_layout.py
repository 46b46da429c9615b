"""What SQL Server clusters by, covers and compresses, by the text of the migration: no server is needed."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import PrimaryKeyConstraint, make_url
from sqlalchemy.schema import CreateIndex

from spendgate.warehouse.server import ANY_SQL_SERVER, Feature, Server
from spendgate.warehouse.statements import SQL_ROOT
from spendgate.warehouse.tables import STAGED, WORK, BudgetEvent, CheckedDay, ClickEvent, SpendSummary, indexes_of

LAID_OUT = (ClickEvent, BudgetEvent, SpendSummary)
MIGRATION = ScriptDirectory(str(SQL_ROOT / "migrations")).get_revision("0003").module


def written(dialect: str, step: Callable[[], None] = MIGRATION.upgrade) -> str:
    """What a step of the migration would send to a server that isn't there, without line breaks."""
    text = io.StringIO()
    context = MigrationContext.configure(dialect_name=dialect, opts={"as_sql": True, "output_buffer": text})
    with Operations.context(context):
        step()
    return " ".join(text.getvalue().split())


def test_postgresql_keeps_what_it_has() -> None:
    assert written("postgresql") == written("postgresql", MIGRATION.downgrade) == ""


@pytest.mark.parametrize("table", LAID_OUT, ids=lambda table: table.name)
def test_the_migration_makes_the_keys_and_indexes_of_the_code(table) -> None:
    script, dialect = written("mssql"), make_url("mssql+mssqlpython://").get_dialect()()
    for index in indexes_of(table, "mssql"):
        assert " ".join(str(CreateIndex(index).compile(dialect=dialect)).split()) in script
    for constraint in table.constraints:
        kind = "PRIMARY KEY" if isinstance(constraint, PrimaryKeyConstraint) else "UNIQUE"
        clustered = "CLUSTERED" if constraint.dialect_options["mssql"]["clustered"] else "NONCLUSTERED"
        columns = ", ".join(column.name for column in constraint.columns)
        assert f"{kind} {clustered} ({columns})" in script


@pytest.mark.parametrize("table", LAID_OUT, ids=lambda table: table.name)
def test_a_table_is_clustered_by_advertiser_and_time(table) -> None:
    clustered = [*table.indexes, *(one for one in table.constraints if "mssql" in one.dialect_options)]
    (key,) = [one for one in clustered if one.dialect_options["mssql"]["clustered"]]
    first, second, *_ = [column.name for column in key.columns]
    assert (first, second) in {
        ("advertiser_id", "time_key"),
        ("advertiser_id", "event_time"),
        ("advertiser_id", "window_start"),
    }


def test_going_down_undoes_each_step_of_going_up() -> None:
    up, down = written("mssql"), written("mssql", MIGRATION.downgrade)
    for made in ("cx_click_event", "cx_budget_event", "ix_spend_summary_time", "ncci_click_event"):
        assert f"INDEX {made} ON" in up
        assert f"{made} ON" in down.partition("DROP INDEX")[2]
    for restored in ("ix_click_event_advertiser_time", "ix_budget_event_advertiser_time"):
        assert f"DROP INDEX {restored} ON" in up
        assert f"CREATE INDEX {restored} ON" in down


def test_every_clustered_key_is_compressed_where_the_server_can() -> None:
    for clustered in written("mssql").split(";"):
        if " CLUSTERED " in clustered:
            assert clustered.endswith("WITH (DATA_COMPRESSION = PAGE)")


def test_staged_rows_and_work_tables_are_heaps() -> None:
    for table in (*STAGED, *WORK, CheckedDay):
        assert not table.primary_key.columns, table
        assert not any(index.dialect_options["mssql"]["clustered"] for index in table.indexes), table


@pytest.mark.parametrize(
    ("server", "lacking"),
    [
        (ANY_SQL_SERVER, set()),
        (Server("SQL Server 2025 Developer", 17, 3), set()),
        (Server("SQL Server 2019 Express", 15, 4), set()),
        (Server("Azure SQL Database, vCores", 12, 5, "GP_Gen5_4"), set()),
        (Server("Azure SQL Database S3", 12, 5, "S3"), set()),
        (Server("Azure SQL Database S1", 12, 5, "S1"), {Feature.COLUMNSTORE}),
        (Server("Azure SQL Managed Instance", 12, 8), set()),
        (Server("SQL Server 2017", 14, 2), set(Feature)),
        (Server("Babelfish for PostgreSQL", 0, 0), set(Feature)),
    ],
    ids=lambda value: value.product if isinstance(value, Server) else "",
)
def test_a_server_takes_the_branches_that_it_can(server: Server, lacking: set[Feature]) -> None:
    assert {feature for feature in Feature if not server.has(feature)} == lacking

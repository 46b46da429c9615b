"""The tables in code, the migrated database and docs/schema.md say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, inspect, text

from spendgate.warehouse import schema
from spendgate.warehouse.descriptions import stored_descriptions, write_descriptions
from spendgate.warehouse.diagram import render_schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.server import Feature, read_server
from spendgate.warehouse.tables import METADATA, REFERENCES, SCHEMAS, Ad, Money, Reference, indexes_of

TABLES = list(METADATA.tables.values())

# They change the schema.
pytestmark = pytest.mark.usefixtures("own_database")


def as_on(dialect: str) -> MetaData:
    """The metadata as an engine has it: PostgreSQL folds names, and indexes of the other engine aren't there."""
    there = MetaData()
    for table in TABLES:
        name = table.name.lower() if dialect == "postgresql" else table.name
        copy = table.to_metadata(there, name=name)
        kept = {index.name for index in indexes_of(table, dialect)}
        for index in set(copy.indexes):
            if index.name not in kept:
                copy.indexes.discard(index)
    return there


def test_autogenerate_would_find_nothing_to_do(warehouse: Warehouse) -> None:
    """Columns, types, NULLs, keys, indexes, descriptions."""
    with warehouse.transaction() as transaction:
        options = {
            "include_schemas": True,
            "include_name": lambda name, kind, _parents: kind != "schema" or name in SCHEMAS,
            "version_table": schema.VERSION_TABLE,
            "version_table_schema": "etl",
            "compare_type": True,
        }
        context = MigrationContext.configure(transaction.connection, opts=options)
        assert compare_metadata(context, as_on(warehouse.dialect)) == []


def test_keys_and_indexes_are_those_of_the_code(any_warehouse: Warehouse) -> None:
    """What `compare_metadata` sees, on an engine that can't be asked for foreign keys too."""
    with any_warehouse.transaction() as transaction:
        connection = transaction.connection
        lacks_columnstore = any_warehouse.dialect == "mssql" and not read_server(connection).has(Feature.COLUMNSTORE)
        inspector = inspect(connection)
        for table in TABLES:
            place = {"table_name": table.name, "schema": table.schema}
            if any_warehouse.dialect == "postgresql":
                place["table_name"] = table.name.lower()
            constraints = tuple(str(constraint.name) for constraint in table.constraints)
            stored = {
                (index["name"], bool(index["unique"]), *index["column_names"])
                for index in inspector.get_indexes(**place)
                if not str(index["name"]).startswith(constraints)
            }
            coded = {
                (index.name, bool(index.unique), *index.columns.keys())
                for index in indexes_of(table, any_warehouse.dialect)
                if not (lacks_columnstore and index.dialect_options["mssql"]["columnstore"])
            }
            if lacks_columnstore:  # who lacks it isn't SQL Server: Babelfish tells other names, and no primary keys
                assert {index[1:] for index in stored} == {index[1:] for index in coded}
            else:
                assert stored == coded
                assert inspector.get_pk_constraint(**place)["constrained_columns"] == table.primary_key.columns.keys()


def test_every_table_and_column_is_described() -> None:
    things = [*TABLES, *(column for table in TABLES for column in table.columns)]
    assert [str(thing) for thing in things if not (thing.comment or "").endswith(".")] == []


def test_money_says_its_currency_and_times_say_utc() -> None:
    for table in TABLES:
        for column in table.columns:
            kind = str(column.type)
            if column.type is Money:
                assert "account currency" in str(column.comment), f"{table}.{column.name}"
            if kind == "DATETIME":
                assert "UTC" in str(column.comment), f"{table}.{column.name}"


def test_the_database_describes_what_the_code_describes(any_warehouse: Warehouse) -> None:
    described = {
        (str(table.schema), table.name.lower(), name): comment
        for table in TABLES
        for name, comment in [("", table.comment), *((column.name, column.comment) for column in table.columns)]
    }
    with any_warehouse.transaction() as transaction:
        assert stored_descriptions(transaction.connection) == described
        assert write_descriptions(transaction.connection) == 0


def test_a_description_that_somebody_changed_is_mended(any_warehouse: Warehouse) -> None:
    theirs = {
        "postgresql": "COMMENT ON COLUMN ads.Ad.ad_title IS 'It''s 100% wrong'",
        "mssql": "EXEC sp_updateextendedproperty N'MS_Description', N'It''s 100% wrong', "
        "N'SCHEMA', N'ads', N'TABLE', N'Ad', N'COLUMN', N'ad_title'",
    }
    with any_warehouse.transaction() as transaction:
        transaction.connection.execute(text(theirs[any_warehouse.dialect]))
        assert stored_descriptions(transaction.connection)["ads", "ad", "ad_title"] == "It's 100% wrong"
        assert write_descriptions(transaction.connection) == 1
        assert stored_descriptions(transaction.connection)["ads", "ad", "ad_title"] == Ad.c.ad_title.comment


def test_a_description_may_hold_any_sign(any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ad.c.ad_title, "comment", "'100%' :of {it}; \\ ? \u6f22")
    with any_warehouse.transaction() as transaction:
        assert write_descriptions(transaction.connection) == 1
        assert stored_descriptions(transaction.connection)["ads", "ad", "ad_title"] == Ad.c.ad_title.comment


def test_the_page_of_the_schema_is_up_to_date(root: Path) -> None:
    written = (root / "docs/schema.md").read_text()
    assert written == render_schema(), "run: python -m spendgate.warehouse.diagram > docs/schema.md"


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda one: f"{one.columns[0]}")
def test_a_reference_names_a_key_of_its_own_kind(reference: Reference) -> None:
    target = reference.target[0].table
    assert list(reference.target) == list(target.primary_key.columns)
    assert [str(column.type) for column in reference.columns] == [str(column.type) for column in reference.target]

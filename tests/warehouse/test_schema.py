"""Migrations: up, down, again, and no drift from the tables in code."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, inspect, select, text

from spendgate.errors import ConfigurationError, WarehouseOutdatedError
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import METADATA, SCHEMAS, Batch, BudgetEvent, ClickEvent, RejectedEvent, SpendSummary
from tests.factories import NOW, Bench, advertiser, budget, click, stored

# They change the schema.
pytestmark = pytest.mark.usefixtures("own_database")


def stored_columns(warehouse: Warehouse) -> dict[str, dict[str, bool]]:
    """{schema.table: {column: nullable}}, folded to lower case."""
    inspector = inspect(warehouse.engine)
    return {
        f"{name}.{table}".lower(): {
            column["name"].lower(): column["nullable"] for column in inspector.get_columns(table, schema=name)
        }
        for name in SCHEMAS
        for table in inspector.get_table_names(schema=name)
    }


def test_the_migrated_schema_has_exactly_the_tables_and_columns_of_the_code(any_warehouse: Warehouse) -> None:
    stored = stored_columns(any_warehouse)
    stored.pop("etl.schema_version")
    assert stored == {
        table.fullname.lower(): {column.name: bool(column.nullable) for column in table.columns}
        for table in METADATA.tables.values()
    }


def test_only_the_columns_of_the_code_number_themselves(any_warehouse: Warehouse) -> None:
    """SQL Server refuses a value for a column that numbers itself, and makes any lone integer key one unless told."""
    inspector = inspect(any_warehouse.engine)
    numbered = {
        f"{name}.{table}.{column['name']}".lower()
        for name in SCHEMAS
        for table in inspector.get_table_names(schema=name)
        for column in inspector.get_columns(table, schema=name)
        if column.get("identity") or column.get("autoincrement")
    }
    assert numbered == {
        f"{table.fullname}.{column.name}".lower()
        for table in METADATA.tables.values()
        for column in table.columns
        if column.identity is not None
    }


def test_a_second_migration_changes_nothing(any_warehouse: Warehouse) -> None:
    before, after = schema.migrate(any_warehouse)
    assert before == after is not None


def test_down_leaves_no_table_and_up_brings_them_back(any_warehouse: Warehouse) -> None:
    everything = stored_columns(any_warehouse)
    schema.migrate(any_warehouse, "base")
    assert set(stored_columns(any_warehouse)) <= {"etl.schema_version"}
    with pytest.raises(WarehouseOutdatedError, match="spendgate migrate"):
        schema.require_current(any_warehouse)
    schema.migrate(any_warehouse)
    assert stored_columns(any_warehouse) == everything
    schema.require_current(any_warehouse)


def test_one_step_back_and_forth_changes_no_row(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(advertiser(), budget(1), click(1), click(2, amount="0.0001"))
    bench.decide()
    everything = {table: stored(any_warehouse, table) for table in (ClickEvent, BudgetEvent, SpendSummary)}
    newest, older = schema.migrate(any_warehouse, "0002")
    assert older == "0002"
    with pytest.raises(WarehouseOutdatedError):
        schema.require_current(any_warehouse)
    assert schema.migrate(any_warehouse) == (older, newest)
    for table, rows in everything.items():
        assert sorted(stored(any_warehouse, table)) == sorted(rows)
    assert bench.build(click(3)).windows_updated


def test_a_revision_that_is_not_there_is_refused_in_one_sentence(warehouse: Warehouse) -> None:
    with pytest.raises(ConfigurationError, match="no revision '1'; there are 0001, 0002"):
        schema.migrate(warehouse, "1")
    schema.require_current(warehouse)


def test_a_warehouse_of_a_newer_version_is_left_alone(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        transaction.run(text("UPDATE etl.schema_version SET version_num = '9999'"))
    with pytest.raises(WarehouseOutdatedError, match="9999, which this version doesn't know"):
        schema.migrate(warehouse)
    with warehouse.transaction() as transaction:
        transaction.select(f"SELECT * FROM ads.{schema.VIEWS[0]}")


def test_what_was_read_before_events_could_be_replayed_counts_as_read(any_warehouse: Warehouse) -> None:
    schema.migrate(any_warehouse, "base")
    assert schema.migrate(any_warehouse, "0001") == (None, "0001")
    place = {"stream": "s", "partition_id": "0", "epoch": 1, "created_at": NOW, "updated_at": NOW}
    counts = {"event_count": 3, "click_count": 2, "rejected_count": 1, "from_position": "0", "to_position": "3"}
    with any_warehouse.transaction() as transaction:
        transaction.run(insert(Batch).values(batch_id=1, **place, **counts, state="merged"))
        transaction.run(
            insert(RejectedEvent).values(
                batch_id=1, ordinal=0, position="0", enqueued_at=NOW, reason="not_json", detail="?", **place
            )
        )
    assert schema.migrate(any_warehouse)[0] == "0001"
    with any_warehouse.transaction() as transaction:
        assert transaction.run(select(Batch.c.is_replay)).scalar_one() == 0
        assert transaction.run(select(RejectedEvent.c.replay_batch_id)).scalar_one() is None


def test_every_view_answers(any_warehouse: Warehouse) -> None:
    with any_warehouse.transaction() as transaction:
        for view in schema.VIEWS:
            assert list(transaction.select(f"SELECT * FROM ads.{view}")[1]) == []

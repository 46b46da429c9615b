"""SQL files become statements: values bound, T-SQL left as it is, PostgreSQL with the same parameters."""

from __future__ import annotations

import re
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert

from spendgate.errors import ConfigurationError
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.statements import SQL_ROOT, load_statement, statement_files, translate_statement
from spendgate.warehouse.tables import BudgetEvent
from tests.factories import MORNING, NOW

NAMES = [name for folder in ("merge", "spend", "flags", "checks", "views") for name in statement_files(folder)]
PARAMETER = re.compile(r"(?<![@\w])@(\w+)")


@pytest.mark.parametrize("name", NAMES)
def test_sql_server_gets_the_files_text_with_colons_for_at_signs(name: str) -> None:
    file = (SQL_ROOT / f"{name}.sql").read_text(encoding="utf-8")
    body = "".join(line for line in file.splitlines(keepends=True) if not line.startswith("--"))
    assert load_statement(name, "mssql").text.text == PARAMETER.sub(r":\1", body).removesuffix(";\n")


@pytest.mark.parametrize("name", NAMES)
def test_both_engines_take_the_same_parameters(name: str) -> None:
    file = (SQL_ROOT / f"{name}.sql").read_text(encoding="utf-8")
    body = "".join(line for line in file.splitlines(keepends=True) if not line.startswith("--"))
    for dialect in ("mssql", "postgresql"):
        statement = load_statement(name, dialect)
        assert statement.parameters == set(PARAMETER.findall(body)) == set(statement.text._bindparams)


@pytest.mark.parametrize("value", ["O'Brien", "'; DROP TABLE ads.Ad --", ":name @name %s %(x)s", "漢😀", ""])
def test_values_are_bound_never_pasted(warehouse: Warehouse, value: str) -> None:
    with warehouse.transaction() as transaction:
        _, rows = transaction.select("SELECT @value AS value", value=value)
    assert [row.value for row in rows] == [value]


def test_values_are_bound_on_every_engine(any_warehouse: Warehouse) -> None:
    value = "O'Brien :name @name 漢😀"
    with any_warehouse.transaction() as transaction:
        _, rows = transaction.select("SELECT CAST(@value AS NVARCHAR(50)) AS value", value=value)
    assert [row.value for row in rows] == [value]


def test_wrong_parameter_names_are_a_mistake_of_the_caller(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        for given in ({}, {"noow": NOW}, {"now": NOW, "more": 1}):
            with pytest.raises(TypeError, match=r"merge/insert_new_ads takes \['now'\], got"):
                transaction.execute("merge/insert_new_ads", **given)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("SELEC FROM", "is not T-SQL"),
        ("SELECT 1; SELECT 2", "holds 2 statements"),
        ("-- nothing", "holds 0 statements"),
    ],
)
def test_what_isnt_one_statement_is_refused(source: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        translate_statement("the file", source, "postgresql")


def test_a_parameter_takes_part_in_arithmetic_and_in_top(any_warehouse: Warehouse) -> None:
    source = "SELECT TOP (@limit) v.n + @more AS n FROM (SELECT 1 AS n UNION ALL SELECT 2 AS n) AS v ORDER BY v.n"
    with any_warehouse.transaction() as transaction:
        _, rows = transaction.select(source, limit=1, more=41)
    assert [row.n for row in rows] == [42]


def test_an_order_that_postgresql_can_read_off_an_index_is_kept() -> None:
    text = translate_statement("s", "SELECT TOP 1 a.b FROM ads.T AS a ORDER BY a.b DESC, a.c", "postgresql").text.text
    assert "NULLS" not in text


def test_uuids_order_as_their_lower_case_texts_on_every_engine(any_warehouse: Warehouse) -> None:
    ids = [uuid4() for _ in range(50)] + [UUID(int=0), UUID(int=2**128 - 1), UUID("0" * 31 + "a"), UUID("a" + "0" * 31)]
    common = {"advertiser_id": 1, "new_budget_value": 1, "source": "s", "created_at": NOW, "updated_at": NOW}
    times = {"event_time": MORNING, "time_key": MORNING}
    with any_warehouse.transaction() as transaction:
        transaction.run(insert(BudgetEvent), [{"event_id": key, **common, **times} for key in ids])
        source = "SELECT LOWER(CAST(b.event_id AS CHAR(36))) AS k FROM ads.BudgetEvent AS b ORDER BY {0}"
        _, rows = transaction.select(source.format("LOWER(CAST(b.event_id AS CHAR(36)))"))
    assert [row.k for row in rows] == sorted(str(key) for key in ids)

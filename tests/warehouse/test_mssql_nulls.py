"""NULL as a word in what goes to SQL Server, by the text: no server is needed."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine, insert, update

from spendgate.warehouse.mssql_nulls import spell_nulls
from spendgate.warehouse.tables import Ad


def spelt(statement: str, parameters: Any) -> tuple[str, Any]:
    return spell_nulls(None, None, statement, parameters, None, False)  # type: ignore[arg-type]  # no connection


@pytest.mark.parametrize(
    ("statement", "parameters", "expected", "left"),
    [
        ("SET a=%(a)s, b=%(b)s", {"a": None, "b": 0}, "SET a=NULL, b=%(b)s", {"b": 0}),
        ("SET a=%(a)s WHERE x=%(a_1)s", {"a": None, "a_1": 1}, "SET a=NULL WHERE x=%(a_1)s", {"a_1": 1}),
        ("SELECT %(a)s WHERE x=%(a)s", {"a": None}, "SELECT NULL WHERE x=NULL", {}),
        ("LIKE '100%%(a)s' OR x=%(a)s", {"a": None}, "LIKE '100%%(a)s' OR x=NULL", {}),
        ("SET a=%(a)s", {"a": ""}, "SET a=%(a)s", {"a": ""}),
        (
            "VALUES (%(a)s, %(b)s, %(c)s)",
            [{"a": None, "b": None, "c": 1}, {"a": None, "b": 2, "c": 3}],
            "VALUES (NULL, %(b)s, %(c)s)",
            [{"b": None, "c": 1}, {"b": 2, "c": 3}],
        ),
        # Rows stay rows: something has to be bound for each.
        ("VALUES (%(a)s)", [{"a": None}, {"a": None}], "VALUES (%(a)s)", [{"a": None}, {"a": None}]),
        ("SELECT ?", (None,), "SELECT ?", (None,)),
        ("SELECT 1", (), "SELECT 1", ()),
    ],
)
def test_a_parameter_that_is_null_becomes_a_word(statement: str, parameters: Any, expected: str, left: Any) -> None:
    assert spelt(statement, parameters) == (expected, left)


def test_the_driver_still_takes_the_form_of_placeholders_that_is_looked_for() -> None:
    engine = create_engine("mssql+mssqlpython://host/database")
    for statement in (update(Ad).values(ad_format=None), insert(Ad).values(ad_format=None)):
        text = str(statement.compile(engine))
        assert text != spelt(text, {"ad_format": None})[0] == text.replace("%(ad_format)s", "NULL")

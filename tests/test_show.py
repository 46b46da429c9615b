"""What people and programs see: digits kept, times in UTC, text quoted where it must be."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest

from spendgate.show import Format, counted, progress, show_rows, show_table, tell

COLUMNS = ["name", "amount", "at", "day", "budget", "is_ok", "raw", "id"]
UUID_TEXT = "cccccccc-0000-4000-8000-000000000001"
ROW = [
    'Brîel, "s" & co\nsecond line',
    Decimal("999999999999.9000"),
    datetime(2026, 11, 21, 2, 30, 0, 120_000, tzinfo=timezone(timedelta(hours=2))),
    date(2026, 11, 21),
    None,
    True,
    b"\xffraw",
    UUID(UUID_TEXT),
]


def test_json_keeps_the_digits_of_money_and_writes_times_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(COLUMNS, [ROW], Format.JSON)
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": ROW[0],
            "amount": "999999999999.9000",
            "at": "2026-11-21T00:30:00.120Z",
            "day": "2026-11-21",
            "budget": None,
            "is_ok": True,
            "raw": "\\xffraw",
            "id": UUID_TEXT,
        }
    ]


def test_json_of_no_rows_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(COLUMNS, [], Format.JSON)
    assert json.loads(capsys.readouterr().out) == []


def test_json_of_a_number_that_json_does_not_have_is_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(["a", "b", "c"], [[float("nan"), float("-inf"), 0.5]], Format.JSON)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == [{"a": "nan", "b": "-inf", "c": 0.5}]


def test_csv_is_quoted_where_it_must_be_and_null_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(COLUMNS, [ROW], Format.CSV)
    header, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == COLUMNS
    assert row == [
        ROW[0], "999999999999.9000", "2026-11-21T00:30:00.120Z", "2026-11-21", "", "True", "\\xffraw", UUID_TEXT
    ]  # fmt: skip


def test_a_time_as_the_warehouse_stores_it_is_utc(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(["at"], [[datetime.fromisoformat("2026-11-21T18:00:00")]], Format.JSON)
    assert json.loads(capsys.readouterr().out) == [{"at": "2026-11-21T18:00:00.000Z"}]


def test_small_and_large_decimals_are_never_written_with_an_exponent(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(["a", "b"], [[Decimal("1E+3"), Decimal("0E-10")]], Format.CSV)
    assert capsys.readouterr().out == "a,b\n1000,0.0000000000\n"


def test_a_table_has_a_dash_for_null_numbers_to_the_right_and_text_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_table(["name", "spent"], [["[bold]x[/bold]", Decimal("1.5000")], ["y", None]])
    lines = capsys.readouterr().out.splitlines()
    named, empty = (line for line in lines if "x" in line or "y" in line)
    assert "[bold]x[/bold]" in named
    assert "1.5000" in named
    assert empty.rstrip(" │").endswith("-")
    assert named.index("1.5000") + len("1.5000") == empty.index("-") + 1


def test_an_empty_table_still_has_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["name", "spent"], [], title="Nothing yet")
    out = capsys.readouterr().out
    assert "Nothing yet" in out
    assert "name" in out
    assert "spent" in out


def test_what_goes_on_is_told_on_stderr_so_that_stdout_holds_results_only(capsys: pytest.CaptureFixture[str]) -> None:
    tell("working")
    with progress("publishing") as tick:
        tick(1, 2)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "working\npublishing ...\n")


def test_counts_are_listed_and_none_is_a_dash() -> None:
    assert counted({"not_json": 1200, "too_late": 1}) == "not_json 1,200, too_late 1"
    assert counted({}) == "-"


def test_times_have_milliseconds_also_when_they_are_zero(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(["at"], [[datetime(2026, 11, 21, 18, tzinfo=UTC)]], Format.CSV)
    assert capsys.readouterr().out == "at\n2026-11-21T18:00:00.000Z\n"

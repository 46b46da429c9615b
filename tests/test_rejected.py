"""Rejected events as a person looks at them."""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest

from spendgate.errors import ConfigurationError
from spendgate.events import Reason
from spendgate.rejected import preview, rejected_event, rejected_events, show_event, show_list, spelt
from spendgate.replay import RejectedFilter
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import RejectedEvent
from tests.factories import Bench, at, budget, click, killed_between_copy_and_commit, stored

EVERYTHING = RejectedFilter()


def rejecting(warehouse: Warehouse, *bodies: bytes | None) -> Bench:
    bench = Bench(warehouse)
    bench.stage(*bodies)
    return bench


def test_the_newest_come_first_and_all_that_match_are_counted(any_warehouse: Warehouse) -> None:
    rejecting(any_warehouse, b"1", click(amount="-1"), b"2", budget(value="x"), b"3")
    found = rejected_events(any_warehouse, EVERYTHING, 2)
    assert [row[-1] for row in found.rows] == ["3", preview(budget(value="x"))]
    assert found.columns == ["id", "stream", "partition", "position", "enqueued_at", "reason", "detail", "raw"]
    assert (found.by_reason, found.waiting) == ({"not_json": 3, "out_of_range": 1, "wrong_type": 1}, 0)
    some = rejected_events(any_warehouse, RejectedFilter(reason=Reason.NOT_JSON), 9)
    assert ([row[-1] for row in some.rows], some.by_reason) == (["3", "2", "1"], {"not_json": 3})


def test_rows_of_a_batch_that_never_came_to_count_are_not_listed_or_shown(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.stream.append(b"?")
    killed_between_copy_and_commit(bench)
    [row] = stored(any_warehouse, RejectedEvent)
    assert rejected_events(any_warehouse, EVERYTHING, 9).by_reason == {}
    with pytest.raises(ConfigurationError, match=f"No rejected event has the id {row.id}"):
        rejected_event(any_warehouse, row.id)


def test_a_list_ends_with_counts_and_says_what_it_leaves_out_and_what_is_on_its_way(
    any_warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(any_warehouse, lateness=timedelta(days=1))
    bench.stage(click(1, at(20)), b"?", b"!")
    bench.lateness = timedelta(days=31)
    bench.replay()
    show_list(any_warehouse, EVERYTHING, 2)
    *_, counts, waiting = capsys.readouterr().out.splitlines()
    assert counts == "Rejected, by reason: not_json 2, too_late 1; the 2 newest of 3 are shown."
    assert waiting == "1 of them are staged again: the next build accepts them or says why not."
    show_list(any_warehouse, RejectedFilter(reason=Reason.NOT_JSON), 2)
    assert capsys.readouterr().out.splitlines()[-1] == "Rejected, by reason: not_json 2."


def test_a_list_of_nothing_is_a_sentence(any_warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    show_list(any_warehouse, EVERYTHING, 2)
    assert capsys.readouterr().out == "No rejected event matches.\n"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (None, None),
        (b"", ""),
        (b'{"a": 1}', '{"a": 1}'),
        ("Brîel\n\tsøn".encode(), "Brîel\\n\\tsøn"),
        (b"\x1b[2J\x07\x00", "\\x1b[2J\\x07\\x00"),
        (b"\xff\xfe{", "\\xff\\xfe{"),
        ("\u202egnp.exe".encode(), "\\u202egnp.exe"),
        (b"x" * 60, "x" * 60),
        (b"x" * 61, "x" * 60 + "..."),
    ],
)
def test_a_preview_is_one_line_that_no_terminal_acts_on(raw: bytes | None, shown: str | None) -> None:
    assert preview(raw) == shown


@pytest.mark.parametrize(
    ("raw", "how", "written"),
    [
        (b'{"a":\n 1}', "UTF-8 text", '{"a":\n 1}'),
        (b"", "UTF-8 text", ""),
        ("søn \U0001f45f".encode(), "UTF-8 text", "søn \U0001f45f"),
        (b"\xff{", "base64, for it isn't UTF-8", base64.b64encode(b"\xff{").decode()),
        (b"\x1b[2J", "base64, for it holds control characters", base64.b64encode(b"\x1b[2J").decode()),
    ],
)
def test_bytes_are_shown_as_text_where_they_can_be(raw: bytes, how: str, written: str) -> None:
    assert spelt(raw) == (how, written)


def test_one_event_is_shown_with_every_column_and_its_bytes_to_the_last(
    any_warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = click(amount="-1", note="x" * 400)
    rejecting(any_warehouse, raw, b"\xff", None)
    rows = {row.ordinal: row for row in stored(any_warehouse, RejectedEvent)}
    show_event(any_warehouse, rows[0].id)
    table, said = capsys.readouterr().out.split("raw, ")
    assert all(f" {column.name} " in table for column in RejectedEvent.columns if column.name != "raw")
    assert "amount is negative." in table
    assert said == f"{len(raw)} bytes (UTF-8 text):\n{raw.decode()}\n"
    show_event(any_warehouse, rows[1].id)
    assert "raw, 1 bytes (base64, for it isn't UTF-8):\n/w==\n" in capsys.readouterr().out
    show_event(any_warehouse, rows[2].id)
    assert "raw: none, the message had no value\n" in capsys.readouterr().out


@pytest.mark.parametrize("event_id", [4711, 0, -1, 2**63, 10**30])
def test_an_event_that_is_not_there_is_a_sentence(any_warehouse: Warehouse, event_id: int) -> None:
    with pytest.raises(ConfigurationError, match=f"No rejected event has the id {event_id}; see ./spendgate rejected"):
        rejected_event(any_warehouse, event_id)

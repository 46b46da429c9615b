"""Serving flags: the first reason that holds, a version for each change, and a message with each version."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from spendgate.flags import Flags
from spendgate.warehouse.engine import Transaction, Warehouse
from spendgate.warehouse.tables import Outbox, ServingFlag
from tests.factories import Bench, KilledError, advertiser, at, budget, click, flags_of, stored

NOON = at(21, 12)


def flag(warehouse: Warehouse, advertiser_id: int = 1) -> tuple[bool, str, int]:
    """(can_serve, reason, version)."""
    row = flags_of(warehouse)[advertiser_id]
    return row.flag.can_serve, row.flag.reason, row.version


def messages(warehouse: Warehouse) -> list[tuple[int, int, str]]:
    """(advertiser, version, reason) of everything in the outbox, in order."""
    rows = sorted(stored(warehouse, Outbox), key=lambda row: row.id)
    return [(row.advertiser_id, row.version, row.reason) for row in rows]


def test_the_first_reason_that_holds_counts(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    steps = [
        ([click(1, at(21, 8), "2")], "inactive"),  # inferred
        ([advertiser(is_active=False)], "inactive"),
        ([advertiser(at(20, 1))], "no_budget"),
        ([budget(1, at(21, 8), "2")], "exhausted"),
        ([budget(2, at(21, 9), "2.0001")], "ok"),
        ([advertiser(at(20, 2), is_active=False)], "inactive"),
    ]
    for bodies, reason in steps:
        bench.build(*bodies)
        bench.decide(NOON)
        assert flags_of(any_warehouse)[1].flag.reason == reason
        assert flags_of(any_warehouse)[1].flag.can_serve == (reason == "ok")


def test_a_flag_shows_budget_spend_and_what_remains(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(
        advertiser(), budget(1, at(20), "5"), click(1, at(21, 8), "3.5"), click(2, at(21, 9), "9", is_valid=False)
    )
    counts = bench.decide(NOON)
    assert counts.as_dict() == {"as_of": "2026-11-21T12:00:00.000Z", "decided": 1, "flipped": 1}
    shown = flags_of(any_warehouse)[1]
    assert (shown.flag.budget, shown.flag.spent_today, shown.flag.remaining) == (5, Decimal("3.5"), Decimal("1.5"))
    assert (shown.flag.day, shown.as_of, shown.version) == (NOON.date(), NOON, 1)


def test_nothing_remains_without_a_budget_or_above_it(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(advertiser(), click(1, at(21, 8), "3"))
    bench.decide(NOON)
    assert flags_of(any_warehouse)[1].flag[2:5] == (None, 3, 0)
    bench.build(budget(1, at(21), "2"))
    bench.decide(NOON)
    assert flags_of(any_warehouse)[1].flag[2:5] == (2, 3, 0)


def test_a_version_grows_only_when_can_serve_or_reason_changes(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(advertiser(), budget(1, at(21), "5"), click(1, at(21, 8), "2"))
    assert bench.decide(NOON).flipped == 1
    bench.build(click(2, at(21, 9), "1"))
    bench.now += timedelta(hours=1)
    assert bench.decide(NOON).flipped == 0
    assert flag(any_warehouse) == (True, "ok", 1)
    assert flags_of(any_warehouse)[1].flag.spent_today == 3
    bench.build(click(3, at(21, 10), "2"))
    assert bench.decide(NOON).flipped == 1
    assert flag(any_warehouse) == (False, "exhausted", 2)
    bench.build(advertiser(at(21), is_active=False))
    assert bench.decide(NOON).flipped == 1  # can_serve stays false, the reason changes
    assert flag(any_warehouse) == (False, "inactive", 3)
    assert messages(any_warehouse) == [(1, 1, "ok"), (1, 2, "exhausted"), (1, 3, "inactive")]


def test_a_new_day_opens_the_gate_without_a_click(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(advertiser(), budget(1, at(21), "2"), click(1, at(21, 8), "2"))
    bench.decide(at(22) - timedelta(milliseconds=1))
    assert flag(any_warehouse) == (False, "exhausted", 1)
    bench.decide(at(22))
    assert flag(any_warehouse) == (True, "ok", 2)
    assert flags_of(any_warehouse)[1].flag.spent_today == 0


def test_as_of_chooses_the_budget_of_its_instant_and_the_spend_of_its_day(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(
        advertiser(), budget(1, at(20), "5"), budget(2, NOON, "9"), click(1, at(21, 20), "6"), click(2, at(22), "7")
    )
    bench.decide(NOON - timedelta(milliseconds=1))
    assert flags_of(any_warehouse)[1].flag[1:4] == ("exhausted", 5, 6)
    bench.decide(NOON)
    assert flags_of(any_warehouse)[1].flag[1:4] == ("ok", 9, 6)
    bench.decide(at(20))
    assert flags_of(any_warehouse)[1].flag[1:4] == ("ok", 5, 0)
    bench.decide(at(19))
    assert flags_of(any_warehouse)[1].flag[1:4] == ("no_budget", None, 0)


def test_unless_told_flags_are_decided_now(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(advertiser())
    bench.now = at(23, 17)
    bench.decide()
    assert flags_of(any_warehouse)[1].as_of == at(23, 17)


def test_of_budgets_of_one_instant_the_last_updated_and_then_the_greatest_id_holds(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(advertiser(), *(budget(number, at(21), str(number)) for number in (1, 3, 2)))
    bench.decide(NOON)
    assert flags_of(any_warehouse)[1].flag.budget == 3
    bench.build(budget(0, at(21), "9", updated_at=at(21, 1)))
    bench.decide(NOON)
    assert flags_of(any_warehouse)[1].flag.budget == 9


def test_every_advertiser_has_a_flag_and_each_change_one_message(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(*(advertiser(advertiser_id=number) for number in (1, 2)), click(1, at(21, 8), advertiser_id=3))
    assert bench.decide(NOON).flipped == 3
    bench.build(budget(1, at(21), "5", advertiser_id=2))
    assert bench.decide(NOON).flipped == 1
    assert sorted(messages(any_warehouse)) == [
        (1, 1, "no_budget"),
        (2, 1, "no_budget"),
        (2, 2, "ok"),
        (3, 1, "inactive"),
    ]
    assert {row.published_at for row in stored(any_warehouse, Outbox)} == {None}


def test_a_message_says_what_the_flag_says(any_warehouse: Warehouse) -> None:
    bench = Bench(any_warehouse)
    bench.build(advertiser(), budget(1, at(21), "5"), click(1, at(21, 8), "2"))
    bench.decide(NOON)
    [row], [message] = stored(any_warehouse, ServingFlag), stored(any_warehouse, Outbox)
    names = ("advertiser_id", "can_serve", "reason", "budget", "spent_today", "remaining", "as_of", "version")
    assert [getattr(message, name) for name in names] == [getattr(row, name) for name in names]


def test_a_flag_and_its_message_are_written_together_or_not_at_all(
    any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(any_warehouse)
    bench.build(advertiser())
    execute = Transaction.execute

    def dying(self: Transaction, name: str, **parameters: object) -> int:
        if name == "flags/insert_flags":
            raise KilledError
        return execute(self, name, **parameters)

    monkeypatch.setattr(Transaction, "execute", dying)
    with pytest.raises(KilledError):
        bench.decide(NOON)
    assert (messages(any_warehouse), flags_of(any_warehouse)) == ([], {})
    monkeypatch.undo()
    bench.decide(NOON)
    assert messages(any_warehouse) == [(1, 1, "no_budget")]


def test_with_no_advertiser_there_is_nothing_to_decide(any_warehouse: Warehouse) -> None:
    assert Flags(any_warehouse, lambda: NOON).decide().as_dict() == {
        "as_of": "2026-11-21T12:00:00.000Z",
        "decided": 0,
        "flipped": 0,
    }

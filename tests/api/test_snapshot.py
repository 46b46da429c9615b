"""The snapshot's bytes are those that encoding flag by flag would give, wherever its pieces end."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, cast

import msgspec
import pytest
from sqlalchemy import Row

from spendgate.api import snapshot
from spendgate.api.flags import FlagList, as_stale, read_flag, unknown_flag
from spendgate.api.snapshot import Snapshot
from tests.api.callers import NOW

MAX_AGE = timedelta(hours=3)
PIECE = 5


class FlagRow(NamedTuple):
    """As sql/api/list_flags answers."""

    advertiser_id: int
    can_serve: int
    reason: str
    budget: Decimal | None
    spent_today: Decimal
    remaining: Decimal
    day: datetime
    as_of: datetime
    version: int
    is_stale: int
    last_change: int


def row(number: int, as_of: datetime) -> Row[Any]:
    money = Decimal(number).quantize(Decimal("0.0001"))
    budget = None if number % 4 == 0 else money
    made = FlagRow(3 * number, number % 2, "ok", budget, money, money, as_of, as_of, number, number % 2, 77)
    return cast("Row[Any]", made)


def pages(rows: Sequence[Row[Any]], size: int) -> Iterator[Sequence[Row[Any]]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "FLAGS_A_PIECE", PIECE)
    monkeypatch.setattr(snapshot, "FEW_FLAGS", PIECE)


@pytest.mark.parametrize("count", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_whole_part_and_single_flags_are_the_same_bytes_wherever_a_piece_ends(count: int) -> None:
    # Every third is as old as may be, and stale a moment later.
    stored = NOW.replace(tzinfo=None)
    rows = [row(number, stored - (MAX_AGE if number % 3 == 0 else timedelta())) for number in range(1, count + 1)]
    made = Snapshot.pack(("state",), pages(rows, 2), MAX_AGE)
    for now in (NOW, NOW + timedelta(milliseconds=1), NOW + 2 * MAX_AGE):
        flags = [read_flag(one) for one in rows]
        ends = [one.as_of.replace(tzinfo=NOW.tzinfo) + MAX_AGE for one in rows]
        flags = [as_stale(flag) if now > end else flag for flag, end in zip(flags, ends, strict=True)]
        whole = msgspec.json.encode(FlagList(77 if rows else 0, True, flags))
        rendered = made.rendered(now)
        assert b"".join(rendered.parts) == whole
        assert gzip.decompress(b"".join(rendered.zipped())) == whole
        assert made.has_stale(now) is any(flag.stale for flag in flags)
        for flag in flags:
            assert made.flag(flag.advertiser_id, now) == msgspec.json.encode(flag)
        assert made.flag(4, now) == msgspec.json.encode(unknown_flag(4))
        some = msgspec.json.encode(FlagList(77 if rows else 0, False, flags[::2]))
        asked = {4, *(flag.advertiser_id for flag in flags[::2])}
        assert made.some(asked, now, complete=False) == some
        narrow = [{"version": flag.version, "can_serve": flag.can_serve} for flag in flags]
        selected = made.rendered(now, ("version", "can_serve"))
        assert msgspec.json.decode(b"".join(selected.parts))["flags"] == narrow
        assert selected.etag != rendered.etag


def test_all_who_are_answered_share_the_same_bytes_and_few_lists_are_kept() -> None:
    made = Snapshot.pack(("state",), pages([row(n, NOW.replace(tzinfo=None)) for n in range(1, 13)], 12), MAX_AGE)
    first, again = made.rendered(NOW), made.rendered(NOW + timedelta(seconds=1))
    assert all(one is other for one, other in zip(first.parts, again.parts, strict=True))
    assert first.zipped() is again.zipped()
    for name in ("version", "reason", "day"):
        made.rendered(NOW, (name,))
    assert [made.rendered_at_hand(NOW, names) is None for names in ((), ("version",), ("day",))] == [False, True, False]
    assert (made.is_most(set(range(7))), made.is_most(set(range(5)))) == (True, False)

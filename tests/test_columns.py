"""The two lanes of decoding say the same: `decode_batch` is `decode_event`, row by row."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendgate.clock import floor_hour
from spendgate.columns import (
    AD_SCHEMA,
    ADVERTISER_SCHEMA,
    BUDGET_SCHEMA,
    CLICK_SCHEMA,
    DecodedBatch,
    decode_batch,
)
from spendgate.events import Ad, Advertiser, Budget, Click, Event, Rejection, decode_event
from tests.factories import LATENESS, NOW, ad, advertiser, at, budget, click
from tests.strategies import World, patient, worlds

BATCH = 7
ENQUEUED_MS = round(NOW.timestamp() * 1000)


def decoded(
    values: list[bytes | None], enqueued_ms: list[int] | None = None, replayed_at: datetime | None = None
) -> DecodedBatch:
    stamps = enqueued_ms or [ENQUEUED_MS] * len(values)
    return decode_batch(values, stamps, batch_id=BATCH, lateness=LATENESS, replayed_at=replayed_at)


def columned(
    values: list[bytes | None], enqueued_ms: list[int] | None = None, replayed_at: datetime | None = None
) -> dict[int, Event | Rejection]:
    """What `decode_batch` makes of each message; every row's bookkeeping is checked on the way."""
    batch = decoded(values, enqueued_ms, replayed_at)
    outcomes: list[tuple[int, Event | Rejection]] = list(batch.rejections)
    for kind, table, schema in (
        (Click, batch.clicks, CLICK_SCHEMA),
        (Budget, batch.budgets, BUDGET_SCHEMA),
        (Advertiser, batch.advertisers, ADVERTISER_SCHEMA),
        (Ad, batch.ads, AD_SCHEMA),
    ):
        assert table.schema == schema
        outcomes += [_event_of(kind, row) for row in table.to_pylist()]
    assert len(dict(outcomes)) == len(outcomes), "a message came out twice"
    return dict(outcomes)


def _event_of(kind: type[Any], row: dict[str, Any]) -> tuple[int, Event]:
    assert row.pop("batch_id") == BATCH
    ordinal = row.pop("ordinal")
    row = {name: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value for name, value in row.items()}
    if "time_key" in row:
        assert row.pop("time_key") == floor_hour(row["click_time"] if kind is Click else row["event_time"])
    for name in {"click_id", "event_id"} & row.keys():
        row[name] = str(UUID(bytes=row[name]))
    for name in {"is_valid", "is_active"} & row.keys():
        row[name] = {0: False, 1: True}[row[name]]
    return ordinal, kind(**row)


def agree(
    values: list[bytes | None], enqueued_ms: list[int] | None = None, replayed_at: datetime | None = None
) -> None:
    stamps = enqueued_ms or [ENQUEUED_MS] * len(values)
    single = {
        ordinal: decode_event(raw, datetime.fromtimestamp(stamp / 1000, UTC), LATENESS, replayed_at)
        for ordinal, (raw, stamp) in enumerate(zip(values, stamps, strict=True))
    }
    assert columned(values, stamps, replayed_at) == single


# --- Spellings -------------------------------------------------------------------------------------------

FIELDS = (
    ("event_type", '"click"'),
    ("click_id", '"00000000-0000-4000-8000-000000000001"'),
    ("advertiser_id", "1"),
    ("ad_id", "10"),
    ("click_time", '"2026-11-21T08:00:00.000Z"'),
    ("amount", '"2.5"'),
)
UUIDS = (
    '"0000000A-0000-4000-8000-00000000000b"',
    '"00000000-0000-4000-8000-00000000000g"',
    '"00000000-0000-4000-80000-00000000001"',
    '"00000000_0000-4000-8000-000000000001"',
    '"00000000000040008000000000000001"',
    '"{0000000-0000-4000-8000-00000000001}"',
    '"\\u0030000000-0000-4000-8000-000000000001"',
    '"\u0660000000-0000-4000-8000-00000000001"',
    '"\\ud800"',
    '""',
    "null",
    "1",
)
IDS = ("0", "-0", "-1", "2147483647", "2147483648", "1.0", "1e0", "01", '"1"', "true", "null", "9" * 40, "[1]", "1.5")
TIMES = (
    '"2026-11-21T08:00:00Z"',
    '"2026-11-21T08:59:59.999Z"',
    '"2026-11-21T08:59:59.9999Z"',
    '"2026-11-21T08:00:00.1Z"',
    '"2026-11-21t08:00:00z"',
    '"2026-11-21T08:00:00+02:00"',
    '"2026-11-21T08:00:00.000-05:30"',
    '"2024-02-29T08:00:00Z"',
    '"2026-02-29T08:00:00Z"',
    '"2026-11-31T08:00:00Z"',
    '"2026-13-01T08:00:00Z"',
    '"2026-00-01T08:00:00Z"',
    '"2026-11-00T08:00:00Z"',
    '"2026-11-21T24:00:00Z"',
    '"2026-11-21T08:60:00Z"',
    '"2026-11-21T08:00:60Z"',
    '"0000-01-01T00:00:00Z"',
    '"0001-01-01T00:00:00Z"',
    '"9999-12-31T23:59:59.999Z"',
    '"2026-11-21 08:00:00Z"',
    '"2026-11-21T08:00:00,000Z"',
    '"2026-11-21T08:00:00.0a0Z"',
    '"2026/11/21T08:00:00Z"',
    '"2026-11-21T08:00:00"',
    '"\\u0032026-11-21T08:00:00Z"',
    '"202\u0666-11-21T08:00:00Z"',
    '"2026-11-21T08:00:0\\ud800Z"',
    '"2026-11-23T12:05:00.000Z"',
    '"2026-11-23T12:05:00.001Z"',
    '"2026-10-23T12:00:00Z"',
    '"2026-10-23T11:59:59.999Z"',
    "null",
    "1795000000",
    '""',
)
MONEY = (
    '"0"',
    '"2"',
    '"007.5"',
    '"999999999999.9999"',
    '"0999999999999.9999"',
    '"999999999999.99995"',
    '"1000000000000"',
    '"0.00005"',
    '"0.00015"',
    '"1e2"',
    '"-0"',
    '"-1"',
    '"+1"',
    '".5"',
    '"5."',
    '" 1"',
    '"1\\n"',
    '"1_0"',
    '"NaN"',
    '"Infinity"',
    '"\u0663"',
    '"\\u0031"',
    '"\\ud800"',
    '""',
    "2",
    "-0",
    "-1",
    "2.5",
    "-0.0",
    "0.1",
    "0.30000000000000004",
    "999999999999.9999",
    "999999999999.99995",
    "123456789012.34565",
    "1e2",
    "1E-5",
    "1e400",
    "1e-400",
    "9007199254740993.5",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "9" * 400,
    "0." + "1" * 400,
    "01",
    "null",
    "true",
    "[1]",
    "{}",
)
BOOLEANS = ("true", "false", "null", "0", "1", '"true"', "[]")
# The value of a field that nobody knows: skipped by one decoder, read by the other.
UNKNOWN = (
    '"x"',
    '"\x01"',
    '"\t"',
    '"\\q"',
    '"\\u12"',
    '"\\ud800"',
    '"\\ud83d\\udc5f"',
    '"\x7f"',
    '"\\/"',
    "01",
    "1.",
    "1e",
    "-",
    "+1",
    ".5",
    "--1",
    "1e5.5",
    "0x1",
    "-0.0E-0",
    "NaN",
    "Infinity",
    "-Infinity",
    "nul",
    "True",
    "[1,]",
    "[1 2]",
    '{"a":1,}',
    '{"a" 1}',
    "{a:1}",
    '{"a":[{"b":null}]}',
    "[" * 50 + "]" * 50,
    "[" * 50,
    "9" * 5000,
)
SPELLINGS: dict[str, tuple[str, ...]] = {
    "event_type": ('"click"', '"cl\\u0069ck"', '"budget"', '"Click"', '"view"', "null", "1", '["click"]', '"click "'),
    "click_id": UUIDS,
    "advertiser_id": IDS,
    "ad_id": IDS,
    "click_time": TIMES,
    "updated_at": TIMES,
    "amount": MONEY,
    "is_valid": BOOLEANS,
    "\\u0061mount": MONEY,
    "\\u0065vent_type": ('"click"', '"budget"', "null"),
    "trace": UNKNOWN,
    "tr\x01ce": ("1",),
    "": ("1",),
}


def joined(fields: list[tuple[str, str]]) -> bytes:
    text = "{" + ",".join(f'"{name}":{value}' for name, value in fields) + "}"
    return text.encode()


SPOILED = [
    *((f"{name}={value[:40]}", [*FIELDS, (name, value)]) for name, values in SPELLINGS.items() for value in values),
    *((f"{value[:40]}, then {name}", [(name, value), *FIELDS]) for name, all_ in SPELLINGS.items() for value in all_),
    *((f"no {name}", [field for field in FIELDS if field[0] != name]) for name, _ in FIELDS),
]


@pytest.mark.parametrize("fields", [fields for _, fields in SPOILED], ids=[name for name, _ in SPOILED])
def test_one_odd_field_is_read_alike(fields: list[tuple[str, str]]) -> None:
    odd = joined(fields)
    agree([odd])
    agree([joined(list(FIELDS)), odd, joined(list(FIELDS))])


FRAMES = (
    "{click}\x00",
    "{click} ",
    "\n\t{click}\r\n",
    "\x0c{click}",
    "\u00a0{click}",
    "\ufeff{click}",
    "{click}{click}",
    "{click},",
    "[{click}]",
    "{click}//",
    "'{click}'",
)


@pytest.mark.parametrize("frame", FRAMES)
def test_what_stands_around_a_click_is_judged_alike(frame: str) -> None:
    agree([frame.replace("{click}", joined(list(FIELDS)).decode()).encode()])


@pytest.mark.parametrize("raw", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"])
def test_bytes_that_are_no_utf8_in_a_field_nobody_knows_make_it_no_json(raw: bytes) -> None:
    good = joined([*FIELDS, ("trace", '"?"')])
    values: list[bytes | None] = [good, good.replace(b"?", raw), None, good]
    agree(values)
    assert decoded(values).clicks.num_rows == 2


def test_a_torn_character_isnt_completed_by_the_next_message() -> None:
    good = joined([*FIELDS, ("trace", '"?"')])
    agree([good[:-2].replace(b"?", b"\xc3"), b"\xa9" + good])


@pytest.mark.parametrize("depth", [10, 100, 400])
def test_nesting_of_a_sane_depth_is_read_alike(depth: int) -> None:
    agree([joined([*FIELDS, ("trace", "[" * depth + "]" * depth)])])


def test_nesting_beyond_all_measure_is_no_json_and_harms_no_other_row() -> None:
    outcomes = columned([click(), joined([*FIELDS, ("trace", "[" * 100_000 + "]" * 100_000)]), click(2)])
    assert [type(outcomes[ordinal]) for ordinal in range(3)] == [Click, Rejection, Click]


def test_a_click_without_event_type_is_no_click() -> None:
    nameless = joined(list(FIELDS[1:]))
    assert decoded([nameless]).clicks.num_rows == 0
    agree([nameless])


# --- Batches ---------------------------------------------------------------------------------------------


def test_an_empty_batch_has_empty_tables() -> None:
    batch = decoded([])
    assert (batch.clicks, batch.budgets) == (CLICK_SCHEMA.empty_table(), BUDGET_SCHEMA.empty_table())
    assert (batch.advertisers, batch.ads, batch.rejections) == (
        ADVERTISER_SCHEMA.empty_table(),
        AD_SCHEMA.empty_table(),
        [],
    )


def test_a_batch_of_everything_keeps_every_message_and_its_ordinal() -> None:
    values = [ad(), None, click(1), b"?", budget(), click(2, amount="2e0"), advertiser(), click(3), b"{}"]
    assert [type(outcome) for _, outcome in sorted(columned(values).items())] == [
        Ad,
        Rejection,
        Click,
        Rejection,
        Budget,
        Click,
        Advertiser,
        Click,
        Rejection,
    ]
    agree(values)


def test_each_message_is_judged_by_the_time_it_was_enqueued() -> None:
    stamps = [ENQUEUED_MS + 86_400_000 * day for day in (-5, -3, 0, 28, 31, 40)]
    agree([click(time=at(21, 8))] * len(stamps), stamps)
    assert len(decoded([click(time=at(21, 8))] * len(stamps), stamps).rejections) == 4


def test_a_message_that_is_read_again_is_judged_by_the_later_of_two_times() -> None:
    ahead = [click(time=at(21, 8)), click(amount="2e0"), click(updated_at=at(21, 8)), budget(time=at(21, 8))]
    stamps = [ENQUEUED_MS - 86_400_000 * days for days in (3, 3, 3, 3)]
    just_ahead = at(21, 7, 55)
    for replayed_at, left in ((None, 4), (at(21, 7, 54), 4), (just_ahead, 0), (NOW, 0)):
        agree(ahead, stamps, replayed_at)
        assert len(decoded(ahead, stamps, replayed_at).rejections) == left
    agree(ahead, None, at(1))
    assert decoded(ahead, None, at(1)).rejections == []


def test_plain_clicks_take_the_fast_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> Event:
        raise AssertionError("a plain click was read the slow way")

    monkeypatch.setattr("spendgate.columns.decode_event", slow)
    plain: list[bytes | None] = [
        joined(list(FIELDS)),
        joined([*FIELDS, ("is_valid", "false"), ("updated_at", '"2026-11-21T09:00:00Z"'), ("trace", '{"a":[1]}')]),
        joined([*FIELDS[:-1], ("amount", "0.25")]),
        joined([*FIELDS[:-1], ("amount", "3")]),
    ]
    assert decoded(plain).clicks.num_rows == len(plain)


@patient
@given(worlds(NOW), st.data())
def test_any_worlds_batch_is_read_alike(world: World, data: st.DataObject) -> None:
    values: list[bytes | None] = [*world.bodies, None]
    shift = st.integers(-(40 * 86_400_000), 40 * 86_400_000) | st.sampled_from([-300_000, -300_001, 0])
    replayed_at = st.none() | st.sampled_from([NOW + timedelta(days=days) for days in (-40, -1, 0, 40)])
    agree(values, [ENQUEUED_MS + data.draw(shift) for _ in values], data.draw(replayed_at))


spelled = {name: st.sampled_from(values) for name, values in SPELLINGS.items()}
odd_fields = st.sampled_from(sorted(spelled)).flatmap(lambda name: st.tuples(st.just(name), spelled[name]))


@st.composite
def odd_clicks(draw: st.DrawFn) -> bytes:
    """A click with fields spelt oddly, twice or not at all, in any order."""
    fields = [field for field in FIELDS if draw(st.integers(0, 30))] + draw(st.lists(odd_fields, max_size=3))
    raw = joined(draw(st.permutations(fields)))
    if draw(st.integers(0, 5)) == 0:
        place = draw(st.integers(0, len(raw)))
        raw = raw[:place] + draw(st.binary(min_size=1, max_size=2)) + raw[place + draw(st.integers(0, 1)) :]
    return raw


@patient
@given(st.lists(odd_clicks() | st.none(), max_size=8))
def test_any_batch_of_odd_clicks_is_read_alike(values: list[bytes | None]) -> None:
    agree(values)


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
).map(json.dumps)


@patient
@given(st.sampled_from([name for name, _ in FIELDS] + ["updated_at", "is_valid", "trace"]), json_texts)
def test_any_json_in_any_field_of_a_click_is_read_alike(name: str, value: str) -> None:
    agree([joined([field for field in FIELDS if field[0] != name] + [(name, value)])])


@patient
@given(
    st.lists(
        st.tuples(
            st.datetimes(datetime(2026, 10, 20), datetime(2026, 11, 24)),  # noqa: DTZ001
            st.decimals(0, 10**12, places=5, allow_nan=False).map(str) | st.integers(0, 10**12).map(str),
            st.uuids(),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_any_plain_clicks_are_read_alike(rows: list[tuple[datetime, str, UUID, bool]]) -> None:
    agree(
        [
            click(
                click_id=str(identity),
                click_time=instant.isoformat(timespec="milliseconds") + "Z",
                amount=amount,
                is_valid=valid,
            )
            for instant, amount, identity, valid in rows
        ]
    )


def test_time_keys_are_the_hours_of_their_times() -> None:
    batch = decoded([click(1, at(21, 8, 59)), click(2, at(21, 9)), click(3, amount="2e0", time=at(21, 9, 1))])
    keys = pa.compute.unique(batch.clicks["time_key"]).to_pylist()
    assert [key.replace(tzinfo=UTC) for key in keys] == [at(21, 8), at(21, 9)]
    assert at(21, 9) - at(21, 8) == timedelta(hours=1)

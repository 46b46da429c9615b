"""The event contract: one event or one rejection out of any bytes, and the reason that comes first."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spendgate.events import Ad, Advertiser, Budget, Click, Event, Reason, Rejection, decode_event
from tests import model
from tests.factories import LATENESS, NOW, ad, advertiser, at, budget, click
from tests.strategies import BAD_FIELDS, Scene, World, bad_events, malformed, patient, worlds


def decoded(raw: bytes | None, enqueued_at: datetime = NOW) -> Event | Rejection:
    return decode_event(raw, enqueued_at, LATENESS)


def reason_of(raw: bytes | None) -> str | None:
    outcome = decoded(raw)
    return str(outcome.reason) if isinstance(outcome, Rejection) else None


def without(raw: bytes, *names: str) -> bytes:
    return json.dumps({name: value for name, value in json.loads(raw).items() if name not in names}).encode()


def amount_of(spelling: str) -> str:
    """The amount of a click with this text as its amount, or why it was rejected."""
    outcome = decoded(click(amount=spelling))
    return str(outcome.amount) if isinstance(outcome, Click) else str(outcome.reason)  # type: ignore[attr-defined]


# --- Good events -----------------------------------------------------------------------------------------


def test_a_click_is_read_with_its_defaults() -> None:
    assert decoded(click(7, at(21, 8), "2.5", click_id="0000000A-0000-4000-8000-00000000000B")) == Click(
        updated_at=at(21, 8),
        click_id="0000000a-0000-4000-8000-00000000000b",
        advertiser_id=1,
        ad_id=10,
        click_time=at(21, 8),
        amount=Decimal("2.5000"),
        is_valid=True,
    )


def test_a_budget_is_read_with_its_defaults() -> None:
    assert decoded(budget(3, at(21), 7)) == Budget(
        updated_at=at(21),
        event_id="00000000-0000-4000-9000-000000000003",
        advertiser_id=1,
        new_budget_value=Decimal("7.0000"),
        event_time=at(21),
        source="unknown",
    )


def test_an_advertiser_is_read_with_its_defaults() -> None:
    expected = Advertiser(
        updated_at=at(20), advertiser_id=1, name="Norvale", industry=None, country=None, is_active=True
    )
    assert decoded(advertiser()) == expected


def test_an_ad_is_read_with_its_defaults() -> None:
    expected = Ad(
        updated_at=at(20),
        ad_id=10,
        advertiser_id=1,
        ad_title="Boots",
        ad_format=None,
        product_link=None,
        is_active=True,
    )
    assert decoded(ad()) == expected


def test_a_null_is_a_field_that_isnt_there_and_unknown_fields_are_ignored() -> None:
    assert decoded(click(is_valid=None, updated_at=None, trace=[{"amount": "9"}])) == decoded(click())
    assert reason_of(click(ad_id=None)) == "missing_field"


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    raw = click().replace(b'"amount": "2"', b'"amount": "nine", "amount": "3"')
    outcome = decoded(raw)
    assert isinstance(outcome, Click)
    assert outcome.amount == 3


# --- Reasons ---------------------------------------------------------------------------------------------

FUTURE = NOW + timedelta(minutes=5, milliseconds=1)
LATE = NOW - LATENESS - timedelta(milliseconds=1)

REASONS: list[tuple[bytes | None, str]] = [
    (None, "not_json"),
    (b"", "not_json"),
    (b"click", "not_json"),
    (b"[]", "not_json"),
    (b'"click"', "not_json"),
    (b'{"event_type":"click"', "not_json"),
    (b'{"event_type":"click","amount":NaN}', "not_json"),
    (b'{"event_type":"click","amount":Infinity}', "not_json"),
    (b'{"event_type":"cl\xffck"}', "not_json"),
    (b"\xef\xbb\xbf" + click(), "not_json"),
    (click().decode().encode("utf-16"), "not_json"),
    (b'{"a":' * 100_000, "not_json"),
    (b"[" * 1_000_000, "not_json"),
    (click(event_type="view"), "unknown_event_type"),
    (click(event_type=""), "unknown_event_type"),
    (click(event_type="Click"), "unknown_event_type"),
    (without(click(), "event_type"), "missing_field"),
    (click(event_type=None), "missing_field"),
    (without(click(), "amount"), "missing_field"),
    (without(advertiser(), "updated_at"), "missing_field"),
    (without(ad(), "updated_at"), "missing_field"),
    (click(event_type=7), "wrong_type"),
    (click(event_type=["click"]), "wrong_type"),
    (click(ad_id="10"), "wrong_type"),
    (click(ad_id=True), "wrong_type"),
    (click(ad_id=10.0), "wrong_type"),
    (click(click_id="0" * 32), "wrong_type"),
    (click(click_time="2026-11-21T08:00:00"), "wrong_type"),
    (click(is_valid=1), "wrong_type"),
    (click(amount="two"), "wrong_type"),
    (click(amount=True), "wrong_type"),
    (click(amount=[2]), "wrong_type"),
    (advertiser(name=7), "wrong_type"),
    (advertiser(name=7.5), "wrong_type"),
    (advertiser(country=31), "wrong_type"),
    (click(ad_id=0), "out_of_range"),
    (click(ad_id=2**31), "out_of_range"),
    (click(ad_id=-(10**5000 % 10**4000)), "out_of_range"),
    (click(amount="-0.0001"), "out_of_range"),
    (click(amount=10**12), "out_of_range"),
    (advertiser(name=""), "out_of_range"),
    (advertiser(name="n" * 201), "out_of_range"),
    (advertiser(name="a\0b"), "out_of_range"),
    (advertiser(name="\ud800"), "out_of_range"),
    (advertiser(country="nl"), "out_of_range"),
    (advertiser(country=""), "out_of_range"),
    (ad(ad_title=""), "out_of_range"),
    (ad(product_link="ftp://norvale.example"), "out_of_range"),
    (ad(product_link="https://"), "out_of_range"),
    (ad(product_link="https://n.example/a b"), "out_of_range"),
    (ad(product_link="https://n.example/a\u00a0b"), "out_of_range"),
    (ad(product_link="https://n.example/a\x7fb"), "out_of_range"),
    (ad(product_link="https://n.example/" + "x" * 2000), "out_of_range"),
    (budget(source="s" * 101), "out_of_range"),
    (click(time=FUTURE), "in_the_future"),
    (click(updated_at=FUTURE), "in_the_future"),
    (budget(time=FUTURE), "in_the_future"),
    (advertiser(FUTURE), "in_the_future"),
    (ad(FUTURE), "in_the_future"),
    (click(time=LATE), "too_late"),
]


@pytest.mark.parametrize(("raw", "reason"), REASONS)
def test_a_bad_event_gets_its_reason_and_a_sentence(raw: bytes | None, reason: str) -> None:
    outcome = decoded(raw)
    assert isinstance(outcome, Rejection)
    assert outcome.reason == reason
    assert outcome.detail.endswith(".")
    assert len(outcome.detail) <= 500
    assert not set(outcome.detail) & {"\0", "\n", "\ud800"}


def test_every_reason_that_one_message_alone_can_give_is_in_the_table() -> None:
    assert {reason for _, reason in REASONS} == set(Reason) - {Reason.CONFLICTING_DUPLICATE}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"event_type": "view", "amount": None, "ad_id": "x"}, "unknown_event_type"),
        ({"amount": None, "ad_id": "x", "advertiser_id": 0, "click_time": FUTURE}, "missing_field"),
        ({"ad_id": "x", "advertiser_id": 0, "click_time": FUTURE}, "wrong_type"),
        ({"advertiser_id": 0, "click_time": FUTURE}, "out_of_range"),
        ({"advertiser_id": 0, "click_time": LATE}, "out_of_range"),
        ({"updated_at": FUTURE, "click_time": LATE}, "in_the_future"),
        ({"click_time": LATE}, "too_late"),
    ],
)
def test_of_several_reasons_the_first_in_their_order_is_told(change: dict[str, Any], reason: str) -> None:
    assert reason_of(click(**change)) == reason


@pytest.mark.parametrize(
    "raw",
    [
        click(time=NOW + timedelta(minutes=5)),
        click(time=NOW - LATENESS),
        click(time=LATE + timedelta(microseconds=999), click_time="2026-10-23T12:00:00.0009Z"),
        budget(time=NOW - timedelta(days=4000)),
        click(updated_at=NOW - timedelta(days=4000)),
        advertiser(name="n" * 200),
        advertiser(name="\U0001f45f" * 100),
        advertiser(industry=""),
        budget(source=""),
        ad(product_link="HTTPS://Norvale.example"),
        ad(product_link="http://b\u00fccher.example/?q=1#top"),
        click(advertiser_id=2**31 - 1, ad_id=2**31 - 1),
    ],
)
def test_what_lies_on_a_limit_is_good(raw: bytes) -> None:
    assert reason_of(raw) is None


def test_a_text_is_as_long_as_its_utf16_units() -> None:
    assert reason_of(advertiser(name="\U0001f45f" * 101)) == "out_of_range"


# --- Times -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelling", "instant"),
    [
        ("2026-11-21T10:59:59.9999999Z", at(21, 10, 59) + timedelta(seconds=59, milliseconds=999)),
        ("2026-11-21t10:00:00z", at(21, 10)),
        ("2026-11-21T10:00:00.5+02:00", at(21, 8) + timedelta(milliseconds=500)),
        ("2026-11-20T20:30:00-05:30", at(21, 2)),
        ("2026-11-21T10:00:00-00:00", at(21, 10)),
        ("2026-11-21T23:59:00+23:59", at(21, 0)),
        ("2026-11-21T10:00:00." + "1" * 5000 + "Z", at(21, 10) + timedelta(milliseconds=111)),
    ],
)
def test_a_time_is_utc_and_floored_to_the_millisecond(spelling: str, instant: datetime) -> None:
    outcome = decoded(click(click_time=spelling))
    assert isinstance(outcome, Click)
    assert outcome.click_time == outcome.updated_at == instant
    assert outcome.click_time.tzinfo is UTC


@pytest.mark.parametrize(
    "spelling",
    [
        "2026-11-21",
        "2026-11-21 08:00:00Z",
        "2026-11-21T08:00Z",
        "2026-11-21T08:00:00.Z",
        "2026-11-21T08:00:00+0100",
        "2026-11-21T08:00:00+24:00",
        "2026-11-21T08:00:00+01:60",
        "2026-11-21T08:00:60Z",
        "2026-11-21T24:00:00Z",
        "2026-02-30T08:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-11-21T08:00:00Z ",
        "2026-11-21T08:00:00Z\n",
        "\u0662026-11-21T08:00:00Z",
    ],
)
def test_what_is_no_rfc_3339_time_is_of_the_wrong_type(spelling: str) -> None:
    assert reason_of(click(click_time=spelling)) == "wrong_type"


# --- Amounts ---------------------------------------------------------------------------------------------

AMOUNTS = [
    ("0", "0.0000"),
    ("-0", "0.0000"),
    ("-0.000e7", "0.0000"),
    ("007.5", "7.5000"),
    ("0.00005", "0.0000"),
    ("0.00015", "0.0002"),
    ("0.00025", "0.0002"),
    ("0.00025000000000000000000000000000000000000000000000001", "0.0003"),
    ("123456789012.34565", "123456789012.3456"),
    ("999999999999.99994", "999999999999.9999"),
    ("999999999999.99995", "out_of_range"),
    ("0.00001e16", "100000000000.0000"),
    ("1E+2", "100.0000"),
    ("1e12", "out_of_range"),
    ("1e999999999", "out_of_range"),
    ("1e999999999999999999999", "out_of_range"),
    ("-1e999999999999999999999", "out_of_range"),
    ("1e-999999999999999999", "0.0000"),
    ("1e-1999999999999999997", "0.0000"),
    ("1e-999999999999999999999", "0.0000"),
    ("-1e-999999999999999999999", "out_of_range"),
    ("0e999999999999999999", "0.0000"),
    ("0e99999999999999999999", "0.0000"),
    ("-0.0E+99999999999999999999", "0.0000"),
    ("1e" + "9" * 5000, "out_of_range"),
    ("1e-" + "9" * 5000, "0.0000"),
    ("9" * 100_000, "out_of_range"),
    ("0." + "3" * 100_000, "0.3333"),
    ("0" * 100_000 + "1", "1.0000"),
    ("9" * 100_000 + "e-99999", "10.0000"),
    ("NaN", "out_of_range"),
    ("-nan", "out_of_range"),
    ("Infinity", "out_of_range"),
    ("-INFINITY", "out_of_range"),
    ("+NaN", "wrong_type"),
    ("inf", "wrong_type"),
    ("-inf", "wrong_type"),
    ("sNaN", "wrong_type"),
    ("", "wrong_type"),
    (" 1", "wrong_type"),
    ("1\n", "wrong_type"),
    ("+1", "wrong_type"),
    ("1_000", "wrong_type"),
    ("1,5", "wrong_type"),
    (".5", "wrong_type"),
    ("5.", "wrong_type"),
    ("1e", "wrong_type"),
    ("0x10", "wrong_type"),
    ("\u0663", "wrong_type"),
    ("--1", "wrong_type"),
]


@pytest.mark.parametrize(("spelling", "amount"), AMOUNTS)
def test_an_amount_is_rounded_half_even_to_four_places(spelling: str, amount: str) -> None:
    started = time.perf_counter()
    assert amount_of(spelling) == amount
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("number", "amount"),
    [
        (b"123456789012.34565000000000000001", "123456789012.3457"),
        (b"0.1", "0.1000"),
        (b"1e2", "100.0000"),
        (b"-0", "0.0000"),
        (b"-0.0", "0.0000"),
        (b"999999999999", "999999999999.0000"),
        (b"1e-999999999999999999999", "0.0000"),
    ],
)
def test_an_amount_may_be_a_json_number_and_never_is_a_float(number: bytes, amount: str) -> None:
    outcome = decoded(click(amount="?").replace(b'"?"', number))
    assert isinstance(outcome, Click)
    assert str(outcome.amount) == amount


# --- Any bytes -------------------------------------------------------------------------------------------


def agree(raw: bytes | None, enqueued_at: datetime = NOW) -> None:
    """One event or one rejection, and the one that the model reads."""
    outcome = decoded(raw, enqueued_at)
    truth: dict[str, Any]
    try:
        truth = model.read_event(raw, enqueued_at)._asdict()
        truth.pop("is_inferred", None)
    except model.RejectedError as rejected:
        truth = {"reason": rejected.reason}
    if isinstance(outcome, Rejection):
        assert truth == {"reason": outcome.reason}
    else:
        assert truth == {name: getattr(outcome, name) for name in outcome.__struct_fields__}


@patient
@given(st.binary(max_size=400) | st.none())
def test_nothing_but_an_event_or_a_rejection_comes_out_of_any_bytes(raw: bytes | None) -> None:
    assert isinstance(decoded(raw), Event | Rejection)
    agree(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@patient
@given(st.sampled_from(sorted(BAD_FIELDS)), st.data())
def test_any_json_in_any_field_is_read_as_the_model_reads_it(event_type: str, data: st.DataObject) -> None:
    fields = {name: st.one_of(json_values, st.sampled_from(bad)) for name, bad in BAD_FIELDS[event_type].items()}
    good = json.loads({"click": click, "budget": budget, "advertiser": advertiser, "ad": ad}[event_type]())
    agree(json.dumps(good | data.draw(st.fixed_dictionaries({}, optional=fields))).encode())


@patient
@given(st.data())
def test_a_good_event_with_bytes_changed_is_read_as_the_model_reads_it(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from((click(), budget(), advertiser(), ad()))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        change = data.draw(st.sampled_from(("replace", "insert", "delete")))
        piece = data.draw(st.binary(min_size=1, max_size=2) | st.sampled_from([b'"', b",", b"-", b"0", b"e", b"\\"]))
        raw[place : place + (change != "insert")] = b"" if change == "delete" else piece
        if not raw:
            break
    agree(bytes(raw))


SCENE = Scene(NOW, (at(21), at(22)), (1, 2))


@patient
@given(malformed(SCENE) | bad_events(SCENE))
def test_an_event_with_something_wrong_is_read_as_the_model_reads_it(raw: bytes) -> None:
    agree(raw)


@patient
@given(worlds(NOW))
def test_every_event_of_any_world_is_read_as_the_model_reads_it(world: World) -> None:
    for raw in world.bodies:
        agree(raw)


@patient
@example("1e999999999999999999")
@example("1e-1000000000000000000")
@given(st.from_regex(r"-?[0-9]{1,25}(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,22})?", fullmatch=True))
def test_any_decimal_is_read_as_the_model_reads_it(spelling: str) -> None:
    agree(click(amount=spelling))
    agree(budget(value=spelling))


@patient
@given(
    st.datetimes(),
    st.sampled_from(["", ".1", ".1239", ".9999999"]),
    st.sampled_from(["Z", "z", "+00:00", "-23:59", "+14:00", "", "+1:00"]),
)
def test_any_time_is_read_as_the_model_reads_it(instant: datetime, fraction: str, offset: str) -> None:
    agree(click(updated_at=f"{instant.isoformat(timespec='seconds')}{fraction}{offset}"))

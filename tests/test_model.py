"""The model itself, held to examples whose money was added up by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model import Click, Model, RejectedError, read_amount, read_event, read_time
from tests.strategies import World, worlds

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
EVENING = datetime(2026, 11, 21, 23, 59, 59, tzinfo=UTC)


def body(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()


def click(number: int, time: str, amount: str, **more: Any) -> bytes:
    return body(
        {
            "event_type": "click",
            "click_id": f"00000000-0000-4000-8000-{number:012}",
            "advertiser_id": 1,
            "ad_id": 10,
            "click_time": time,
            "amount": amount,
        }
        | more
    )


def budget(number: int, time: str, value: str, **more: Any) -> bytes:
    return body(
        {
            "event_type": "budget",
            "event_id": f"00000000-0000-4000-9000-{number:012}",
            "advertiser_id": 1,
            "new_budget_value": value,
            "event_time": time,
        }
        | more
    )


def advertiser(time: str, **more: Any) -> bytes:
    return body({"event_type": "advertiser", "advertiser_id": 1, "name": "Norvale", "updated_at": time} | more)


def ad(time: str, **more: Any) -> bytes:
    event = {"event_type": "ad", "ad_id": 10, "advertiser_id": 1, "ad_title": "Boots", "updated_at": time}
    return body(event | more)


def fed(*bodies: bytes | None, model: Model | None = None) -> Model:
    model = model or Model()
    model.feed((raw, NOW) for raw in bodies)
    return model


def hours(model: Model, day: int = 21, advertiser_id: int = 1) -> list[tuple[int, str, str, str | None, bool]]:
    """(hour, gross, net, budget, can_serve) of one advertiser's hour windows."""
    return [
        (
            start.hour,
            _plain(row.gross_spend),
            _plain(row.net_spend),
            _maybe(row.budget_at_time),
            row.can_serve,
        )
        for (owner, grain, start), row in sorted(model.summaries().items())
        if grain == "hour" and start.day == day and owner == advertiser_id
    ]


def day_row(model: Model, day: int = 21, advertiser_id: int = 1) -> tuple[int, str, str, str, str | None, bool]:
    """(clicks, gross, invalid, net, budget, can_serve) of one advertiser's day window."""
    row = model.summaries()[advertiser_id, "day", datetime(2026, 11, day, tzinfo=UTC)]
    money = _plain(row.gross_spend), _plain(row.invalid_spend), _plain(row.net_spend)
    return row.click_count, *money, _maybe(row.budget_at_time), row.can_serve


def _plain(amount: Decimal) -> str:
    return f"{amount:.2f}"


def _maybe(amount: Decimal | None) -> str | None:
    return None if amount is None else _plain(amount)


def reason_of(raw: bytes | None) -> str | None:
    try:
        read_event(raw, NOW)
    except RejectedError as rejected:
        return rejected.reason
    return None


# --- What may be billed --------------------------------------------------------------------------------


def test_spend_below_the_budget_is_billed_in_full() -> None:
    model = fed(
        budget(1, "2026-11-21T00:00:00Z", "10"),
        click(1, "2026-11-21T08:10:00Z", "1.25"),
        click(2, "2026-11-21T08:50:00Z", "0.75"),
        click(3, "2026-11-21T09:00:00Z", "3"),
    )
    assert hours(model) == [
        (0, "0.00", "0.00", "10.00", True),
        (8, "2.00", "2.00", "10.00", True),
        (9, "3.00", "3.00", "10.00", True),
    ]
    assert day_row(model) == (3, "5.00", "0.00", "5.00", "10.00", True)


def test_spend_above_the_budget_is_delivered_and_not_billed() -> None:
    model = fed(
        budget(1, "2026-11-21T00:00:00Z", "10"),
        click(1, "2026-11-21T08:00:00Z", "7"),
        click(2, "2026-11-21T09:00:00Z", "7"),
        click(3, "2026-11-21T10:00:00Z", "7"),
    )
    assert hours(model) == [
        (0, "0.00", "0.00", "10.00", True),
        (8, "7.00", "7.00", "10.00", True),
        (9, "7.00", "3.00", "10.00", False),
        (10, "7.00", "0.00", "10.00", False),
    ]
    assert day_row(model) == (3, "21.00", "0.00", "10.00", "10.00", False)


def test_a_raised_budget_makes_earlier_over_delivery_billable() -> None:
    model = fed(
        budget(1, "2026-11-21T00:00:00Z", "10"),
        click(1, "2026-11-21T08:00:00Z", "14"),
        budget(2, "2026-11-21T12:30:00Z", "20"),
        click(2, "2026-11-21T13:00:00Z", "4"),
    )
    assert hours(model) == [
        (0, "0.00", "0.00", "10.00", True),
        (8, "14.00", "10.00", "10.00", False),
        (12, "0.00", "4.00", "20.00", True),  # the 4 that 08:00 delivered over its budget
        (13, "4.00", "4.00", "20.00", True),
    ]
    assert day_row(model) == (2, "18.00", "0.00", "18.00", "20.00", True)


def test_a_lowered_budget_unbills_nothing() -> None:
    model = fed(
        budget(1, "2026-11-21T00:00:00Z", "10"),
        click(1, "2026-11-21T08:00:00Z", "8"),
        budget(2, "2026-11-21T09:00:00Z", "5"),
        click(2, "2026-11-21T10:00:00Z", "1"),
        budget(3, "2026-11-21T11:00:00Z", "8.50"),
    )
    assert hours(model) == [
        (0, "0.00", "0.00", "10.00", True),
        (8, "8.00", "8.00", "10.00", True),
        (9, "0.00", "0.00", "5.00", False),
        (10, "1.00", "0.00", "5.00", False),
        (11, "0.00", "0.50", "8.50", False),  # 9 were delivered, 8.50 may be billed, 8 are
    ]
    assert day_row(model) == (2, "9.00", "0.00", "8.50", "8.50", False)


def test_without_a_budget_nothing_is_billed_or_served() -> None:
    model = fed(click(1, "2026-11-21T08:00:00Z", "2"), click(2, "2026-11-21T09:00:00Z", "3"))
    assert hours(model) == [(8, "2.00", "0.00", None, False), (9, "3.00", "0.00", None, False)]
    assert day_row(model) == (2, "5.00", "0.00", "0.00", None, False)


def test_a_budget_that_comes_after_the_clicks_makes_them_billable() -> None:
    model = fed(click(1, "2026-11-21T08:00:00Z", "2"), budget(1, "2026-11-21T09:00:00Z", "5"))
    assert hours(model) == [(8, "2.00", "0.00", None, False), (9, "0.00", "2.00", "5.00", True)]


def test_spend_equal_to_the_budget_closes_the_gate() -> None:
    model = fed(budget(1, "2026-11-21T00:00:00Z", "2.50"), click(1, "2026-11-21T00:30:00Z", "2.50"))
    assert hours(model) == [(0, "2.50", "2.50", "2.50", False)]


def test_invalid_clicks_count_as_clicks_and_cost_nothing() -> None:
    model = fed(
        budget(1, "2026-11-21T08:00:00Z", "5"),
        click(1, "2026-11-21T08:00:00Z", "2"),
        click(2, "2026-11-21T08:00:00Z", "4", is_valid=False),
    )
    assert day_row(model) == (2, "2.00", "4.00", "2.00", "5.00", True)


def test_every_day_starts_again_at_zero_under_the_same_budget() -> None:
    model = fed(
        budget(1, "2026-11-20T18:00:00Z", "5"),
        click(1, "2026-11-21T23:59:59.999Z", "6"),
        click(2, "2026-11-22T00:00:00Z", "4"),
    )
    assert hours(model, 20) == [(18, "0.00", "0.00", "5.00", True)]
    assert hours(model, 21) == [(23, "6.00", "5.00", "5.00", False)]
    assert hours(model, 22) == [(0, "4.00", "4.00", "5.00", True)]


def test_a_day_is_a_utc_day_whatever_the_offset_says() -> None:
    model = fed(click(1, "2026-11-22T00:30:00+01:00", "6"), click(2, "2026-11-20T23:30:00-00:30", "4"))
    assert hours(model, 21) == [(0, "4.00", "0.00", None, False), (23, "6.00", "0.00", None, False)]


def test_a_time_is_floored_to_the_millisecond_before_it_chooses_its_window() -> None:
    model = fed(click(1, "2026-11-21T23:59:59.9999999Z", "6"))
    assert hours(model, 21) == [(23, "6.00", "0.00", None, False)]
    assert model.clicks.popitem()[1].click_time.microsecond == 999_000


def test_a_late_budget_event_restates_every_day_until_the_next_one() -> None:
    model = fed(
        click(1, "2026-11-19T10:00:00Z", "3"),
        click(2, "2026-11-20T10:00:00Z", "3"),
        click(3, "2026-11-21T10:00:00Z", "3"),
        budget(2, "2026-11-21T09:00:00Z", "1"),
    )
    assert [day_row(model, day)[3] for day in (19, 20, 21)] == ["0.00", "0.00", "1.00"]
    fed(budget(1, "2026-11-19T09:00:00Z", "2"), model=model)
    assert [day_row(model, day)[3] for day in (19, 20, 21)] == ["2.00", "2.00", "1.00"]
    assert day_row(model, 20) == (1, "3.00", "0.00", "2.00", "2.00", False)


def test_of_budgets_of_one_time_the_last_updated_wins_and_then_the_greatest_id() -> None:
    time = "2026-11-21T08:00:00Z"
    tied = [budget(1, time, "1"), budget(3, time, "3"), budget(2, time, "2")]
    assert day_row(fed(*tied))[4] == "3.00"
    newer = budget(0, time, "9", updated_at="2026-11-21T08:00:00.001Z")
    assert day_row(fed(*tied, newer))[4] == "9.00"
    assert day_row(fed(newer, *tied))[4] == "9.00"


# --- Versions ------------------------------------------------------------------------------------------


def test_a_moved_click_leaves_its_old_day_and_its_old_advertiser() -> None:
    model = fed(
        click(1, "2026-11-21T08:00:00Z", "2"),
        click(2, "2026-11-21T09:00:00Z", "1"),
        click(1, "2026-11-22T08:00:00Z", "2", advertiser_id=7, ad_id=70),
    )
    assert day_row(model, 21) == (1, "1.00", "0.00", "0.00", None, False)
    assert day_row(model, 22, advertiser_id=7) == (1, "2.00", "0.00", "0.00", None, False)
    assert (1, "day", datetime(2026, 11, 22, tzinfo=UTC)) not in model.summaries()
    assert sorted(model.advertisers) == [1, 7]


def test_a_fraud_verdict_moves_money_from_gross_to_invalid() -> None:
    verdict = click(1, "2026-11-21T08:00:00Z", "2", is_valid=False, updated_at="2026-11-21T11:00:00Z")
    for bodies in (
        (click(1, "2026-11-21T08:00:00Z", "2"), verdict),
        (verdict, click(1, "2026-11-21T08:00:00Z", "2")),
    ):
        assert day_row(fed(*bodies)) == (1, "0.00", "2.00", "0.00", None, False)


def test_an_equal_version_with_equal_content_is_a_duplicate_however_it_is_spelt() -> None:
    model = fed(
        click(1, "2026-11-21T08:00:00Z", "2"),
        click(1, "2026-11-21T09:00:00.0004+01:00", "2.00004", is_valid=True, note="again"),
        click(1, "2026-11-21t08:00:00z", "20e-1", updated_at="2026-11-21T08:00:00Z"),
    )
    assert model.rejections == []
    assert day_row(model)[:2] == (1, "2.00")


def test_an_equal_version_with_other_content_is_rejected_and_what_was_first_stays() -> None:
    model = fed(
        click(1, "2026-11-21T08:00:00Z", "2"),
        click(1, "2026-11-21T08:00:00Z", "3", advertiser_id=7, ad_id=70),
    )
    assert model.rejection_counts() == {"conflicting_duplicate": 1}
    assert model.rejections[0].number == 1
    assert day_row(model)[:2] == (1, "2.00")
    assert sorted(model.advertisers) == [1]
    assert sorted(model.ads) == [10]


def test_a_conflict_with_a_version_that_was_superseded_is_only_old_news() -> None:
    model = fed(
        click(1, "2026-11-21T08:00:00Z", "2"),
        click(1, "2026-11-21T08:00:00Z", "4", updated_at="2026-11-21T09:00:00Z"),
        click(1, "2026-11-21T08:00:00Z", "3"),
    )
    assert model.rejections == []
    assert day_row(model)[:2] == (1, "4.00")


def test_an_inferred_member_is_filled_in_by_a_real_row_of_any_age() -> None:
    model = fed(click(1, "2026-11-21T08:00:00Z", "2"))
    assert (model.advertisers[1].is_inferred, model.advertisers[1].is_active) == (True, False)
    assert (model.ads[10].is_inferred, model.ads[10].advertiser_id) == (True, 1)
    fed(advertiser("2020-01-01T00:00:00Z"), ad("2020-01-01T00:00:00Z", advertiser_id=2), model=model)
    assert (model.advertisers[1].is_inferred, model.advertisers[1].name) == (False, "Norvale")
    assert (model.ads[10].is_inferred, model.ads[10].advertiser_id) == (False, 2)
    assert model.advertisers[2].is_inferred


# --- Flags ---------------------------------------------------------------------------------------------


def test_a_flag_gives_the_first_reason_that_holds() -> None:
    model = fed(click(1, "2026-11-21T08:00:00Z", "2"))
    assert model.flags_at(EVENING)[1].reason == "inactive"
    fed(advertiser("2026-11-21T00:00:00Z"), model=model)
    assert model.flags_at(EVENING)[1].reason == "no_budget"
    fed(budget(1, "2026-11-21T08:00:00Z", "2"), model=model)
    assert model.flags_at(EVENING)[1].reason == "exhausted"
    fed(budget(2, "2026-11-21T09:00:00Z", "2.01"), model=model)
    flag = model.flags_at(EVENING)[1]
    assert (flag.reason, flag.can_serve, flag.remaining) == ("ok", True, Decimal("0.01"))
    fed(advertiser("2026-11-21T01:00:00Z", is_active=False), model=model)
    assert model.flags_at(EVENING)[1].reason == "inactive"


def test_a_flag_takes_the_budget_of_its_instant_and_the_spend_of_its_whole_day() -> None:
    model = fed(
        advertiser("2026-11-20T00:00:00Z"),
        budget(1, "2026-11-21T08:00:00Z", "5"),
        budget(2, "2026-11-21T12:00:00Z", "9"),
        click(1, "2026-11-21T20:00:00Z", "6"),
    )
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    before = model.flags_at(noon - timedelta(milliseconds=1))[1]
    assert (before.reason, before.budget, before.spent_today, before.remaining) == ("exhausted", 5, 6, 0)
    assert (model.flags_at(noon)[1].reason, model.flags_at(noon)[1].budget) == ("ok", 9)


def test_a_new_day_opens_the_gate_without_a_click_and_versions_count_the_changes() -> None:
    model = fed(
        advertiser("2026-11-20T00:00:00Z"),
        budget(1, "2026-11-21T08:00:00Z", "5"),
        click(1, "2026-11-21T20:00:00Z", "6"),
    )
    assert model.decide(EVENING)[1].version == 1
    assert model.decide(EVENING) == {}
    reopened = model.decide(EVENING + timedelta(seconds=1))[1]
    assert (reopened.flag.reason, reopened.flag.spent_today, reopened.version) == ("ok", 0, 2)
    assert [(message.version, message.flag.reason) for message in model.published] == [
        (1, "exhausted"),
        (2, "ok"),
    ]


# --- Rejections ----------------------------------------------------------------------------------------

GOOD_CLICK = json.loads(click(1, "2026-11-21T08:00:00Z", "2"))
DEEP = b'{"a":' * 200_000


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "not_json"),
        (b"", "not_json"),
        (b"null", "not_json"),
        (b"[]", "not_json"),
        (b'{"event_type":"click"', "not_json"),
        (b'{"event_type":"click","a":NaN}', "not_json"),
        (b"\xef\xbb\xbf{}", "not_json"),
        (b'{"a":"\xff"}', "not_json"),
        ('{"event_type":"click"}'.encode("utf-16"), "not_json"),
        (DEEP, "not_json"),
        (b"{}", "missing_field"),
        (b'{"event_type":null}', "missing_field"),
        (b'{"event_type":7}', "wrong_type"),
        (b'{"event_type":"Click"}', "unknown_event_type"),
        (b'{"event_type":"ad","event_type":"view"}', "unknown_event_type"),
        (b'{"event_type":"click"}', "missing_field"),
    ],
)
def test_a_body_that_is_no_event_gets_its_reason(raw: bytes | None, reason: str) -> None:
    assert reason_of(raw) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"is_valid": None, "updated_at": None, "extra": [1]}, None),
        ({"click_id": "00000000-0000-4000-8000-00000000000A"}, None),
        ({"amount": None}, "missing_field"),
        ({"amount": None, "ad_id": "x", "click_time": "2031-01-01T00:00:00Z"}, "missing_field"),
        ({"ad_id": "1", "advertiser_id": 0}, "wrong_type"),
        ({"ad_id": True}, "wrong_type"),
        ({"ad_id": 1.0}, "wrong_type"),
        ({"ad_id": 0}, "out_of_range"),
        ({"ad_id": 2**31}, "out_of_range"),
        ({"ad_id": int("9" * 4000)}, "out_of_range"),
        ({"click_id": "{00000000-0000-4000-8000-000000000001}"}, "wrong_type"),
        ({"click_id": "00000000000040008000000000000001"}, "wrong_type"),
        ({"click_id": 5}, "wrong_type"),
        ({"is_valid": 1}, "wrong_type"),
        ({"is_valid": "true"}, "wrong_type"),
        ({"click_time": "2026-11-21T08:00:00"}, "wrong_type"),
        ({"click_time": 1_795_000_000}, "wrong_type"),
        ({"click_time": "2026-11-23T12:05:00.0009Z"}, None),
        ({"click_time": "2026-11-23T12:05:00.001Z"}, "in_the_future"),
        ({"updated_at": "2026-11-23T12:05:00.001Z"}, "in_the_future"),
        ({"click_time": "2026-10-23T12:00:00Z"}, None),
        ({"click_time": "2026-10-23T11:59:59.999Z"}, "too_late"),
        ({"click_time": "2026-10-23T11:59:59Z", "updated_at": "2026-12-23T11:59:59Z"}, "in_the_future"),
        ({"click_time": "2026-10-23T11:59:59Z", "amount": "-1"}, "out_of_range"),
    ],
)
def test_a_bad_field_gets_the_reason_that_comes_first(change: dict[str, Any], reason: str | None) -> None:
    assert reason_of(body(GOOD_CLICK | change)) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": ""}, "out_of_range"),
        ({"name": "n" * 200}, None),
        ({"name": "n" * 201}, "out_of_range"),
        ({"name": "\U0001f45f" * 100}, None),
        ({"name": "\U0001f45f" * 101}, "out_of_range"),
        ({"name": "a\0b"}, "out_of_range"),
        ({"name": "\ud800"}, "out_of_range"),
        ({"name": 7}, "wrong_type"),
        ({"industry": ""}, None),
        ({"industry": "i" * 101}, "out_of_range"),
        ({"country": "nl"}, "out_of_range"),
        ({"country": "NLD"}, "out_of_range"),
        ({"country": "NL"}, None),
        ({"is_active": 0}, "wrong_type"),
        ({"updated_at": None}, "missing_field"),
    ],
)
def test_an_advertiser_is_held_to_its_columns(change: dict[str, Any], reason: str | None) -> None:
    event = {
        "event_type": "advertiser",
        "advertiser_id": 1,
        "name": "N",
        "updated_at": "2026-11-21T08:00:00Z",
    }
    assert reason_of(body(event | change)) == reason


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("https://norvale.example/boots?x=1#top", None),
        ("HTTP://norvale.example", None),
        ("ftp://norvale.example", "out_of_range"),
        ("norvale.example", "out_of_range"),
        ("https://", "out_of_range"),
        ("https:///boots", "out_of_range"),
        ("https://norvale.example/a b", "out_of_range"),
        ("", "out_of_range"),
        ("https://n.example/" + "x" * 2000, "out_of_range"),
        (["https://n.example/"], "wrong_type"),
    ],
)
def test_a_product_link_is_an_http_url(link: Any, reason: str | None) -> None:
    assert reason_of(ad("2026-11-21T08:00:00Z", product_link=link)) == reason


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", "0.0000"),
        ("-0", "0.0000"),
        ("-0.000e7", "0.0000"),
        ("007.5", "7.5000"),
        ("0.00005", "0.0000"),
        ("0.00015", "0.0002"),
        ("0.000050000000000000000000000000000000000000001", "0.0001"),
        ("999999999999.99994", "999999999999.9999"),
        ("999999999999.99995", "out_of_range"),
        ("1e12", "out_of_range"),
        ("0.00001e16", "100000000000.0000"),
        ("1E+2", "100.0000"),
        ("1e999999999", "out_of_range"),
        ("1e99999999999999999999999999", "out_of_range"),
        ("1e-99999999999999999999999999", "0.0000"),
        ("0e99999999999999999999999999", "0.0000"),
        ("9" * 5000, "out_of_range"),
        ("0." + "3" * 5000, "0.3333"),
        ("-1", "out_of_range"),
        ("-0.00001", "out_of_range"),
        ("NaN", "out_of_range"),
        ("-infinity", "out_of_range"),
        ("sNaN", "wrong_type"),
        ("inf", "wrong_type"),
        ("", "wrong_type"),
        (" 1", "wrong_type"),
        ("+1", "wrong_type"),
        ("1_000", "wrong_type"),
        ("1,5", "wrong_type"),
        (".5", "wrong_type"),
        ("5.", "wrong_type"),
        ("٣", "wrong_type"),
    ],
)
def test_an_amount_is_a_plain_decimal_rounded_half_even(text: str, amount: str) -> None:
    try:
        read = str(read_amount(text))
    except RejectedError as rejected:
        read = rejected.reason
    assert read == amount


def test_an_amount_may_be_a_json_number_and_never_passes_through_a_float() -> None:
    raw = click(1, "2026-11-21T08:00:00Z", "?").replace(b'"?"', b"123456789012.34565000000000000001")
    event = read_event(raw, NOW)
    assert isinstance(event, Click)
    assert event.amount == Decimal("123456789012.3457")


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21",
        "2026-11-21T08:00Z",
        "2026-11-21 08:00:00Z",
        "2026-11-21T08:00:00",
        "2026-11-21T08:00:00.Z",
        "2026-11-21T08:00:00,5Z",
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
        "20261121T080000Z",
    ],
)
def test_what_is_not_an_rfc_3339_time_is_of_the_wrong_type(text: str) -> None:
    with pytest.raises(RejectedError, match="wrong_type"):
        read_time(text)


def test_a_time_may_have_any_number_of_digits_and_any_offset() -> None:
    assert read_time("2026-11-21t08:00:00.1239999999999z") == datetime(2026, 11, 21, 8, 0, 0, 123000, tzinfo=UTC)
    assert read_time("2026-11-21T08:00:00.5-23:59") == datetime(2026, 11, 22, 7, 59, 0, 500000, tzinfo=UTC)


# --- What holds for any world --------------------------------------------------------------------------


def rows(model: Model) -> tuple[Any, ...]:
    return (
        model.clicks,
        model.budgets,
        model.advertisers,
        model.ads,
        model.summaries(),
        model.flags_at(EVENING),
    )


@settings(deadline=None)
@given(worlds(NOW, conflicts=False), st.randoms(use_true_random=False))
def test_without_conflicts_any_order_gives_the_same_rows(world: World, random: Any) -> None:
    shuffled = list(world.bodies)
    random.shuffle(shuffled)
    assert rows(fed(*shuffled)) == rows(fed(*world.bodies))
    assert fed(*shuffled).rejection_counts() == fed(*world.bodies).rejection_counts()


@settings(deadline=None)
@given(worlds(NOW))
def test_events_fed_twice_or_cut_into_runs_give_the_same_rows(world: World) -> None:
    once = fed(*world.bodies)
    in_runs = Model()
    for run in world.runs:
        fed(*run.bodies, model=in_runs)
        in_runs.decide(run.as_of)
    assert rows(in_runs) == rows(once)
    assert in_runs.rejections == once.rejections
    assert rows(fed(*world.bodies, *world.bodies)) == rows(once)


@settings(deadline=None)
@given(worlds(NOW))
def test_money_adds_up_in_any_world(world: World) -> None:
    model = fed(*world.bodies)
    summaries = model.summaries()
    for (advertiser_id, grain, start), row in summaries.items():
        assert Decimal(0) <= row.net_spend
        if grain == "day":
            assert row.net_spend <= row.gross_spend
            in_day = [
                hour
                for (owner, unit, at), hour in summaries.items()
                if unit == "hour" and owner == advertiser_id and start <= at < row.window_end
            ]
            assert row.click_count == sum(hour.click_count for hour in in_day)
            highest = max((hour.budget_at_time or Decimal(0) for hour in in_day), default=Decimal(0))
            assert row.net_spend <= highest
    assert sum(row.click_count for (_, grain, _), row in summaries.items() if grain == "day") == len(model.clicks)

"""Time is aware, UTC and in whole milliseconds; windows begin where they should."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from spendgate.clock import day_start, floor_hour, floor_millisecond, format_instant, parse_instant, utc_now
from spendgate.errors import ConfigurationError


def test_a_fraction_of_a_millisecond_is_cut_off_never_rounded_into_the_next_hour() -> None:
    just_before = datetime(2026, 11, 21, 10, 59, 59, 999_999, tzinfo=UTC)
    assert floor_millisecond(just_before) == datetime(2026, 11, 21, 10, 59, 59, 999_000, tzinfo=UTC)


def test_an_hour_is_an_hour_of_utc_whatever_the_offset() -> None:
    in_kathmandu = datetime(2026, 11, 21, 0, 30, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    assert floor_hour(in_kathmandu) == datetime(2026, 11, 20, 18, tzinfo=UTC)
    assert floor_hour(in_kathmandu).tzinfo is UTC


def test_a_day_begins_at_midnight_utc() -> None:
    assert day_start(date(2026, 11, 21)) == datetime(2026, 11, 21, tzinfo=UTC)


def test_now_is_utc_in_whole_milliseconds() -> None:
    now = utc_now()
    assert now.utcoffset() == timedelta(0)
    assert now.microsecond % 1000 == 0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-21T18:00:00Z", "2026-11-21T18:00:00.000Z"),
        ("2026-11-21T18:00:00.1239+02:00", "2026-11-21T16:00:00.123Z"),
        ("2026-11-21 18:00:00-05:30", "2026-11-21T23:30:00.000Z"),
    ],
)
def test_a_time_with_an_offset_is_read_and_written_in_utc(text: str, meant: str) -> None:
    assert format_instant(parse_instant(text)) == meant
    assert parse_instant(meant) == parse_instant(text)


@pytest.mark.parametrize("text", ["tomorrow", "", "18:00", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a time; write it like 2026-11-21T18:00:00Z"):
        parse_instant(text)


def test_a_time_without_an_offset_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigurationError, match="has no offset; write it like 2026-11-21T18:00:00Z"):
        parse_instant("2026-11-21T18:00:00")


def test_the_advice_for_a_date_alone_is_a_time_that_can_be_read() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_instant("2026-11-21")
    parse_instant(str(caught.value).partition("write it like ")[2].split()[0].rstrip("."))


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_has_no_year_for_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_instant(text)

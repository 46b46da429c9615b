"""The event contract: bytes in, one typed event or one rejection out (docs/data-contract.md).

`decode_event` is the whole meaning of the contract, row by row. `spendgate.columns` reads clicks in the
spelling that producers nearly always use by column, and sends every other row here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

MAX_ID = 2**31 - 1
# DECIMAL(19,4) would hold more; an amount of a million millions is a producer's bug, not a price.
MAX_AMOUNT = Decimal(10) ** 12
CENT_OF_CENT = Decimal("0.0001")
FUTURE_TOLERANCE = timedelta(minutes=5)

_EXACT = Context(prec=40, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_AMOUNT = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NOT_A_NUMBER = re.compile(r"-?(?:nan|infinity)", re.IGNORECASE)
_COUNTRY = re.compile(r"[A-Z]{2}")
_LINK = re.compile(r"(?i:https?)://[^\s\x00-\x20\x7f/?#]+[^\s\x00-\x20\x7f]*")
# Longer integers than any id or amount are all the same to us, and int() of thousands of digits is slow.
_LONGEST_INTEGER = 30


class Reason(StrEnum):
    """Why an event was rejected, in the order in which reasons are looked for."""

    NOT_JSON = "not_json"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    IN_THE_FUTURE = "in_the_future"
    TOO_LATE = "too_late"
    CONFLICTING_DUPLICATE = "conflicting_duplicate"


_PRECEDENCE = {reason: rank for rank, reason in enumerate(Reason)}


class Event(msgspec.Struct, frozen=True):
    """One version of one entity; times are aware UTC in whole milliseconds."""

    updated_at: datetime


class Click(Event, frozen=True):
    """A click; `amount` has 4 decimal places, `click_id` is lower-case."""

    click_id: str
    advertiser_id: int
    ad_id: int
    click_time: datetime
    amount: Decimal
    is_valid: bool


class Budget(Event, frozen=True):
    """A daily budget that holds from `event_time` on."""

    event_id: str
    advertiser_id: int
    new_budget_value: Decimal
    event_time: datetime
    source: str


class Advertiser(Event, frozen=True):
    """An advertiser as the reference system knows it."""

    advertiser_id: int
    name: str
    industry: str | None
    country: str | None
    is_active: bool


class Ad(Event, frozen=True):
    """An ad of an advertiser."""

    ad_id: int
    advertiser_id: int
    ad_title: str
    ad_format: str | None
    product_link: str | None
    is_active: bool


class Rejection(msgspec.Struct, frozen=True):
    """Why a message is no event: a reason code and a sentence for a person."""

    reason: Reason
    detail: str


class _RefusedError(Exception):
    """Carries a rejection from a field's check to `decode_event`; never leaves this module."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.rejection = Rejection(reason, detail)


class _Number(str):
    """The text of a JSON number with a fraction or an exponent, so that money never is a float."""

    __slots__ = ()


def _integer(text: str) -> int:
    if len(text) <= _LONGEST_INTEGER:
        return int(text)
    beyond: int = 10**_LONGEST_INTEGER
    return -beyond if text.startswith("-") else beyond


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_Number, parse_int=_integer, parse_constant=_constant)


def _identifier(value: object) -> int:
    if type(value) is not int:
        raise _RefusedError(Reason.WRONG_TYPE, "is not an integer")
    if not 1 <= value <= MAX_ID:
        raise _RefusedError(Reason.OUT_OF_RANGE, f"is not between 1 and {MAX_ID}")
    return value


def _uuid(value: object) -> str:
    if type(value) is not str or not _UUID.fullmatch(value):
        raise _RefusedError(Reason.WRONG_TYPE, "is not a UUID like 01234567-89ab-cdef-0123-456789abcdef")
    return value.lower()


def _boolean(value: object) -> bool:
    if type(value) is not bool:
        raise _RefusedError(Reason.WRONG_TYPE, "is not true or false")
    return value


def _time(value: object) -> datetime:
    match = _TIME.fullmatch(value) if type(value) is str else None
    if match is None:
        raise _RefusedError(Reason.WRONG_TYPE, "is not an RFC 3339 time with an offset")
    year, month, day, hour, minute, second, fraction, sign, off_hour, off_minute = match.groups()
    # Floored to the millisecond: a click a hair before the hour stays in its hour.
    micro = int(((fraction or "") + "000")[:3]) * 1000
    zone = UTC
    try:
        if sign:
            if int(off_hour) > 23 or int(off_minute) > 59:
                raise ValueError("offset")
            shift = timedelta(hours=int(off_hour), minutes=int(off_minute))
            zone = timezone(-shift if sign == "-" else shift)
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), micro, tzinfo=zone)
        return local.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _RefusedError(Reason.WRONG_TYPE, "is not an RFC 3339 time with an offset") from None


def _money(value: object) -> Decimal:
    if type(value) is int:
        number = Decimal(value)
    elif isinstance(value, str) and _AMOUNT.fullmatch(value):
        number = _decimal(value)
    elif isinstance(value, str) and _NOT_A_NUMBER.fullmatch(value):
        raise _RefusedError(Reason.OUT_OF_RANGE, "is not a finite number")
    else:
        raise _RefusedError(Reason.WRONG_TYPE, "is not a decimal number")
    if number < 0:
        raise _RefusedError(Reason.OUT_OF_RANGE, "is negative")
    if number < MAX_AMOUNT:
        number = number.quantize(CENT_OF_CENT, context=_EXACT).copy_abs()
    if number >= MAX_AMOUNT:
        raise _RefusedError(Reason.OUT_OF_RANGE, "is not below 10^12")
    return number


def _decimal(text: str) -> Decimal:
    """The number that `text` spells, or one that is judged alike where its exponent is beyond all measure."""
    try:
        return Decimal(text)
    except InvalidOperation:
        mantissa, _, exponent = text.lower().partition("e")
        if not mantissa.strip("-0."):
            return Decimal(0)
        # No message is long enough for its digits to outweigh such an exponent.
        magnitude = CENT_OF_CENT.scaleb(-1) if exponent.startswith("-") else MAX_AMOUNT
        return -magnitude if mantissa.startswith("-") else magnitude


def _text(longest: int, *, empty: bool = True) -> Callable[[object], str]:
    def check(value: object) -> str:
        if type(value) is not str:
            raise _RefusedError(Reason.WRONG_TYPE, "is not a text")
        # UTF-16 code units: what an NVARCHAR column counts.
        if len(value) + sum(char > "\uffff" for char in value) > longest:
            raise _RefusedError(Reason.OUT_OF_RANGE, f"is longer than {longest} characters")
        if not value and not empty:
            raise _RefusedError(Reason.OUT_OF_RANGE, "is empty")
        if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise _RefusedError(Reason.OUT_OF_RANGE, "holds a character that can't be stored")
        return value

    return check


def _country(value: object) -> str:
    if type(value) is not str:
        raise _RefusedError(Reason.WRONG_TYPE, "is not a text")
    if not _COUNTRY.fullmatch(value):
        raise _RefusedError(Reason.OUT_OF_RANGE, "is not two capital letters of ISO 3166")
    return value


_link_text = _text(2000)


def _link(value: object) -> str:
    link = _link_text(value)
    if not _LINK.fullmatch(link):
        raise _RefusedError(Reason.OUT_OF_RANGE, "is not an http(s) URL")
    return link


class _Field(NamedTuple):
    name: str
    read: Callable[[object], Any]
    required: bool = True
    default: object = None


class _Contract(NamedTuple):
    """The fields of one event type; `time` is the field that `updated_at` falls back to."""

    make: type[Event]
    fields: tuple[_Field, ...]
    time: str | None


_CONTRACTS: dict[str, _Contract] = {
    "click": _Contract(
        Click,
        (
            _Field("click_id", _uuid),
            _Field("advertiser_id", _identifier),
            _Field("ad_id", _identifier),
            _Field("click_time", _time),
            _Field("amount", _money),
            _Field("is_valid", _boolean, required=False, default=True),
            _Field("updated_at", _time, required=False),
        ),
        "click_time",
    ),
    "budget": _Contract(
        Budget,
        (
            _Field("event_id", _uuid),
            _Field("advertiser_id", _identifier),
            _Field("new_budget_value", _money),
            _Field("event_time", _time),
            _Field("source", _text(100), required=False, default="unknown"),
            _Field("updated_at", _time, required=False),
        ),
        "event_time",
    ),
    "advertiser": _Contract(
        Advertiser,
        (
            _Field("advertiser_id", _identifier),
            _Field("name", _text(200, empty=False)),
            _Field("industry", _text(100), required=False),
            _Field("country", _country, required=False),
            _Field("is_active", _boolean, required=False, default=True),
            _Field("updated_at", _time),
        ),
        None,
    ),
    "ad": _Contract(
        Ad,
        (
            _Field("ad_id", _identifier),
            _Field("advertiser_id", _identifier),
            _Field("ad_title", _text(300, empty=False)),
            _Field("ad_format", _text(50), required=False),
            _Field("product_link", _link, required=False),
            _Field("is_active", _boolean, required=False, default=True),
            _Field("updated_at", _time),
        ),
        None,
    ),
}


def decode_event(
    raw: bytes | None, enqueued_at: datetime, lateness: timedelta, replayed_at: datetime | None = None
) -> Event | Rejection:
    """Read one message.

    Args:
        raw: the message's bytes; None for a record without a value.
        enqueued_at: when the broker took it, aware; "in the future" and "too late" are told by it, so
            that reading the same message again, whenever, gives the same answer.
        lateness: how old a click may be when it is enqueued.
        replayed_at: only for a message that was rejected before and is read again now: what was ahead of its
            enqueue time isn't "in the future" any more once its time has come. Never makes the answer stricter.

    Returns:
        A `Click`, `Budget`, `Advertiser` or `Ad`, or a `Rejection`; no bytes make it raise. Of several
        things wrong with one message the first in the order of `Reason` is told.
    """
    try:
        return _decode(raw, enqueued_at, lateness, replayed_at)
    except _RefusedError as refused:
        return refused.rejection


def _decode(raw: bytes | None, enqueued_at: datetime, lateness: timedelta, replayed_at: datetime | None) -> Event:
    body = _parse(raw)
    kind = body.get("event_type")
    if kind is None:
        raise _RefusedError(Reason.MISSING_FIELD, "event_type is missing.")
    if type(kind) is not str:
        raise _RefusedError(Reason.WRONG_TYPE, "event_type is not a text.")
    contract = _CONTRACTS.get(kind)
    if contract is None:
        raise _RefusedError(Reason.UNKNOWN_EVENT_TYPE, f"event_type {kind[:50]!r} is none that we know.")
    values = _read_fields(body, contract)
    if values["updated_at"] is None and contract.time is not None:
        values["updated_at"] = values[contract.time]
    _check_times(values, enqueued_at, lateness, replayed_at)
    return contract.make(**values)


def _parse(raw: bytes | None) -> dict[str, Any]:
    if raw is None:
        raise _RefusedError(Reason.NOT_JSON, "The message has no value.")
    try:
        body = _DECODER.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _RefusedError(Reason.NOT_JSON, f"Not JSON in UTF-8: {str(error)[:200]}.") from None
    if type(body) is not dict:
        raise _RefusedError(Reason.NOT_JSON, "The message is JSON, but not an object.")
    return body


def _read_fields(body: dict[str, Any], contract: _Contract) -> dict[str, Any]:
    values: dict[str, Any] = {}
    worst: Rejection | None = None
    for field in contract.fields:
        value = body.get(field.name)
        if value is None:
            values[field.name] = field.default
            found = Rejection(Reason.MISSING_FIELD, f"{field.name} is missing.") if field.required else None
        else:
            try:
                values[field.name] = field.read(value)
                found = None
            except _RefusedError as refused:
                found = Rejection(refused.rejection.reason, f"{field.name} {refused.rejection.detail}.")
        if found and (worst is None or _PRECEDENCE[found.reason] < _PRECEDENCE[worst.reason]):
            worst = found
    if worst is not None:
        raise _RefusedError(worst.reason, worst.detail)
    return values


def _check_times(
    values: dict[str, Any], enqueued_at: datetime, lateness: timedelta, replayed_at: datetime | None
) -> None:
    present = enqueued_at if replayed_at is None else max(enqueued_at, replayed_at)
    for name in ("click_time", "event_time", "updated_at"):
        if name in values and values[name] - present > FUTURE_TOLERANCE:
            raise _RefusedError(Reason.IN_THE_FUTURE, f"{name} is more than 5 minutes after the event was enqueued.")
    if "click_time" in values and enqueued_at - values["click_time"] > lateness:
        raise _RefusedError(
            Reason.TOO_LATE, f"click_time is more than {lateness.days} days before the event was enqueued."
        )

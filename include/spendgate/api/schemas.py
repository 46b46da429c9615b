"""What is asked and answered, as marshmallow schemas: the OpenAPI document is made of them.

A field that was published stays (tests/api/published_fields.json): programs depend on it.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from spendgate.api.flags import money
from spendgate.clock import format_instant, parse_instant
from spendgate.errors import ConfigurationError
from spendgate.warehouse.engine import as_utc

MAX_PAGE, DEFAULT_PAGE = 1000, 100
_EXAMPLE_TIME = "2026-11-21T18:00:00.000Z"


class Instant(fields.Field[datetime]):
    """RFC 3339, UTC when it is answered, with any offset when it is asked."""

    def __init__(self, what: str, **more: Any) -> None:
        described = {"type": "string", "format": "date-time", "description": what, "example": _EXAMPLE_TIME}
        super().__init__(metadata=described, **more)

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else format_instant(value if value.tzinfo else as_utc(value))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        try:
            return parse_instant(str(value))
        except (ConfigurationError, OverflowError) as error:
            raise ValidationError("Not a time with an offset, like 2026-11-21T18:00:00Z.") from error


class Money(fields.Field[Decimal]):
    """A decimal string with 4 places."""

    def __init__(self, what: str, **more: Any) -> None:
        told = f"{what} Account currency; a decimal string with 4 places."
        described = {"type": "string", "pattern": r"^-?\d+\.\d{4}$", "description": told, "example": "129.9900"}
        super().__init__(metadata=described, **more)

    def _serialize(self, value: Decimal | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return money(value)


class Truth(fields.Boolean):
    """A flag, stored as 0 or 1."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> bool:
        return bool(value)


def _text(what: str, **more: Any) -> fields.String:
    return fields.String(metadata={"description": what}, **more)


def _number(what: str, **more: Any) -> fields.Integer:
    return fields.Integer(metadata={"description": what}, **more)


def _truth(what: str) -> Truth:
    return Truth(metadata={"description": what})


# --- asked ------------------------------------------------------------------------------------------------


class Asked(Schema):
    """What may be asked; anything else is refused, so that a mistyped name doesn't pass unseen."""

    class Meta:
        unknown = RAISE


class Selection(Asked):
    """Which fields to answer with."""

    fields_ = fields.String(
        data_key="fields",
        validate=validate.Regexp(r"^[a-z_]+(,[a-z_]+)*$", error="Names of fields, separated by commas."),
        metadata={"description": "Only these fields, separated by commas.", "example": "advertiser_id,name"},
    )


class Page(Selection):
    """Which page of a list."""

    limit = fields.Integer(
        load_default=DEFAULT_PAGE,
        strict=False,
        validate=validate.Range(1, MAX_PAGE),
        metadata={"description": "Most items of the answer."},
    )
    cursor = fields.String(
        validate=validate.Length(1, 400), metadata={"description": "next_cursor of the page before; opaque."}
    )


class Span(Page):
    """Which page of what lies in [from, to)."""

    from_ = Instant("Inclusive; unless told, a week before `to`.", data_key="from")
    to = Instant("Exclusive; now unless told.")


class SpendSpan(Span):
    """Which windows."""

    grain = fields.String(
        required=True,
        validate=validate.OneOf(["hour", "day", "week", "month"]),
        metadata={"description": "Length of the windows: those that begin in [from, to), each whole. UTC; ISO weeks."},
    )


class BudgetAt(Selection):
    """When."""

    at = Instant("The instant that is asked for; now unless told.")


class AdsPage(Page):
    """Which ads."""

    servable = fields.Boolean(
        load_default=False,
        truthy={"true"},
        falsy={"false"},
        metadata={"description": "true: only active ads of advertisers that may serve now."},
    )


class FlagsAsked(Selection):
    """Which flags."""

    changed_since = fields.String(
        validate=validate.Length(1, 40),
        metadata={"description": "`version` of an earlier answer, or a time: only flags that changed since."},
    )


class StreamAsked(Asked):
    """Where a stream goes on."""

    last_event_id = fields.String(
        data_key="Last-Event-ID",
        metadata={"description": "id of the last event that was seen; unless told, all flags."},
    )

    class Meta:
        unknown = "exclude"


class Credentials(Asked):
    """A log-in."""

    username = fields.String(
        required=True, validate=validate.Length(1, 320), metadata={"description": "User name or e-mail address."}
    )
    password = fields.String(required=True, validate=validate.Length(1, 200))


class Refresh(Asked):
    """A renewal."""

    refresh_token = fields.String(required=True, validate=validate.Length(1, 4096))


class Revocation(Asked):
    """An end."""

    everywhere = fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "true: all log-ins of the user, not only this one."},
    )


# --- answered ---------------------------------------------------------------------------------------------


class ProblemOut(Schema):
    """RFC 9457 problem details."""

    type = _text("urn:spendgate:problem: and a code for programs.")
    title = _text("The status in words.")
    status = _number("The status.")
    detail = _text("What to do, for people.")
    instance = _text("The path that was asked for.")
    errors = fields.Dict(metadata={"description": "What is wrong with the request, by place and field."})


class TokensOut(Schema):
    """Tokens of a log-in."""

    access_token = _text("Send it as Authorization: Bearer.")
    token_type = _text("Bearer.")
    expires_in = _number("Seconds that the access token holds.")
    refresh_token = _text("Good once, for new tokens.")
    refresh_expires_in = _number("Seconds until the log-in ends.")


class MeOut(Schema):
    """Who calls."""

    kind = _text("user or key.")
    id = _number("Number of the user or key.")
    name = _text("User name, or what the key is for.")
    is_staff = _truth("true: sees all advertisers.")
    advertiser_id = _number("The one advertiser that it sees.", allow_none=True)
    scopes = fields.List(fields.String(), metadata={"description": "What it may do."})


class FlagOut(Schema):
    """Whether an advertiser's ads may be served."""

    advertiser_id = _number("The advertiser.")
    can_serve = _truth("Only true means yes.")
    reason = _text("ok, exhausted, no_budget, inactive; unknown: no such flag; stale: not decided for too long.")
    budget = Money("Daily budget; null: none is known.", allow_none=True)
    spent_today = Money("Gross spend of the day.", allow_none=True)
    remaining = Money("What is left of the budget.", allow_none=True)
    day = fields.Date(allow_none=True, metadata={"description": "Day (UTC) that spent_today is of."})
    as_of = Instant("The instant that was decided for.", allow_none=True)
    version = _number("1, and one more whenever can_serve or reason changes; 0: unknown.")
    stale = _truth("true: too old to go by, hence no.")
    has_held_events = _truth("true: the gate holds a batch with events of the advertiser; they don't count yet.")


class FlagsOut(Schema):
    """Flags as of one instant."""

    version = _number("Ask for changes since it with changed_since.")
    complete = _truth("true: all flags; false: only those that changed.")
    flags = fields.List(fields.Nested(FlagOut))


class AdvertiserOut(Schema):
    """An advertiser."""

    advertiser_id = _number("The advertiser.")
    name = _text("Name; 'unknown' of an inferred one.")
    industry = _text("Industry.", allow_none=True)
    country = _text("ISO 3166 alpha-2 code.", allow_none=True)
    is_active = _truth("true: may be served, if its budget allows.")
    is_inferred = _truth("true: known only from other events so far.")
    created_at = Instant("When the row was written first.")
    updated_at = Instant("The event's own updated_at.")


class AdOut(Schema):
    """An ad."""

    ad_id = _number("The ad.")
    advertiser_id = _number("Whose ad it is.")
    ad_title = _text("Title; 'unknown' of an inferred one.")
    ad_format = _text("Format.", allow_none=True)
    product_link = _text("Where it leads to.", allow_none=True)
    is_active = _truth("true: in use.")
    is_inferred = _truth("true: known only from clicks so far.")
    created_at = Instant("When the row was written first.")
    updated_at = Instant("The event's own updated_at.")


class BudgetOut(Schema):
    """The daily budget that holds at an instant."""

    advertiser_id = _number("The advertiser.")
    at = Instant("The instant.")
    budget = Money("Daily budget; null: none was known then.", allow_none=True)
    since = Instant("From when on it holds.", allow_none=True)
    source = _text("Who set it.", allow_none=True)
    event_id = fields.UUID(allow_none=True, metadata={"description": "The budget event."})


class BudgetEventOut(Schema):
    """A change of a daily budget."""

    event_id = fields.UUID(metadata={"description": "The budget event."})
    advertiser_id = _number("The advertiser.")
    new_budget_value = Money("Daily budget from event_time on.")
    event_time = Instant("From when on it holds.")
    source = _text("Who set it.")
    created_at = Instant("When the row was written first.")
    updated_at = Instant("The event's own updated_at.")


class SpendOut(Schema):
    """Spend in a window; what each number means: docs/data-contract.md."""

    window_start = Instant("Inclusive.")
    window_end = Instant("Exclusive.")
    grain = _text("hour, day, week or month.")
    click_count = _number("Clicks, valid and invalid.")
    gross_spend = Money("Sum of valid clicks.")
    invalid_spend = Money("Sum of invalid clicks.")
    net_spend = Money("What may be billed of gross_spend.")
    budget_at_time = Money("Latest budget before window_end; null: none, or a week or month.", allow_none=True)
    can_serve = fields.Boolean(
        allow_none=True, metadata={"description": "Whether the day's spend was below it; null: a week or month."}
    )


class HourOut(Schema):
    """An hour and what it belongs to (UTC)."""

    time_key = Instant("Start of the hour.")
    date_key = fields.Date(metadata={"description": "Its day."})
    hour = _number("0 to 23.")
    day = _number("1 to 31.")
    week = _number("ISO week.")
    week_start = fields.Date(metadata={"description": "Monday of the ISO week."})
    month = _number("1 to 12.")
    quarter = _number("1 to 4.")
    year = _number("Year of the date.")
    weekday_name = _text("Monday to Sunday.")
    is_active = _truth("false: to be left out of reports.")


@cache
def page_of(item: type[Schema]) -> type[Schema]:
    """The schema of a page of items."""
    name = item.__name__.removesuffix("Out") + "PageOut"
    cursor = _text("Ask for the next page with it; null: this is the last one.", allow_none=True)
    return Schema.from_dict({"items": fields.List(fields.Nested(item)), "next_cursor": cursor}, name=name)


class HealthOut(Schema):
    """How the API is."""

    status = _text("ok, or unavailable.")
    reasons = fields.List(fields.String(), metadata={"description": "Why it isn't ok."})
    flags_as_of = Instant("The oldest instant that a flag was decided for.", allow_none=True)
    flag_count = _number("How many flags there are.", allow_none=True)

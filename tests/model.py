"""The independent model: what SpendGate's rows must be, worked out slowly and plainly from all events.

Nothing here comes from `spendgate`, and nothing here is clever: an event is read by hand from its JSON, the
current versions are a dict, and every answer is computed from that dict from scratch. Hypothesis and the
end-to-end tests hold the pipeline to it.

    model = Model()
    model.feed([(raw, enqueued_at), ...])   # one run's arrivals, in order; raw None: a record without a value
    model.decide(as_of)                     # the flags of that run; versions grow on change
    model.rejection_counts(), model.clicks, model.budgets, model.advertisers, model.ads
    model.summaries(), model.flags, model.published

Rules that the design leaves open and this model fixes:

- Every event that isn't rejected infers its unknown members, also when it is a duplicate or already
  superseded: only so do the rows not depend on the order of arrival.
- An inferred ad has the smallest advertiser_id that any such click gave it.
- Without a budget nothing remains: 0.
- A text is as long as its UTF-16 code units: that is what an NVARCHAR column counts.
- A time whose UTC instant lies outside the years 1 to 9999 isn't a time: wrong_type.
- A body nested deeper than the JSON parser goes is not_json.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MILLISECOND = timedelta(milliseconds=1)  # all times are whole ones
CLOCK_SKEW = timedelta(minutes=5)
ZERO = Decimal("0.0000")

REASONS = (
    "not_json",
    "unknown_event_type",
    "missing_field",
    "wrong_type",
    "out_of_range",
    "in_the_future",
    "too_late",
    "conflicting_duplicate",
)

Arrival = tuple[bytes | None, datetime]


class RejectedError(Exception):
    """A bad event: `args[0]` is the reason, `args[1]` the field or what is wrong."""

    @property
    def reason(self) -> str:
        return str(self.args[0])


class Rejection(NamedTuple):
    """A rejected arrival; `number` counts all arrivals since the model began, from 0."""

    number: int
    reason: str
    detail: str
    raw: bytes | None
    enqueued_at: datetime


# --- What the rows look like ---------------------------------------------------------------------------


class Click(NamedTuple):
    click_id: str
    advertiser_id: int
    ad_id: int
    click_time: datetime
    amount: Decimal
    is_valid: bool
    updated_at: datetime


class Budget(NamedTuple):
    event_id: str
    advertiser_id: int
    new_budget_value: Decimal
    event_time: datetime
    source: str
    updated_at: datetime


class Advertiser(NamedTuple):
    """An inferred one has no name, industry, country or updated_at; its row may say anything there."""

    advertiser_id: int
    name: str | None
    industry: str | None
    country: str | None
    is_active: bool
    updated_at: datetime | None
    is_inferred: bool = False


class Ad(NamedTuple):
    """An inferred one has no ad_title, ad_format, product_link or updated_at."""

    ad_id: int
    advertiser_id: int
    ad_title: str | None
    ad_format: str | None
    product_link: str | None
    is_active: bool
    updated_at: datetime | None
    is_inferred: bool = False


Entity = Click | Budget | Advertiser | Ad


class Window(NamedTuple):
    window_end: datetime
    click_count: int
    gross_spend: Decimal
    invalid_spend: Decimal
    net_spend: Decimal
    budget_at_time: Decimal | None
    can_serve: bool


class Flag(NamedTuple):
    can_serve: bool
    reason: str
    budget: Decimal | None
    spent_today: Decimal
    remaining: Decimal
    day: date


class VersionedFlag(NamedTuple):
    flag: Flag
    as_of: datetime
    version: int


class Message(NamedTuple):
    """What goes to the can-serve topic."""

    advertiser_id: int
    flag: Flag
    as_of: datetime
    version: int


# --- Reading one field ---------------------------------------------------------------------------------


class Number(NamedTuple):
    """A JSON number as it is written."""

    text: str


def floor_ms(instant: datetime) -> datetime:
    instant = instant.astimezone(UTC)
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)


def read_time(value: Any) -> datetime:
    match = RFC3339.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise RejectedError("wrong_type", "not an RFC 3339 time with an offset")
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    milliseconds = int(((match[7] or "") + "000")[:3])
    offset_hours, offset_minutes = int(match[9] or 0), int(match[10] or 0)
    if offset_hours > 23 or offset_minutes > 59:
        raise RejectedError("wrong_type", "no such offset")
    offset = timedelta(hours=offset_hours, minutes=offset_minutes)
    try:
        local = datetime(year, month, day, hour, minute, second, milliseconds * 1000, tzinfo=UTC)
        return local + offset if match[8] == "-" else local - offset
    except (ValueError, OverflowError) as error:
        raise RejectedError("wrong_type", "no such time") from error


def read_id(value: Any) -> int:
    if not isinstance(value, Number) or not re.fullmatch(r"-?[0-9]+", value.text):
        raise RejectedError("wrong_type", "not an integer")
    # Longer than any id, and int() refuses thousands of digits.
    if len(value.text) > 20 or not 1 <= int(value.text) <= 2**31 - 1:
        raise RejectedError("out_of_range", "not from 1 to 2147483647")
    return int(value.text)


DECIMAL = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")


def read_amount(value: Any) -> Decimal:
    text = value.text if isinstance(value, Number) else value
    if not isinstance(text, str):
        raise RejectedError("wrong_type", "neither a number nor a string")
    if text.lower() in ("nan", "-nan", "infinity", "-infinity"):
        raise RejectedError("out_of_range", "not a finite number")
    match = DECIMAL.fullmatch(text)
    if match is None:
        raise RejectedError("wrong_type", "not a decimal number")
    digits = (match[2] + (match[3] or "")).lstrip("0")
    if not digits:
        return ZERO
    if match[1]:
        raise RejectedError("out_of_range", "negative")
    # value = 0.digits x 10^point; exponents beyond any sense are cut to one that decides the same.
    exponent = int((match[5] or "0").lstrip("0")[:20] or "0") * (-1 if match[4] == "-" else 1)
    point = len(digits) - len(match[3] or "") + exponent
    if point > 12:
        raise RejectedError("out_of_range", "10^12 or more")
    if point < -4:
        return ZERO
    with localcontext() as context:
        context.prec = len(digits) + 40
        rounded = Decimal(f"0.{digits}").scaleb(point).quantize(ZERO, rounding=ROUND_HALF_EVEN)
    if rounded >= 10**12:
        raise RejectedError("out_of_range", "10^12 or more")
    return rounded


def read_uuid(value: Any) -> str:
    hexes = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    if not isinstance(value, str) or not re.fullmatch(hexes, value):
        raise RejectedError("wrong_type", "not a UUID")
    return str(UUID(value))


def read_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise RejectedError("wrong_type", "not a boolean")
    return value


def read_text(longest: int, *, empty: bool = True, pattern: str | None = None) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise RejectedError("wrong_type", "not a string")
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
            raise RejectedError("out_of_range", "a character that no column holds")
        if len(value.encode("utf-16-le")) // 2 > longest:
            raise RejectedError("out_of_range", f"longer than {longest}")
        if not value and not empty:
            raise RejectedError("out_of_range", "empty")
        if pattern is not None and not re.fullmatch(pattern, value):
            raise RejectedError("out_of_range", "not in the form asked for")
        return value

    return read


# --- Reading one event ---------------------------------------------------------------------------------

HTTP_URL = r"(?i:https?)://[^\s\x00-\x20\x7f/?#]+[^\s\x00-\x20\x7f]*"
REQUIRED = object()


@dataclass(frozen=True)
class Field:
    name: str
    read: Callable[[Any], Any]
    default: Any = REQUIRED  # a string that begins with "=" names the field whose value is taken


FIELDS: dict[str, tuple[type[Entity], tuple[Field, ...]]] = {
    "click": (
        Click,
        (
            Field("click_id", read_uuid),
            Field("advertiser_id", read_id),
            Field("ad_id", read_id),
            Field("click_time", read_time),
            Field("amount", read_amount),
            Field("is_valid", read_bool, default=True),
            Field("updated_at", read_time, default="=click_time"),
        ),
    ),
    "budget": (
        Budget,
        (
            Field("event_id", read_uuid),
            Field("advertiser_id", read_id),
            Field("new_budget_value", read_amount),
            Field("event_time", read_time),
            Field("source", read_text(100), default="unknown"),
            Field("updated_at", read_time, default="=event_time"),
        ),
    ),
    "advertiser": (
        Advertiser,
        (
            Field("advertiser_id", read_id),
            Field("name", read_text(200, empty=False)),
            Field("industry", read_text(100), default=None),
            Field("country", read_text(2, pattern="[A-Z]{2}"), default=None),
            Field("is_active", read_bool, default=True),
            Field("updated_at", read_time),
        ),
    ),
    "ad": (
        Ad,
        (
            Field("ad_id", read_id),
            Field("advertiser_id", read_id),
            Field("ad_title", read_text(300, empty=False)),
            Field("ad_format", read_text(50), default=None),
            Field("product_link", read_text(2000, pattern=HTTP_URL), default=None),
            Field("is_active", read_bool, default=True),
            Field("updated_at", read_time),
        ),
    ),
}

TIMES = ("click_time", "event_time", "updated_at")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_object(raw: bytes | None) -> dict[str, Any]:
    """The JSON object in `raw`, its numbers as they are written."""
    try:
        body = json.loads(
            (raw or b"").decode("utf-8"),
            parse_int=Number,
            parse_float=Number,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise RejectedError("not_json", "not JSON in UTF-8") from error
    if not isinstance(body, dict):
        raise RejectedError("not_json", "not an object")
    return body


def read_event(
    raw: bytes | None, enqueued_at: datetime, lateness_days: int = 31, read_at: datetime | None = None
) -> Entity:
    """The entity version in `raw`.

    `read_at`: when a rejected event is read again; nothing up to then is in the future.

    Raises:
        RejectedError: with the reason that comes first of all that hold.
    """
    body = read_object(raw)
    event_type = body.get("event_type")
    if event_type is None:
        raise RejectedError("missing_field", "event_type")
    if not isinstance(event_type, str):
        raise RejectedError("wrong_type", "event_type")
    if event_type not in FIELDS:
        raise RejectedError("unknown_event_type", event_type)

    entity, fields = FIELDS[event_type]
    values = _read_fields(body, fields)
    enqueued_at = floor_ms(enqueued_at)
    _check_times(values, enqueued_at, max(enqueued_at, read_at or enqueued_at), lateness_days)
    return entity(**values)


def _read_fields(body: dict[str, Any], fields: tuple[Field, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    bad: dict[str, str] = {}  # reason -> the first field that has it
    for one in fields:
        value = body.get(one.name)
        if value is not None:
            try:
                values[one.name] = one.read(value)
            except RejectedError as rejected:
                bad.setdefault(rejected.reason, one.name)
        elif one.default is REQUIRED:
            bad.setdefault("missing_field", one.name)
        elif isinstance(one.default, str) and one.default.startswith("="):
            values[one.name] = values.get(one.default[1:])  # None only if that field is bad itself
        else:
            values[one.name] = one.default
    for reason in ("missing_field", "wrong_type", "out_of_range"):
        if reason in bad:
            raise RejectedError(reason, bad[reason])
    return values


def _check_times(values: dict[str, Any], enqueued_at: datetime, present: datetime, lateness_days: int) -> None:
    for name in TIMES:
        if name in values and values[name] > present + CLOCK_SKEW:
            raise RejectedError("in_the_future", name)
    if "click_time" in values and values["click_time"] < enqueued_at - timedelta(days=lateness_days):
        raise RejectedError("too_late", "click_time")


# --- The model -----------------------------------------------------------------------------------------


@dataclass
class Model:
    """The state after all arrivals so far, and the flags after all decisions so far."""

    lateness_days: int = 31
    read_at: datetime | None = None
    arrivals: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    clicks: dict[str, Click] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)
    advertisers: dict[int, Advertiser] = field(default_factory=dict)
    ads: dict[int, Ad] = field(default_factory=dict)
    flags: dict[int, VersionedFlag] = field(default_factory=dict)
    published: list[Message] = field(default_factory=list)

    def feed(self, arrivals: Iterable[Arrival]) -> None:
        """Take arrivals in the order in which they came."""
        for raw, enqueued_at in arrivals:
            self._take(self.arrivals, raw, enqueued_at)
            self.arrivals += 1

    def replay(self) -> None:
        """Take what was rejected once more, in the order in which it came, by what holds now."""
        rejected, self.rejections = self.rejections, []
        for one in rejected:
            self._take(one.number, one.raw, one.enqueued_at)

    def _take(self, number: int, raw: bytes | None, enqueued_at: datetime) -> None:
        try:
            self._store(read_event(raw, enqueued_at, self.lateness_days, self.read_at))
        except RejectedError as rejected:
            reason, detail = rejected.args
            self.rejections.append(Rejection(number, reason, detail, raw, enqueued_at))

    def _store(self, new: Entity) -> None:
        key: Any = new[0]
        tables: dict[type, dict[Any, Any]] = {
            Click: self.clicks,
            Budget: self.budgets,
            Advertiser: self.advertisers,
            Ad: self.ads,
        }
        table = tables[type(new)]
        stored = table.get(key)
        if stored is not None and stored.updated_at == new.updated_at and stored != new:
            raise RejectedError("conflicting_duplicate", str(key))
        if stored is None or stored.updated_at is None or stored.updated_at < new.updated_at:
            table[key] = new
        self._infer(new)

    def _infer(self, new: Entity) -> None:
        no_facts = (None, None, None)
        if new.advertiser_id not in self.advertisers:
            self.advertisers[new.advertiser_id] = Advertiser(
                new.advertiser_id, *no_facts, is_active=False, updated_at=None, is_inferred=True
            )
        if isinstance(new, Click):
            known = self.ads.get(new.ad_id)
            if known is None or (known.is_inferred and known.advertiser_id > new.advertiser_id):
                self.ads[new.ad_id] = Ad(
                    new.ad_id, new.advertiser_id, *no_facts, is_active=False, updated_at=None, is_inferred=True
                )

    def rejection_counts(self) -> dict[str, int]:
        """How many arrivals were rejected, by reason."""
        return dict(Counter(rejection.reason for rejection in self.rejections))

    # What was spent and what may be billed

    def summaries(self) -> dict[tuple[int, str, datetime], Window]:
        """SpendSummary: {(advertiser_id, grain, window_start): window}."""
        clicks: dict[tuple[int, datetime], list[Click]] = {}
        hours: set[tuple[int, datetime]] = set()
        budgets: dict[int, list[Budget]] = {}
        for click in self.clicks.values():
            hour = click.advertiser_id, _floor_hour(click.click_time)
            hours.add(hour)
            clicks.setdefault(hour, []).append(click)
        for budget in self.budgets.values():
            hours.add((budget.advertiser_id, _floor_hour(budget.event_time)))
            budgets.setdefault(budget.advertiser_id, []).append(budget)

        days: dict[tuple[int, datetime], list[datetime]] = {}
        for advertiser_id, hour_start in sorted(hours):
            days.setdefault((advertiser_id, _floor_day(hour_start)), []).append(hour_start)

        rows: dict[tuple[int, str, datetime], Window] = {}
        for (advertiser_id, day_start), starts in days.items():
            own_budgets = budgets.get(advertiser_id, [])
            windows = []
            cumulative = billed = ZERO
            for start in starts:
                end = start + HOUR
                here = clicks.get((advertiser_id, start), [])
                gross = sum((click.amount for click in here if click.is_valid), ZERO)
                invalid = sum((click.amount for click in here if not click.is_valid), ZERO)
                budget_value = _latest(own_budgets, before=end)
                cumulative += gross
                billable = max(billed, min(cumulative, ZERO if budget_value is None else budget_value))
                window = Window(
                    window_end=end,
                    click_count=len(here),
                    gross_spend=gross,
                    invalid_spend=invalid,
                    net_spend=billable - billed,
                    budget_at_time=budget_value,
                    can_serve=budget_value is not None and cumulative < budget_value,
                )
                billed = billable
                windows.append(window)
                rows[advertiser_id, "hour", start] = window
            day_end = day_start + DAY
            day_budget = _latest(own_budgets, before=day_end)
            rows[advertiser_id, "day", day_start] = Window(
                window_end=day_end,
                click_count=sum(window.click_count for window in windows),
                gross_spend=sum((window.gross_spend for window in windows), ZERO),
                invalid_spend=sum((window.invalid_spend for window in windows), ZERO),
                net_spend=sum((window.net_spend for window in windows), ZERO),
                budget_at_time=day_budget,
                can_serve=day_budget is not None and cumulative < day_budget,
            )
        return rows

    # Who may be served

    def flags_at(self, as_of: datetime) -> dict[int, Flag]:
        """The flag of every known advertiser at `as_of`; changes nothing."""
        as_of = floor_ms(as_of)
        day_start = _floor_day(as_of)
        spent: dict[int, Decimal] = {}
        for click in self.clicks.values():
            if click.is_valid and day_start <= click.click_time < day_start + DAY:
                spent[click.advertiser_id] = spent.get(click.advertiser_id, ZERO) + click.amount
        budgets: dict[int, list[Budget]] = {}
        for event in self.budgets.values():
            budgets.setdefault(event.advertiser_id, []).append(event)

        flags = {}
        for advertiser in self.advertisers.values():
            spent_today = spent.get(advertiser.advertiser_id, ZERO)
            budget = _latest(budgets.get(advertiser.advertiser_id, []), before=as_of + MILLISECOND)
            if not advertiser.is_active or advertiser.is_inferred:
                reason = "inactive"
            elif budget is None:
                reason = "no_budget"
            elif spent_today >= budget:
                reason = "exhausted"
            else:
                reason = "ok"
            flags[advertiser.advertiser_id] = Flag(
                can_serve=reason == "ok",
                reason=reason,
                budget=budget,
                spent_today=spent_today,
                remaining=ZERO if budget is None else max(budget - spent_today, ZERO),
                day=as_of.date(),
            )
        return flags

    def decide(self, as_of: datetime) -> dict[int, VersionedFlag]:
        """Decide every flag at `as_of`; returns those that are new or changed can_serve or reason.

        Each of those is one more message in `published`.
        """
        as_of = floor_ms(as_of)
        changed = {}
        for advertiser_id, flag in sorted(self.flags_at(as_of).items()):
            before = self.flags.get(advertiser_id)
            version = 0 if before is None else before.version
            if before is None or before.flag[:2] != flag[:2]:  # can_serve, reason
                version += 1
                changed[advertiser_id] = VersionedFlag(flag, as_of, version)
                self.published.append(Message(advertiser_id, flag, as_of, version))
            self.flags[advertiser_id] = VersionedFlag(flag, as_of, version)
        return changed


def run_model(runs: Iterable[tuple[Iterable[Arrival], datetime]], lateness_days: int = 31) -> Model:
    """The model after each of `runs`: its arrivals, then a decision at its instant."""
    model = Model(lateness_days=lateness_days)
    for arrivals, as_of in runs:
        model.feed(arrivals)
        model.decide(as_of)
    return model


def _latest(budgets: list[Budget], before: datetime) -> Decimal | None:
    held = [budget for budget in budgets if budget.event_time < before]
    if not held:
        return None
    return max(held, key=lambda b: (b.event_time, b.updated_at, b.event_id)).new_budget_value


def _floor_hour(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def _floor_day(instant: datetime) -> datetime:
    return instant.replace(hour=0, minute=0, second=0, microsecond=0)

"""Sample events: a seeded day of a made-up ad market, as its producers would deliver it.

A few big advertisers and many small ones; clicks that follow the hours of the day; budgets set for the day,
raised, lowered and overspent; fraud verdicts and corrected prices that arrive later; late and repeated
deliveries; advertisers and ads announced late or never; and now and then a message that is no event.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import Enum, auto
from random import Random
from typing import Any, NamedTuple

from spendgate.errors import ConfigurationError

CLICKS = "ad-clicks"
BUDGETS = "ad-budgets"
REFERENCE = "ad-reference"

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

# Money is counted in ten-thousandths, the fourth decimal place.
UNIT = 10_000

CORRECTED_SHARE = 0.003
LATE_SHARE = 0.005
DUPLICATE_SHARE = 0.01
CLICKS_PER_CONFLICT = 20_000
CLICKS_PER_MALFORMED = 1_000
CLICKS_PER_ADVERTISER = 500

FIRST_ADVERTISER_ID = 1001
FIRST_AD_ID = 50_001

# Clocks that are wrong in the way clocks are: never set, and set to nonsense. Neither is ever near `day`.
UNSET_CLOCK = "1970-01-01T00:00:12.000Z"
NONSENSE_CLOCK = "2999-01-01T00:00:00.000Z"


class SampleEvent(NamedTuple):
    """One message: the stream it goes to, its key (the advertiser's id as text) and its value."""

    stream: str
    key: bytes
    payload: bytes


class Part(Enum):
    """What an advertiser's day is like."""

    STEADY = auto()
    EXHAUSTED = auto()
    RAISED_AND_EXHAUSTED = auto()
    LOWERED_AND_EXHAUSTED = auto()
    RAISED = auto()
    LOWERED = auto()
    NO_BUDGET = auto()
    INACTIVE = auto()
    ANNOUNCED_LATE = auto()
    NEVER_ANNOUNCED = auto()


# Shares of all advertisers, of which the first four go to small advertisers only; the rest is STEADY.
PARTS = (
    (Part.NEVER_ANNOUNCED, 0.02),
    (Part.ANNOUNCED_LATE, 0.03),
    (Part.INACTIVE, 0.04),
    (Part.NO_BUDGET, 0.04),
    (Part.EXHAUSTED, 0.15),
    (Part.RAISED_AND_EXHAUSTED, 0.05),
    (Part.LOWERED_AND_EXHAUSTED, 0.05),
    (Part.RAISED, 0.08),
    (Part.LOWERED, 0.06),
)
SMALL_ONLY = 4

# Budgets as a share of what the day will cost, (least, most), one range for each setting of the day. What is
# below 1 is spent by the evening.
BUDGET_SHARES: dict[Part, tuple[tuple[float, float], ...]] = {
    Part.STEADY: ((1.15, 2.5),),
    Part.EXHAUSTED: ((0.55, 0.95),),
    Part.RAISED_AND_EXHAUSTED: ((0.4, 0.55), (0.7, 0.9)),
    Part.LOWERED_AND_EXHAUSTED: ((1.2, 1.6), (0.5, 0.8)),
    Part.RAISED: ((0.4, 0.7), (1.2, 1.8)),
    Part.LOWERED: ((1.8, 3.0), (1.15, 1.4)),
    Part.NO_BUDGET: (),
    Part.INACTIVE: ((1.15, 2.0),),
    Part.ANNOUNCED_LATE: ((1.15, 2.0),),
    Part.NEVER_ANNOUNCED: ((1.15, 2.0),),
}

# Relative traffic at each full hour, UTC; minutes between are interpolated.
LEISURE = (30, 20, 14, 10, 9, 12, 22, 38, 48, 52, 55, 60, 68, 64, 58, 57, 62, 74, 88, 100, 104, 96, 74, 48)
OFFICE = (8, 6, 5, 5, 6, 10, 24, 56, 88, 100, 102, 96, 78, 90, 98, 94, 84, 60, 38, 30, 28, 24, 18, 12)
NIGHT = (82, 70, 52, 36, 24, 18, 16, 18, 22, 28, 34, 40, 46, 48, 50, 54, 58, 64, 70, 78, 88, 96, 100, 94)


class Trade(NamedTuple):
    """An industry: what its companies are called, what they sell, when it is clicked, at what price."""

    industry: str
    companies: tuple[str, ...]
    products: tuple[str, ...]
    rhythm: tuple[int, ...]
    price: tuple[int, int]


TRADES = (
    Trade(
        "travel",
        ("Journeys", "Rail", "Stays"),
        ("city breaks", "night trains", "cabins"),
        LEISURE,
        (2500, 9000),
    ),
    Trade("outdoor", ("Outdoor", "Trails"), ("hiking boots", "tents", "rain jackets"), LEISURE, (1500, 6000)),
    Trade(
        "fashion",
        ("Apparel", "Knitwear"),
        ("linen shirts", "winter coats", "trainers"),
        LEISURE,
        (1200, 5000),
    ),
    Trade("groceries", ("Market", "Pantry"), ("weekly boxes", "coffee", "fresh pasta"), LEISURE, (800, 3000)),
    Trade("home", ("Interiors", "Lighting"), ("oak tables", "floor lamps", "sofas"), LEISURE, (1500, 7000)),
    Trade(
        "insurance",
        ("Mutual", "Assurance"),
        ("home cover", "travel cover", "bike cover"),
        OFFICE,
        (9000, 45000),
    ),
    Trade("software", ("Systems", "Ledger"), ("invoicing", "team calendars", "backups"), OFFICE, (8000, 40000)),
    Trade("education", ("Academy", "Courses"), ("evening classes", "language courses"), OFFICE, (4000, 15000)),
    Trade("recruiting", ("Careers", "Staffing"), ("nursing jobs", "driver jobs"), OFFICE, (5000, 18000)),
    Trade("energy", ("Power", "Heat Pumps"), ("solar roofs", "green tariffs"), OFFICE, (7000, 30000)),
    Trade("games", ("Games", "Arcade"), ("puzzle packs", "racing season", "card decks"), NIGHT, (500, 2500)),
    Trade("streaming", ("Cinema", "Audio"), ("series", "live concerts", "audiobooks"), NIGHT, (900, 4000)),
)
NAME_STARTS = (
    "Nor", "Bright", "Kel", "Ves", "Tal", "Orm", "Lin", "Quill", "Fen", "Mar",
    "Hal", "Sol", "Ash", "Brae", "Cor", "Del", "Elm", "Gar", "Ives", "Jun",
    "Lor", "Myr", "Oster", "Pell", "Rune", "Stel", "Thorn", "Ulm", "Wyn", "Zel",
)  # fmt: skip
NAME_ENDS = (
    "vale", "wick", "dane", "more", "stead", "bourne", "haven", "ridge", "by", "field",
    "gate", "holm", "mark", "ness", "port", "shaw", "well", "worth", "yard", "lund",
)  # fmt: skip
HOOKS = ("New: {}", "{} for less", "Discover {}", "Your {}, delivered", "{}, made to last", "Save on {}")
FORMATS = ("banner", "video", "native", "search")
COUNTRIES = ("NL", "DE", "GB", "FR", "SE", "PL", "ES", "US", "IE", "DK")


@dataclass(slots=True)
class _Advertiser:
    advertiser_id: int
    name: str
    slug: str
    country: str
    trade: Trade
    part: Part
    price: float
    fraud_rate: float
    ad_ids: range
    number_amounts: bool  # its producer sends amounts as JSON numbers
    spent: int = 0  # what its valid clicks cost in the end

    @property
    def key(self) -> bytes:
        return str(self.advertiser_id).encode()


@dataclass(slots=True)
class _Clicks:
    """The original clicks as columns, in no order of time."""

    owner: array[int] = field(default_factory=lambda: array("i"))
    ad_id: array[int] = field(default_factory=lambda: array("i"))
    time: array[int] = field(default_factory=lambda: array("i"))
    amount: array[int] = field(default_factory=lambda: array("i"))

    def append(self, owner: int, ad_id: int, time: int, amount: int) -> None:
        self.owner.append(owner)
        self.ad_id.append(ad_id)
        self.time.append(time)
        self.amount.append(amount)


def sample_events(
    *, clicks: int = 200_000, seed: int = 7, day: date, advertisers: int | None = None
) -> Iterator[SampleEvent]:
    """The events of one day, in the order of their delivery.

    All times of events lie on `day` (UTC), those of reference and budget events also on the evening before;
    a malformed few have a clock that is wrong by centuries. So, published after `day`, nothing else is in
    the future. Nothing but dates and the ids of clicks and budget events depends on `day`: with one
    seed every day has the same money, and two days can be published one after the other.

    Args:
        clicks: how many clicks there were; verdicts, corrections and repetitions come on top (some 3 %).
        seed: another seed, another market.
        day: the UTC day.
        advertisers: how many; unset, one for 500 clicks, at least 12 and at most 1,000.

    Raises:
        ConfigurationError: a size below 1.
    """
    if advertisers is None:
        advertisers = min(max(clicks // CLICKS_PER_ADVERTISER, 12), 1000)
    if clicks < 1 or advertisers < 1:
        raise ConfigurationError("Ask for at least one click and one advertiser.")
    return _Day(clicks, seed, day, advertisers).events()


class _Day:
    """Plans the day: who is in the market, what happens, and when each message is delivered.

    An original click is planned as its number and rendered when its turn comes, so that a million of them
    fit in memory; all other messages are few, and rendered at once.
    """

    def __init__(self, clicks: int, seed: int, day: date, advertisers: int) -> None:
        self._random = Random(seed)
        # The ids' own source of chance: it alone depends on the day.
        self._salt = Random(f"{seed} {day.isoformat()}").getrandbits(128)
        self._day = day.isoformat()
        self._evening = (day - timedelta(days=1)).isoformat()
        self._count = clicks
        self._extra_ids = itertools.count(clicks)
        self._clicks = _Clicks()
        self._plain: list[int] = []
        # (delivery << 32) + number; a number from `clicks` on means a message of `_others`.
        self._deliveries: list[int] = []
        self._others: list[SampleEvent] = []
        self._market = _market(self._random, advertisers)

    def events(self) -> Iterator[SampleEvent]:
        self._plan_clicks()
        self._plan_conflicts()
        for advertiser in self._market:
            self._plan_budgets(advertiser)
            self._plan_reference(advertiser)
        self._plan_malformed()
        self._deliveries.sort()
        keys = [advertiser.key for advertiser in self._market]
        for delivery in self._deliveries:
            number = delivery & 0xFFFFFFFF
            if number < self._count:
                yield SampleEvent(CLICKS, keys[self._clicks.owner[number]], self._click(number))
            else:
                yield self._others[number - self._count]

    def _deliver(self, at: int, stream: str, key: bytes, payload: bytes) -> None:
        # The evening before has negative times.
        self._deliveries.append(((at + DAY) << 32) + self._count + len(self._others))
        self._others.append(SampleEvent(stream, key, payload))

    # Clicks

    def _plan_clicks(self) -> None:
        weights = _zipf(len(self._market))
        owners = self._random.choices(range(len(self._market)), cum_weights=weights, k=self._count)
        counts = [0] * len(self._market)
        for owner in owners:
            counts[owner] += 1
        for owner, count in enumerate(counts):
            self._plan_clicks_of(owner, count)

    def _plan_clicks_of(self, owner: int, count: int) -> None:
        chance = self._random.random
        advertiser = self._market[owner]
        minutes = self._random.choices(range(24 * 60), cum_weights=RHYTHMS[advertiser.trade.rhythm], k=count)
        ads = self._random.choices(advertiser.ad_ids, cum_weights=_zipf(len(advertiser.ad_ids)), k=count)
        corrected = advertiser.fraud_rate + CORRECTED_SHARE
        late = corrected + LATE_SHARE
        repeated = late + DUPLICATE_SHARE
        for minute, ad_id in zip(minutes, ads, strict=True):
            number = len(self._clicks.time)
            time = minute * MINUTE + int(chance() * MINUTE)
            amount = int(advertiser.price * (0.6 + 0.8 * chance()))
            self._clicks.append(owner, ad_id, time, amount)
            advertiser.spent += amount
            delivery = time + 80 + int(chance() * chance() * 8000)
            fate = chance()
            if fate >= repeated:
                self._plain.append(number)
            elif fate < corrected:
                self._restate(number, fraud=fate < advertiser.fraud_rate)
            elif fate < late:
                delivery += int((0.5 + 9 * chance()) * HOUR)
            else:
                again = delivery + 1 + int(chance() * 5 * MINUTE)
                self._deliver(again, CLICKS, advertiser.key, self._click(number))
            self._deliveries.append(((delivery + DAY) << 32) + number)

    def _restate(self, number: int, *, fraud: bool) -> None:
        """A later version of a click, still of this day: a fraud verdict, or a lower price."""
        time = self._clicks.time[number]
        updated = min(time + int((0.1 + 5 * self._random.random()) * HOUR), DAY - 1)
        if updated <= time:
            return
        advertiser = self._market[self._clicks.owner[number]]
        amount = self._clicks.amount[number]
        if fraud:
            advertiser.spent -= amount
            more = ',"is_valid":false'
        else:
            lower = int(amount * self._random.uniform(0.3, 0.9))
            advertiser.spent -= amount - lower
            amount = lower
            more = ""
        payload = self._click(number, amount, more + f',"updated_at":"{self._time(updated)}"')
        self._deliver(updated + 500, CLICKS, advertiser.key, payload)

    def _plan_conflicts(self) -> None:
        """Another price for a click that nothing else happened to, and no word of which is newer."""
        wanted = max(1, self._count // CLICKS_PER_CONFLICT)
        for number in self._random.sample(self._plain, min(wanted, len(self._plain))):
            payload = self._click(number, self._clicks.amount[number] + 100)
            # The original is delivered within 9 seconds of its click.
            at = self._clicks.time[number] + MINUTE + self._random.randrange(2 * HOUR)
            self._deliver(at, CLICKS, self._market[self._clicks.owner[number]].key, payload)

    def _click(self, number: int, amount: int | None = None, more: str = "") -> bytes:
        clicks = self._clicks
        advertiser = self._market[clicks.owner[number]]
        money = _money(clicks.amount[number] if amount is None else amount)
        if not advertiser.number_amounts:
            money = f'"{money}"'
        return (
            f'{{"event_type":"click","click_id":"{self._id(number)}","advertiser_id":{advertiser.advertiser_id},'
            f'"ad_id":{clicks.ad_id[number]},"click_time":"{self._time(clicks.time[number])}","amount":{money}{more}}}'
        ).encode()

    # Budgets

    def _plan_budgets(self, advertiser: _Advertiser) -> None:
        random = self._random
        # An advertiser that nobody clicked on has a budget all the same.
        cost = advertiser.spent or advertiser.price * 50
        for place, (least, most) in enumerate(BUDGET_SHARES[advertiser.part]):
            value = _round_sum(cost * random.uniform(least, most))
            if place > 0:
                time, source = random.randrange(11 * HOUR, 20 * HOUR), random.choice(("ui", "ui", "api"))
            elif random.random() < 0.6:
                time, source = 0, "scheduler"
            else:
                time, source = -random.randrange(1 * HOUR, 6 * HOUR), "ui"
            event = {
                "event_type": "budget",
                "event_id": self._id(next(self._extra_ids)),
                "advertiser_id": advertiser.advertiser_id,
                "new_budget_value": _money(value),
                "event_time": self._time(time),
                "source": source,
            }
            late = random.random() < 0.02
            at = time + 300 + (random.randrange(HOUR, 3 * HOUR) if late else random.randrange(3000))
            self._deliver(at, BUDGETS, advertiser.key, _json(event))
            if random.random() < DUPLICATE_SHARE:
                self._deliver(at + 20 * SECOND, BUDGETS, advertiser.key, _json(event))

    # Advertisers and ads

    def _plan_reference(self, advertiser: _Advertiser) -> None:
        if advertiser.part is Part.NEVER_ANNOUNCED:
            return
        random = self._random
        if advertiser.part is Part.ANNOUNCED_LATE:
            time = random.randrange(9 * HOUR, 17 * HOUR)
        else:
            time = -random.randrange(2 * HOUR, 8 * HOUR)
        closes_today = advertiser.part is Part.INACTIVE and random.random() < 0.5
        event: dict[str, Any] = {
            "event_type": "advertiser",
            "advertiser_id": advertiser.advertiser_id,
            "name": advertiser.name,
            "industry": advertiser.trade.industry,
            "country": advertiser.country,
            "is_active": advertiser.part is not Part.INACTIVE or closes_today,
            "updated_at": self._time(time),
        }
        self._deliver(time + SECOND, REFERENCE, advertiser.key, _json(event))
        if closes_today:
            closing = random.randrange(8 * HOUR, 20 * HOUR)
            event |= {"is_active": False, "updated_at": self._time(closing)}
            self._deliver(closing + SECOND, REFERENCE, advertiser.key, _json(event))
        # Some tools forget to announce the newest ad.
        forgotten = int(len(advertiser.ad_ids) > 1 and random.random() < 0.03)
        for ad_id in advertiser.ad_ids[: len(advertiser.ad_ids) - forgotten]:
            self._plan_ad(advertiser, ad_id, time + MINUTE)

    def _plan_ad(self, advertiser: _Advertiser, ad_id: int, time: int) -> None:
        random = self._random
        product = random.choice(advertiser.trade.products)
        event: dict[str, Any] = {
            "event_type": "ad",
            "ad_id": ad_id,
            "advertiser_id": advertiser.advertiser_id,
            "ad_title": _title(random, product),
            "ad_format": random.choice(FORMATS),
            "product_link": f"https://www.{advertiser.slug}.example/{product.replace(' ', '-')}?ad={ad_id}",
            "is_active": True,
            "updated_at": self._time(time),
        }
        self._deliver(time + SECOND, REFERENCE, advertiser.key, _json(event))
        if random.random() < 0.06:
            changed = random.randrange(17 * HOUR, 22 * HOUR)
            event |= {"ad_title": _title(random, product), "updated_at": self._time(changed)}
            event["is_active"] = random.random() < 0.7
            self._deliver(changed + SECOND, REFERENCE, advertiser.key, _json(event))

    # Messages that are no events

    def _plan_malformed(self) -> None:
        random = self._random
        minutes = RHYTHMS[LEISURE]
        for place in range(max(len(MALFORMED), self._count // CLICKS_PER_MALFORMED)):
            advertiser = random.choice(self._market)
            time = random.choices(range(24 * 60), cum_weights=minutes)[0] * MINUTE + random.randrange(MINUTE)
            event = {
                "event_type": "click",
                "click_id": self._id(next(self._extra_ids)),
                "advertiser_id": advertiser.advertiser_id,
                "ad_id": advertiser.ad_ids[0],
                "click_time": self._time(time),
                "amount": _money(int(advertiser.price)),
            }
            spoil = MALFORMED[place % len(MALFORMED)]
            self._deliver(time + 80, CLICKS, advertiser.key, spoil(event))

    # Spelling

    def _time(self, milliseconds: int) -> str:
        day = self._day
        if milliseconds < 0:
            day, milliseconds = self._evening, milliseconds + DAY
        minutes, rest = divmod(milliseconds, MINUTE)
        return f"{day}T{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}Z"

    def _id(self, number: int) -> str:
        """The `number`-th UUID of the day: a mix that maps numbers one to one, so that none comes twice."""
        mixed = (number * 0x9E3779B97F4A7C15F39CC0605CEDC835 + self._salt) & _MASK
        mixed ^= mixed >> 67
        mixed = mixed * 0xD6E8FEB86659FD93A3B195354A39B70D & _MASK
        mixed ^= mixed >> 61
        text = f"{mixed:032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


_MASK = 2**128 - 1


def _market(random: Random, count: int) -> list[_Advertiser]:
    """The advertisers, the biggest first."""
    parts = _parts(random, count)
    names = [start + end for start in NAME_STARTS for end in NAME_ENDS]
    random.shuffle(names)
    ids = random.sample(range(FIRST_ADVERTISER_ID, FIRST_ADVERTISER_ID + count), count)
    taken: set[str] = set()
    next_ad_id = FIRST_AD_ID
    market = []
    for rank, advertiser_id in enumerate(ids):
        trade = random.choice(TRADES)
        name = f"{names[rank % len(names)]} {random.choice(trade.companies)}"
        if name in taken:
            name = f"{name} {advertiser_id}"
        taken.add(name)
        ads = 1 + int(11 / (rank + 1) ** 0.5) + random.randrange(3)
        market.append(
            _Advertiser(
                advertiser_id=advertiser_id,
                name=name,
                slug=name.lower().replace(" ", "-"),
                country=random.choice(COUNTRIES),
                trade=trade,
                part=parts[rank],
                price=random.uniform(*trade.price),
                fraud_rate=random.uniform(0.01, 0.02),
                ad_ids=range(next_ad_id, next_ad_id + ads),
                number_amounts=rank >= count // 3 and random.random() < 0.05,
            )
        )
        next_ad_id += ads
    return market


def _parts(random: Random, count: int) -> list[Part]:
    """The part of each rank; every part is there once the market has some dozen advertisers."""
    parts = [Part.STEADY] * count
    small = list(range(count // 3, count))
    random.shuffle(small)
    for place, (part, share) in enumerate(PARTS):
        if place == SMALL_ONLY:
            small = [rank for rank in range(count) if parts[rank] is Part.STEADY]
            random.shuffle(small)
        for _ in range(max(1, round(share * count))):
            if len(small) > 1:
                parts[small.pop()] = part
    return parts


def _zipf(count: int) -> list[float]:
    """Cumulative weights 1, 1/2, 1/3, ..."""
    return list(itertools.accumulate(1 / rank for rank in range(1, count + 1)))


def _minute_weights(hours: Sequence[int]) -> list[float]:
    """Cumulative weights of a day's minutes."""
    return list(
        itertools.accumulate(
            hours[minute // 60] + (hours[(minute // 60 + 1) % 24] - hours[minute // 60]) * (minute % 60) / 60
            for minute in range(24 * 60)
        )
    )


RHYTHMS: dict[tuple[int, ...], list[float]] = {hours: _minute_weights(hours) for hours in (LEISURE, OFFICE, NIGHT)}


def _round_sum(units: float) -> int:
    """A sum that a person would set: two digits and zeros, at least one cent."""
    step = 100
    while step * 100 <= units:
        step *= 10
    return max(round(units / step) * step, 100)


def _money(units: int) -> str:
    return f"{units // UNIT}.{units % UNIT:04d}"


def _title(random: Random, product: str) -> str:
    title = random.choice(HOOKS).format(product)
    return title[0].upper() + title[1:]


def _json(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


def _without(name: str) -> Callable[[dict[str, Any]], bytes]:
    return lambda event: _json({key: value for key, value in event.items() if key != name})


def _with(**changes: object) -> Callable[[dict[str, Any]], bytes]:
    return lambda event: _json(event | changes)


# What goes wrong with messages; each is there at least once, and the next begins when all have been.
MALFORMED: tuple[Callable[[dict[str, Any]], bytes], ...] = (
    lambda event: _json(event)[:97],  # cut off on the way
    _without("amount"),
    _with(ad_id=0),
    _with(click_time=NONSENSE_CLOCK),
    _with(event_type="impression"),
    lambda event: _json(event | {"advertiser_id": str(event["advertiser_id"])}),
    _with(click_time=UNSET_CLOCK),
    lambda _: b"\x00\x00\x00\x00\x07\x02H3f8a",  # another team's binary format
    _with(click_id=None),
    lambda event: _json(event | {"click_time": event["click_time"].removesuffix("Z")}),
    _with(amount="-0.2500"),
    lambda _: b"ping",
    _without("event_type"),
    _with(amount="0,35"),
    _with(amount="NaN"),
)

"""Small, nasty worlds for property-based tests: a few advertisers, a few days, everything that goes wrong.

    @given(worlds(now))
    def test_something(world: World) -> None:
        for run in world.runs:
            ...publish run.bodies in this order, run the pipeline, decide at run.as_of

A world's rows don't depend on how its bodies are cut into runs, nor on the order in which partitions are
read, as long as the arrivals of one advertiser (`key_of`) keep their order. That takes some care here:

- of two versions of one key that conflict, both belong to one advertiser, and so do all other versions;
- but for conflicts, no two versions of one key have the same updated_at.

With `conflicts=False` the order of arrival doesn't matter at all.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Event = dict[str, Any]

# Machines that do other things besides are slow now and then; that says nothing about the code under test.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

MILLISECOND = timedelta(milliseconds=1)

# The greatest id, too; the fifth is never announced, whatever the world.
ADVERTISER_IDS = (1, 2, 77, 2**31 - 1, 4040)
# Clicked under every advertiser: its inferred row takes the smallest of those that clicked it.
SHARED_AD = 5
STREAMS = {"click": "ad-clicks", "budget": "ad-budgets", "advertiser": "ad-reference", "ad": "ad-reference"}


@dataclass(frozen=True)
class Run:
    """What arrives before one run, and the instant at which that run decides the flags."""

    bodies: tuple[bytes, ...]
    as_of: datetime


@dataclass(frozen=True)
class World:
    """Runs in order. No body is empty, or blank, or has a line end in it: one a line makes a file."""

    runs: tuple[Run, ...]

    @property
    def bodies(self) -> tuple[bytes, ...]:
        """All arrivals in order."""
        return tuple(body for run in self.runs for body in run.bodies)


def stream_of(body: bytes) -> str:
    """The stream a producer would send `body` to; what can't be read goes where clicks go."""
    return STREAMS.get(str(_loosely(body).get("event_type")), "ad-clicks")


def key_of(body: bytes) -> bytes | None:
    """The message key a producer would give `body`: its advertiser, None if it has none."""
    advertiser_id = _loosely(body).get("advertiser_id")
    return None if advertiser_id is None else str(advertiser_id).encode()


def _loosely(body: bytes) -> Event:
    try:
        event = json.loads(body)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


# --- Pieces --------------------------------------------------------------------------------------------

# Times of day that windows and days turn on; floored, the fourth digit never moves one into the next hour.
TIMES_OF_DAY = (
    timedelta(0),
    timedelta(microseconds=400),
    timedelta(minutes=59, seconds=59, microseconds=999_000),
    timedelta(minutes=59, seconds=59, microseconds=999_900),
    timedelta(hours=1),
    timedelta(hours=12, minutes=30),
    timedelta(hours=22, minutes=59, seconds=59, microseconds=999_999),
    timedelta(hours=23),
    timedelta(hours=23, minutes=59, seconds=59, microseconds=999_000),
    timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999),
)
# Few and small, so that sums meet budgets exactly; some need rounding, one comes near the limit.
AMOUNTS = (
    "0",
    "0.25",
    "0.5",
    "1",
    "1.0000",
    "2.5",
    "0.00005",
    "0.00015",
    "1e0",
    "0.1e1",
    "999999999999.9999",
)
BUDGETS = ("5", "2.5", "1", "0", "0.5", "1.5", "2", "3", "8", "20", "1e6", "0.00015")
OFFSETS = (None, timedelta(0), timedelta(hours=2), -timedelta(hours=5, minutes=30), timedelta(hours=14))


def amounts(values: tuple[str, ...] = AMOUNTS) -> st.SearchStrategy[Any]:
    """Mostly texts; sometimes a JSON number that a float holds exactly."""
    return st.sampled_from(values) | st.sampled_from((0, 1, 2, 0.25, 0.5, 2.5))


@st.composite
def spelt_times(draw: st.DrawFn, instant: datetime) -> str:
    """`instant` in one of the spellings of RFC 3339."""
    offset = draw(st.sampled_from(OFFSETS))
    if offset is None:
        text = instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
    else:
        text = instant.astimezone(timezone(offset)).isoformat()
    if draw(st.integers(0, 9)) == 0:
        text = text.replace("T", "t").replace("Z", "z")
    return text


@st.composite
def spelt_bodies(draw: st.DrawFn, event: Event) -> bytes:
    """`event` with its times (datetimes) spelt and its fields in some order, as UTF-8 JSON."""
    items = [
        (name, draw(spelt_times(value)) if isinstance(value, datetime) else value) for name, value in event.items()
    ]
    style = draw(st.integers(0, 4))
    if style == 1:
        items.reverse()
    if style == 2:
        items.append(("trace", {"advertiser_id": 999, "hop": [1, None, "\u00e9"]}))
    if style == 3:
        items.insert(0, ("event_type", "superseded by the later key"))
        return b"{" + b",".join(f"{json.dumps(k)}:{json.dumps(v)}".encode() for k, v in items) + b"}"
    spaced = style == 4
    text = json.dumps(dict(items), ensure_ascii=spaced, separators=(" , ", " : ") if spaced else (",", ":"))
    return text.encode("utf-8", "surrogatepass")  # a lone surrogate spelt out isn't UTF-8: not_json


@dataclass(frozen=True)
class Scene:
    """What all strategies of one world share."""

    now: datetime
    days: tuple[datetime, ...]
    advertisers: tuple[int, ...]

    def instants(self) -> st.SearchStrategy[datetime]:
        """Instants on the world's days, none later than now."""
        every = [day + time for day in self.days for time in TIMES_OF_DAY]
        return st.sampled_from([instant for instant in every if instant <= self.now])

    def update_times(self) -> st.SearchStrategy[datetime]:
        """Times of update: any instant of the world, or one long before it."""
        return self.instants() | st.sampled_from([self.days[0] - timedelta(days=n) for n in (1, 40, 4000)])

    def ads_of(self, advertiser_id: int) -> st.SearchStrategy[int]:
        """The ads that are clicked under this advertiser, and under no other."""
        place = ADVERTISER_IDS.index(advertiser_id)
        return st.sampled_from((10 * place + 1, 10 * place + 2))

    def clicked_ads(self, advertiser_id: int) -> st.SearchStrategy[int]:
        """The ads that are clicked under this advertiser, one of them under others too."""
        return self.ads_of(advertiser_id) | st.just(SHARED_AD)


@st.composite
def scenes(draw: st.DrawFn, now: datetime) -> Scene:
    """One to three days in a row that end today or some days ago, and one to four advertisers."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    last = today - timedelta(days=draw(st.sampled_from((0, 1, 1, 1, 2, 20))))
    count = draw(st.integers(1, 3))
    days = tuple(last - timedelta(days=back) for back in reversed(range(count)))
    advertisers = draw(st.lists(st.sampled_from(ADVERTISER_IDS), min_size=1, max_size=4, unique=True))
    return Scene(now.astimezone(UTC), days, tuple(advertisers))


# --- Versions of one key -------------------------------------------------------------------------------


@st.composite
def clicks(draw: st.DrawFn, scene: Scene, number: int) -> Event:
    """One version of click `number`."""
    advertiser_id = draw(st.sampled_from(scene.advertisers))
    event = {
        "event_type": "click",
        "click_id": _uuid("c", number, upper=draw(st.booleans())),
        "advertiser_id": advertiser_id,
        "ad_id": draw(scene.clicked_ads(advertiser_id)),
        "click_time": draw(scene.instants()),
        "amount": draw(amounts()),
    }
    return event | draw(
        st.fixed_dictionaries(
            {},
            optional={"is_valid": st.sampled_from((True, False, None)), "updated_at": scene.update_times()},
        )
    )


@st.composite
def budgets(draw: st.DrawFn, scene: Scene, number: int) -> Event:
    """One version of budget event `number`."""
    event = {
        "event_type": "budget",
        "event_id": _uuid("b", number, upper=draw(st.booleans())),
        "advertiser_id": draw(st.sampled_from(scene.advertisers)),
        "new_budget_value": draw(amounts(BUDGETS)),
        "event_time": draw(scene.instants()),
    }
    return event | draw(
        st.fixed_dictionaries(
            {},
            optional={"source": st.sampled_from(("ui", "api", "", None)), "updated_at": scene.update_times()},
        )
    )


@st.composite
def advertisers(draw: st.DrawFn, scene: Scene, advertiser_id: int) -> Event:
    """One version of an advertiser."""
    event = {
        "event_type": "advertiser",
        "advertiser_id": advertiser_id,
        "name": draw(st.sampled_from(("Norvale", "NORVALE", "Br\u00eel & s\u00f8n's", "a" * 200, " "))),
        "updated_at": draw(scene.update_times()),
    }
    return event | draw(
        st.fixed_dictionaries(
            {},
            optional={
                "industry": st.sampled_from(("travel", "", None)),
                "country": st.sampled_from(("NL", "US", None)),
                "is_active": st.sampled_from((True, True, False, None)),
            },
        )
    )


@st.composite
def ads(draw: st.DrawFn, scene: Scene, ad_id: int) -> Event:
    """One version of an ad; it may belong to another advertiser than the one it is clicked under."""
    event = {
        "event_type": "ad",
        "ad_id": ad_id,
        "advertiser_id": draw(st.sampled_from(scene.advertisers)),
        "ad_title": draw(st.sampled_from(("Boots", "boots", "\u30d6\u30fc\u30c4 \U0001f45f"))),
        "updated_at": draw(scene.update_times()),
    }
    return event | draw(
        st.fixed_dictionaries(
            {},
            optional={
                "ad_format": st.sampled_from(("banner", "", None)),
                "product_link": st.sampled_from(("https://norvale.example/boots?x=1", "http://n.example", None)),
                "is_active": st.sampled_from((True, False)),
            },
        )
    )


def _uuid(kind: str, number: int, *, upper: bool) -> str:
    text = f"{kind * 8}-0000-4000-8000-{number:012}"
    return text.upper() if upper else text


def _version(event: Event) -> datetime:
    instant: datetime = event.get("updated_at") or event.get("click_time") or event["event_time"]
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


# A change to each type that makes other content of the same advertiser, whatever was there before.
CONFLICTS: dict[str, Event] = {
    "click": {"amount": "3.1415"},
    "budget": {"source": "conflict"},
    "advertiser": {"name": "Conflict"},
    "ad": {"ad_title": "Conflict"},
}


@st.composite
def histories(
    draw: st.DrawFn, version: st.SearchStrategy[Event], *, least: int = 0, conflicts: bool = True
) -> list[bytes]:
    """Bodies of one key: versions, copies of some of them, and now and then a conflict."""
    versions = draw(st.lists(version, min_size=least, max_size=3, unique_by=_version))
    if conflicts and versions and draw(st.integers(0, 15)) == 0:
        owner = {"advertiser_id": versions[0]["advertiser_id"]}
        if "click_id" in versions[0]:
            owner["ad_id"] = versions[0]["ad_id"]
        versions = [one | owner for one in versions]
        at = draw(st.sampled_from(versions))
        versions.append(at | {"updated_at": _version(at)} | CONFLICTS[at["event_type"]])
    copies = draw(st.lists(st.sampled_from(versions), max_size=2)) if versions else []
    return [draw(spelt_bodies(one)) for one in versions + copies]


# --- Bodies that are no events ---------------------------------------------------------------------------

NOT_JSON = (
    b"{",
    b"null",
    b"[]",
    b'"click"',
    b"17",
    b"NaN",
    b"\xff\xfe{}",
    b"\x00",
    b"\xef\xbb\xbf{}",
    b'{"event_type":"click","amount":NaN}',
    b'{"event_type":"click",}',
    b"{'event_type':'click'}",
    b'{"event_type":"click"} {}',
    b'{"event_type":"\xed\xa0\x80"}',
)
NO_TYPE = (
    b"{}",
    b'{"event_type":null}',
    b'{"event_type":1}',
    b'{"event_type":"Click"}',
    b'{"event_type":""}',
    b'{"event_type":"\\ud800"}',
    b'{"event_type":"impression","advertiser_id":1}',
)
BAD_IDS: tuple[Any, ...] = (None, "1", True, 1.0, 1.5, 0, -1, 2**31, 10**40, [1], {})
BAD_UUIDS = (
    None,
    1,
    "",
    "cccccccc",
    "{cccccccc-0000-4000-8000-000000000001}",
    "cccccccc000040008000000000000001",
)
BAD_AMOUNTS: tuple[Any, ...] = (
    None,
    True,
    "",
    " 1",
    "+1",
    "1_0",
    "0x1",
    "1,5",
    ".5",
    "5.",
    "NaN",
    "Infinity",
    "-Infinity",
    "-1",
    -0.5,
    "-0.00001",
    "1e12",
    10**12,
    "999999999999.99995",
    "1e999999999",
    [],
)
BAD_TIMES = (
    None,
    1_700_000_000,
    "",
    "yesterday",
    "2026-11-21",
    "2026-11-21T08:00:00",
    "2026-11-21 08:00:00Z",
    "2026-02-30T08:00:00Z",
    "2026-11-21T08:00:60Z",
    "2026-11-21T24:00:00Z",
    "2026-11-21T08:00:00+0100",
)
BAD_BOOLS: tuple[Any, ...] = (0, 1, "true", [])
BAD_TEXTS: tuple[Any, ...] = (7, True, [], "a\0b", "\ud800")
BAD_FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "click": {
        "click_id": BAD_UUIDS,
        "advertiser_id": BAD_IDS,
        "ad_id": BAD_IDS,
        "click_time": BAD_TIMES,
        "amount": BAD_AMOUNTS,
        "is_valid": BAD_BOOLS,
        "updated_at": BAD_TIMES[1:],
    },
    "budget": {
        "event_id": BAD_UUIDS,
        "advertiser_id": BAD_IDS,
        "new_budget_value": BAD_AMOUNTS,
        "event_time": BAD_TIMES,
        "source": (*BAD_TEXTS, "s" * 101),
        "updated_at": BAD_TIMES[1:],
    },
    "advertiser": {
        "advertiser_id": BAD_IDS,
        "name": (*BAD_TEXTS, None, "", "n" * 201),
        "industry": (*BAD_TEXTS, "i" * 101),
        "country": (*BAD_TEXTS, "", "nl", "NLD", "N1"),
        "is_active": BAD_BOOLS,
        "updated_at": BAD_TIMES,
    },
    "ad": {
        "ad_id": BAD_IDS,
        "advertiser_id": BAD_IDS,
        "ad_title": (*BAD_TEXTS, None, "", "t" * 301),
        "ad_format": (*BAD_TEXTS, "f" * 51),
        "product_link": (*BAD_TEXTS, "", "ftp://n.example", "n.example", "https://n.example/" + "x" * 2000),
        "is_active": BAD_BOOLS,
        "updated_at": BAD_TIMES,
    },
}
# Keys of bad events: were one taken for good, it would show.
STRAY = 9_999


@st.composite
def bad_events(draw: st.DrawFn, scene: Scene) -> bytes:
    """A good event but for one or two fields that are left out or bad, or a time that is far off."""
    makers: dict[str, Callable[[], st.SearchStrategy[Event]]] = {
        "click": lambda: clicks(scene, STRAY),
        "budget": lambda: budgets(scene, STRAY),
        "advertiser": lambda: advertisers(scene, STRAY),
        "ad": lambda: ads(scene, STRAY),
    }
    event_type = draw(st.sampled_from(sorted(makers)))
    event = draw(makers[event_type]())
    wrong_time = draw(st.integers(0, 2)) == 0
    if wrong_time:
        event |= draw(_wrong_times(scene, event_type))
    bad = BAD_FIELDS[event_type]
    names = st.lists(st.sampled_from(sorted(bad)), min_size=0 if wrong_time else 1, max_size=2, unique=True)
    for name in draw(names):
        value = draw(st.sampled_from(bad[name]))
        if value is None and draw(st.booleans()):
            event.pop(name, None)
        else:
            event[name] = value
    return draw(spelt_bodies(event))


def _wrong_times(scene: Scene, event_type: str) -> st.SearchStrategy[Event]:
    # Far from the limits: the broker's clock isn't the test's.
    future = (scene.now + timedelta(hours=1), scene.now + timedelta(days=400))
    if event_type == "click":
        past = (scene.now - timedelta(days=32), scene.now - timedelta(days=4000))
        return st.fixed_dictionaries({"click_time": st.sampled_from(past + future)})
    return st.fixed_dictionaries({"updated_at": st.sampled_from(future)})


def garbage() -> st.SearchStrategy[bytes]:
    """Bytes without a line end that start like anything; never blank."""
    return st.binary(min_size=1, max_size=20).filter(
        lambda body: body.strip() != b"" and b"\n" not in body and b"\r" not in body
    )


def malformed(scene: Scene) -> st.SearchStrategy[bytes]:
    """Bodies that are rejected for what they are, whatever else there is."""
    return st.one_of(
        st.sampled_from(NOT_JSON), st.sampled_from(NO_TYPE), garbage(), bad_events(scene), bad_events(scene)
    )


# --- Worlds --------------------------------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn, now: datetime, *, conflicts: bool = True, bad: bool = True, most_runs: int = 3) -> World:
    """A world whose events were all enqueued at about `now` (aware), and lie within lateness of 31 days.

    Args:
        now: no good event is later than this.
        conflicts: also equal versions with other content, rejected by their order of arrival.
        bad: also bodies that are rejected for what they are.
        most_runs: the arrivals are cut into one to this many runs, which can be empty.
    """
    scene = draw(scenes(now))
    bodies: list[bytes] = []
    for number in range(draw(st.integers(1, 8))):
        bodies += draw(histories(clicks(scene, number), least=1, conflicts=conflicts))
    for number in range(draw(st.sampled_from((2, 3, 4, 6, 1, 0)))):
        bodies += draw(histories(budgets(scene, number), least=1, conflicts=conflicts))
    for advertiser_id in scene.advertisers:
        if advertiser_id != ADVERTISER_IDS[-1]:
            known = draw(st.integers(0, 4)) > 0
            bodies += draw(histories(advertisers(scene, advertiser_id), least=int(known), conflicts=conflicts))
        if draw(st.booleans()):
            ad_id = draw(scene.ads_of(advertiser_id))
            bodies += draw(histories(ads(scene, ad_id), conflicts=conflicts))
    if draw(st.integers(0, 3)) == 0:
        bodies += draw(histories(ads(scene, SHARED_AD), conflicts=conflicts))
    if bad:
        bodies += draw(st.lists(malformed(scene), min_size=draw(st.integers(0, 4)), max_size=6))
    order = draw(st.permutations(bodies))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=most_runs - 1)))
    edges = [0, *cuts, len(order)]
    # Mostly when a day is nearly over: then there is something to decide about.
    decisions = scene.instants() | st.sampled_from([day + timedelta(hours=23.5) for day in scene.days])
    return World(
        tuple(
            Run(tuple(order[start:end]), draw(decisions).replace(microsecond=0) + 500 * MILLISECOND)
            for start, end in itertools.pairwise(edges)
        )
    )

"""The sample day, judged by the model."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta

import pytest
from tests.model import REASONS, Click, Model, RejectedError, read_event

from spendgate.errors import ConfigurationError
from spendgate.local.sample import NONSENSE_CLOCK, UNSET_CLOCK, SampleEvent, sample_events

DAY = date(2026, 11, 21)
EVENING = datetime(2026, 11, 21, 21, 0, tzinfo=UTC)
NEXT_DAY = datetime(2026, 11, 22, 0, 0, 1, tzinfo=UTC)
CLICKS = 30_000


def judged(events: list[SampleEvent]) -> Model:
    model = Model()
    model.feed((event.payload, NEXT_DAY) for event in events)
    model.decide(EVENING)
    return model


@pytest.fixture(scope="module")
def events() -> list[SampleEvent]:
    return list(sample_events(clicks=CLICKS, day=DAY))


@pytest.fixture(scope="module")
def model(events: list[SampleEvent]) -> Model:
    return judged(events)


def test_the_same_seed_gives_the_same_day() -> None:
    assert list(sample_events(clicks=500, day=DAY)) == list(sample_events(clicks=500, day=DAY))
    assert list(sample_events(clicks=500, day=DAY)) != list(sample_events(clicks=500, day=DAY, seed=8))


def test_another_day_has_the_same_numbers_at_the_same_hours_under_other_ids() -> None:
    uuid = re.compile(rb'"[0-9a-f]{8}-[0-9a-f-]{27}"?')

    def told_apart(day: date) -> tuple[list[SampleEvent], set[bytes]]:
        days = {str(day).encode(): b"TODAY", str(day - timedelta(days=1)).encode(): b"YESTERDAY"}
        plain, ids = [], set()
        for stream, key, payload in sample_events(clicks=2_000, day=day):
            ids.update(one.rstrip(b'"') for one in uuid.findall(payload))
            text = uuid.sub(b"ID", payload)
            for text_of_day, name in days.items():
                text = text.replace(text_of_day, name)
            plain.append(SampleEvent(stream, key, text))
        return plain, ids

    first, first_ids = told_apart(DAY)
    second, second_ids = told_apart(date(2024, 3, 1))
    assert first == second
    assert len(first_ids) > 2_000
    assert first_ids.isdisjoint(second_ids)


@pytest.mark.parametrize(("clicks", "advertisers"), [(1, 1), (100, 3), (1_000, None), (2_000, 700)])
def test_the_size_is_the_one_asked_for(clicks: int, advertisers: int | None) -> None:
    events = list(sample_events(clicks=clicks, advertisers=advertisers, day=DAY))
    assert len(judged(events).clicks) == clicks
    if advertisers is not None:
        assert len(judged(events).advertisers) <= advertisers


@pytest.mark.parametrize("sizes", [{"clicks": 0}, {"clicks": 10, "advertisers": 0}])
def test_a_day_without_anybody_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        sample_events(day=DAY, **sizes)


@pytest.mark.parametrize("clicks", [50, 1_000, 5_000])
def test_every_rejection_reason_is_there_at_any_size(clicks: int) -> None:
    counts = judged(list(sample_events(clicks=clicks, day=DAY))).rejection_counts()
    assert set(counts) == set(REASONS)


def test_a_thousandth_of_the_messages_is_malformed(model: Model) -> None:
    counts = model.rejection_counts()
    conflicts = counts.pop("conflicting_duplicate")
    assert 0.0008 <= sum(counts.values()) / CLICKS <= 0.0012
    assert 1 <= conflicts <= 5


def test_fraud_late_deliveries_and_duplicates_have_their_shares(events: list[SampleEvent], model: Model) -> None:
    bodies = Counter(event.payload for event in events if event.stream == "ad-clicks")
    assert 0.008 <= sum(count - 1 for count in bodies.values()) / CLICKS <= 0.012

    verdicts = sum(not click.is_valid for click in model.clicks.values())
    assert 0.01 <= verdicts / CLICKS <= 0.02
    corrected = sum(click.is_valid and click.updated_at > click.click_time for click in model.clicks.values())
    assert 0.002 <= corrected / CLICKS <= 0.004

    late = 0
    newest = datetime.min.replace(tzinfo=UTC)
    for event in events:
        click = _click(event)
        if click is None or click.updated_at > click.click_time or bodies[event.payload] > 1:
            continue
        newest = max(newest, click.click_time)
        late += newest - click.click_time > timedelta(minutes=15)
    assert 0.003 <= late / CLICKS <= 0.007


def _click(event: SampleEvent) -> Click | None:
    try:
        read = read_event(event.payload, NEXT_DAY)
    except RejectedError:
        return None
    return read if isinstance(read, Click) else None


def test_by_the_evening_about_a_quarter_of_the_advertisers_is_exhausted(model: Model) -> None:
    reasons = Counter(decided.flag.reason for decided in model.flags.values())
    assert set(reasons) == {"ok", "exhausted", "inactive", "no_budget"}
    assert 0.2 <= reasons["exhausted"] / len(model.flags) <= 0.3
    assert reasons["no_budget"] / len(model.flags) <= 0.1
    assert reasons["inactive"] / len(model.flags) <= 0.12


@pytest.mark.parametrize("seed", range(1, 6))
def test_other_seeds_give_days_of_the_same_kind(seed: int) -> None:
    model = judged(list(sample_events(clicks=5_000, seed=seed, advertisers=60, day=DAY)))
    reasons = Counter(decided.flag.reason for decided in model.flags.values())
    assert 0.18 <= reasons["exhausted"] / len(model.flags) <= 0.32
    assert set(model.rejection_counts()) == set(REASONS)


def test_budgets_are_raised_and_lowered_during_the_day(model: Model) -> None:
    settings = defaultdict(list)
    for budget in sorted(model.budgets.values(), key=lambda budget: budget.event_time):
        settings[budget.advertiser_id].append(budget.new_budget_value)
    raised = [advertiser for advertiser, values in settings.items() if values[-1] > values[0]]
    lowered = [advertiser for advertiser, values in settings.items() if values[-1] < values[0]]
    assert raised
    assert lowered
    assert any(model.flags[advertiser].flag.reason == "ok" for advertiser in raised)
    assert any(model.flags[advertiser].flag.reason == "exhausted" for advertiser in lowered)


def test_some_spend_is_over_its_budget_and_some_of_that_is_billed_later(model: Model) -> None:
    rows = model.summaries()
    days = [row for (_, grain, _), row in rows.items() if grain == "day"]
    gross, net = sum(row.gross_spend for row in days), sum(row.net_spend for row in days)
    assert 0.7 < float(net / gross) < 0.98
    assert any(row.net_spend > row.gross_spend for (_, grain, _), row in rows.items() if grain == "hour")


def test_some_advertisers_and_ads_are_announced_late_or_never(events: list[SampleEvent], model: Model) -> None:
    assert any(advertiser.is_inferred for advertiser in model.advertisers.values())
    assert any(ad.is_inferred for ad in model.ads.values())
    by_noon = Model()
    by_noon.feed((event.payload, NEXT_DAY) for event in events[: len(events) // 3])
    filled_in = [
        advertiser_id
        for advertiser_id, advertiser in by_noon.advertisers.items()
        if advertiser.is_inferred and not model.advertisers[advertiser_id].is_inferred
    ]
    assert filled_in


def test_a_few_advertisers_are_big_and_many_are_small(model: Model) -> None:
    clicks = sorted(Counter(click.advertiser_id for click in model.clicks.values()).values(), reverse=True)
    assert sum(clicks[: len(clicks) // 10]) > 0.35 * CLICKS
    assert clicks[0] > 30 * clicks[-1]


def test_clicks_follow_the_hours_of_the_day(model: Model) -> None:
    hours = Counter(click.click_time.hour for click in model.clicks.values())
    assert len(hours) == 24
    assert hours[13] > 3 * hours[3]


def test_every_time_lies_on_the_day_or_for_what_was_set_up_before_on_the_evening_before(
    events: list[SampleEvent],
) -> None:
    for event in events:
        for time in re.findall(rb'"(\d{4}-\d\d-\d\dT[^"]+)"', event.payload):
            if time.decode() in (UNSET_CLOCK, NONSENSE_CLOCK):
                continue
            before = event.stream != "ad-clicks" and time >= b"2026-11-20T16"
            assert time.startswith(b"2026-11-21T") or before


def test_every_message_goes_to_the_stream_of_its_type_under_its_advertiser_and_fits_a_line(
    events: list[SampleEvent],
) -> None:
    streams = {"budget": "ad-budgets", "advertiser": "ad-reference", "ad": "ad-reference"}
    for event in events:
        assert event.payload
        assert b"\n" not in event.payload
        try:
            body = json.loads(event.payload)
        except ValueError:
            assert event.stream == "ad-clicks"
            continue
        assert event.key == str(body["advertiser_id"]).encode()
        assert event.stream == streams.get(body.get("event_type"), "ad-clicks")


def test_names_of_advertisers_are_told_apart(model: Model) -> None:
    names = [advertiser.name for advertiser in model.advertisers.values() if advertiser.name]
    assert len(set(names)) == len(names)

"""What is expected of a batch: each expectation declared once, its threshold in quality.yaml.

Two judges read this: the gate (`spendgate.quality.verdict`), in milliseconds and on the way to the flags, and Great
Expectations (`spendgate.quality.documents`), which documents what the gate did and contradicts it where it is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spendgate.errors import ConfigurationError


class Severity(StrEnum):
    """What it means that a batch doesn't meet an expectation."""

    WARN = "warn"  # it passes, and the log tells
    HOLD = "hold"  # it waits for a person
    IGNORE = "ignore"  # nobody asks


class Unit(StrEnum):
    """How a measure is written for people."""

    SHARE = "share"
    RATIO = "ratio"
    MONEY = "money"


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation: `measure` of etl.BatchProfile lies within its thresholds.

    `counted` is the column that says how many rows the measure is of; `says` the sentence about a batch that doesn't
    meet it, with {observed}, {bound} and columns of the profile in it; `means` what it is for, for docs and Data Docs.
    """

    name: str
    measure: str
    counted: str
    unit: Unit
    says: str
    means: str


EXPECTATIONS: tuple[Expectation, ...] = (
    Expectation(
        "few_events_are_rejected",
        "rejected_share",
        "event_count",
        Unit.SHARE,
        "{observed} of its {event_count:,} events were rejected, most of them as {top_reason}; {bound} is expected",
        "A producer that sends something else than before has most of its events rejected.",
    ),
    Expectation(
        "volume_is_as_at_this_hour",
        "volume_ratio",
        "hour_click_count",
        Unit.RATIO,
        "with it the hour of {volume_hour} has {hour_click_count:,} clicks, {observed} what is usual at that hour; "
        "{bound} is expected",
        "Clicks of an hour, all batches of its partition together, against the same hour of up to 7 earlier days: "
        "bots, and producers that send everything again under new ids.",
    ),
    Expectation(
        "clicks_cost_what_their_advertisers_pay",
        "cost_ratio",
        "compared_click_count",
        Unit.RATIO,
        "its clicks cost {observed} what their advertisers paid for a click in the last 7 days; {bound} is expected",
        "Mean cost per click, advertiser by advertiser, against the last 7 days: another currency, or cents for euros.",
    ),
    Expectation(
        "few_advertisers_pay_oddly",
        "odd_cost_share",
        "compared_click_count",
        Unit.SHARE,
        "{observed} of its clicks are of advertisers whose mean cost per click is 5 times the usual, or a fifth of it; "
        "{bound} is expected",
        "The same for some advertisers among many, whose weight doesn't change the whole.",
    ),
    Expectation(
        "median_amount_is_as_last_week",
        "median_ratio",
        "click_count",
        Unit.RATIO,
        "half of its clicks cost {amount_median} or less, {observed} what is usual; {bound} is expected",
        "The median amount against that of the stream's batches of the last 7 days.",
    ),
    Expectation(
        "highest_amounts_are_as_last_week",
        "p95_ratio",
        "click_count",
        Unit.RATIO,
        "one click in twenty costs {amount_p95} or more, {observed} what is usual; {bound} is expected",
        "The 95th percentile of amounts against that of the stream's batches of the last 7 days.",
    ),
    Expectation(
        "no_amount_is_out_of_range",
        "amount_max",
        "click_count",
        Unit.MONEY,
        "its dearest click costs {observed}; {bound} is expected",
        "No click costs as much as that.",
    ),
    Expectation(
        "few_clicks_cost_nothing",
        "zero_share",
        "click_count",
        Unit.SHARE,
        "{observed} of its {click_count:,} clicks cost nothing; {bound} is expected",
        "A producer that lost its prices sends zeros.",
    ),
    Expectation(
        "no_advertiser_takes_over",
        "sudden_share",
        "click_count",
        Unit.SHARE,
        "advertiser {top_advertiser_id} has {top_share_percent} of its {click_count:,} clicks, {observed} more than "
        "its share of the last 7 days; {bound} is expected",
        "The biggest advertiser's share of the clicks, less what its share of the last 7 days was: click fraud.",
    ),
    Expectation(
        "advertisers_are_known",
        "unknown_share",
        "click_count",
        Unit.SHARE,
        "{observed} of its {click_count:,} clicks are of advertisers that nobody announced; {bound} is expected",
        "Clicks of advertisers that neither ads nor staging knows. Early facts are kept all the same.",
    ),
    Expectation(
        "few_clicks_are_late",
        "late_share",
        "click_count",
        Unit.SHARE,
        "{observed} of its {click_count:,} clicks are more than three days older than the batch; {bound} is expected",
        "A producer that catches up, or sends old days again.",
    ),
    Expectation(
        "few_clicks_are_duplicates",
        "duplicate_share",
        "sampled_click_count",
        Unit.SHARE,
        "{observed} of {sampled_click_count:,} clicks looked at are there already; {bound} is expected",
        "Clicks that came before, word for word, among the first 1,000 events. They change nothing.",
    ),
    Expectation(
        "few_clicks_are_invalid",
        "invalid_share",
        "click_count",
        Unit.SHARE,
        "{observed} of its {click_count:,} clicks are invalid; {bound} is expected",
        "A fraud detector gone wild, or fraud.",
    ),
    Expectation(
        "budgets_follow_the_ones_before",
        "budget_ratio",
        "compared_budget_count",
        Unit.RATIO,
        "its budgets are {observed} the ones that they follow; {bound} is expected",
        "New budgets against the advertisers' budgets before: another currency.",
    ),
    Expectation(
        "no_budget_is_out_of_range",
        "budget_max",
        "budget_count",
        Unit.MONEY,
        "its greatest budget is {observed}; {bound} is expected",
        "No daily budget is as high as that.",
    ),
    Expectation(
        "budgets_say_who_set_them",
        "unnamed_budget_share",
        "budget_count",
        Unit.SHARE,
        "{observed} of its {budget_count:,} budgets don't say who set them; {bound} is expected",
        "Budget events without a source.",
    ),
    Expectation(
        "advertisers_are_complete",
        "advertiser_null_share",
        "advertiser_count",
        Unit.SHARE,
        "{observed} of the optional fields of its {advertiser_count:,} advertisers are missing; {bound} is expected",
        "Advertisers without industry or country.",
    ),
    Expectation(
        "ads_are_complete",
        "ad_null_share",
        "ad_count",
        Unit.SHARE,
        "{observed} of the optional fields of its {ad_count:,} ads are missing; {bound} is expected",
        "Ads without format or link.",
    ),
)
NAMES = tuple(expectation.name for expectation in EXPECTATIONS)


class Threshold(BaseModel):
    """How far a measure may go; a batch with fewer than `from` of what is counted isn't judged by it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    severity: Severity
    at_least: float | None = Field(None, ge=0, le=1e12, allow_inf_nan=False)
    at_most: float | None = Field(None, ge=0, le=1e12, allow_inf_nan=False)
    count: int = Field(1, alias="from", ge=1, le=2**31 - 1)

    @model_validator(mode="after")
    def _bounded(self) -> Threshold:
        if self.at_least is None and self.at_most is None:
            raise ValueError("say at_most, at_least or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is above at_most")
        return self


class _Named(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    expectations: dict[str, dict[str, Any]]
    streams: dict[str, dict[str, dict[str, Any]]] = {}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of every stream, and their digest, by which two readings of the file are told apart."""

    everywhere: Mapping[str, Threshold]
    streams: Mapping[str, Mapping[str, Threshold]]
    digest: str

    def of(self, stream: str) -> Mapping[str, Threshold]:
        """Thresholds by the name of their expectation, as they hold for a stream."""
        return self.streams.get(stream, self.everywhere)

    def least(self) -> dict[str, int]:
        """The fewest of each count that an expectation takes, in any stream."""
        fewest: dict[str, int] = {}
        for thresholds in (self.everywhere, *self.streams.values()):
            for expectation in EXPECTATIONS:
                threshold = thresholds[expectation.name]
                if threshold.severity is not Severity.IGNORE:
                    counted = "click_count" if "click" in expectation.counted else expectation.counted
                    fewest[counted] = min(fewest.get(counted, threshold.count), threshold.count)
        return fewest


def load_thresholds(path: Path) -> Thresholds:
    """Read quality.yaml.

    Raises:
        ConfigurationError: it isn't there, is no YAML, or names something that there isn't; the sentence says what.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be read ({error.strerror}): put the gate's thresholds there, or set SPENDGATE_QUALITY_FILE."
        ) from error
    try:
        named = _Named.model_validate(yaml.safe_load(content))
        everywhere = _thresholds("expectations", named.expectations, {})
        streams = {
            stream: {**everywhere, **_thresholds(f"streams, {stream}", own, named.expectations)}
            for stream, own in named.streams.items()
        }
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ", ".join(map(str, first["loc"])) or "the whole file"
        raise ConfigurationError(f"Correct {path} at {where}: {first['msg']}.") from error
    except _WrongError as error:
        raise ConfigurationError(f"Correct {path} at {error}.") from error
    if missing := [name for name in NAMES if name not in everywhere]:
        raise ConfigurationError(f"{path} lacks the expectation {missing[0]}; give it a threshold, or severity ignore.")
    return Thresholds(everywhere, streams, hashlib.sha256(content).hexdigest())


class _WrongError(Exception):
    """What is wrong in the file, and where. Never leaves this module."""


def _thresholds(
    where: str, given: Mapping[str, Mapping[str, Any]], general: Mapping[str, Mapping[str, Any]]
) -> dict[str, Threshold]:
    """Thresholds by name; what one leaves out is as the general one has it."""
    found: dict[str, Threshold] = {}
    for name, values in given.items():
        if name not in NAMES:
            raise _WrongError(f"{where}: there is no expectation {name}; there are {', '.join(NAMES)}")
        try:
            found[name] = Threshold.model_validate({**general.get(name, {}), **values})
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise _WrongError(f"{where}, {', '.join([name, *map(str, first['loc'])])}: {first['msg']}") from error
    return found
